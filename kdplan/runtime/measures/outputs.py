"""A target's outputs as one function, with columns in the order of a view's classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdplan.data.dataset import Dataset
from kdplan.diagnostics.report import error
from kdplan.graph.build import Builder
from kdplan.graph.taps import TapError
from kdplan.ir.outputs import PROBABILITIES, is_output
from kdplan.ir.plan import Plan, Target, View
from kdplan.nn.outputs import scores
from kdplan.nn.whose import may_write
from kdplan.passes.measurable import class_order

Outputs = Callable[[Tensor], Tensor]
"""Inputs [B, ...] -> scores [B, C], or a tap's values [B, ...]."""


def joined(
    plan: Plan,
    target: Target,
    view: View,
    networks: Sequence[nn.Module],
    data: Dataset,
    by_class: bool = True,
    cut: bool = False,
) -> Outputs:
    """The target's outputs as one function, [B, ...] -> [B, C].

    Parameters
    ----------
    plan, target, view
        The measured target and its data.
    networks : sequence of nn.Module
        One for each version of the target.
    data : Dataset
        The view's samples.
    by_class : bool
        Whether columns are put in the order of the view's classes.
    cut : bool
        Whether columns of other classes are left out.
    """
    parts = [output_at(net, target.path, data) for net in networks]
    order = class_order(plan, target, view, cut) if by_class else None

    def outputs(x: Tensor) -> Tensor:
        values = [part(x) for part in parts]
        match target.join:
            case "probabilities":
                values = values if target.path == PROBABILITIES else [v.softmax(dim=1) for v in values]
                result = torch.stack(values).mean(dim=0)
            case "logits":
                result = torch.stack(values).mean(dim=0)
            case "concat":
                result = torch.cat(values, dim=1)
            case _:
                (result,) = values
        return result if order is None else result[:, order]

    return outputs


def output_at(network: nn.Module, path: str, data: Dataset) -> Outputs:
    """A network's output, its probabilities, or an inner value by name, as a function.

    Raises
    ------
    PlanError
        KD0840 if there is no such value.
    """
    copies = may_write(network)  # others are measured on the same inputs
    if is_output(path):
        return lambda x: scores(network(x.clone() if copies else x))
    if path == PROBABILITIES:
        return lambda x: scores(network(x.clone() if copies else x)).softmax(dim=1)
    builder = Builder()
    example = data.batch(torch.arange(min(2, len(data))))["inputs"]
    inputs = builder.input("inputs", example)
    builder.network("net", network)
    try:
        value = builder.apply("net", (inputs,), path)
    except TapError as problem:
        raise error("KD0840", None, metric=path, reason=str(problem)) from problem
    graph = builder.finish({"value": value}).graph_module

    def outputs(x: Tensor) -> Tensor:
        tensor: Tensor = graph(inputs=x)["value"]
        return tensor

    return outputs
