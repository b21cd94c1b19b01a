"""A target's outputs as one function, with columns in the order of a view's classes."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdplan.data.dataset import Dataset
from kdplan.diagnostics.report import error
from kdplan.graph.build import Builder
from kdplan.graph.taps import TapError
from kdplan.ir.branches import split
from kdplan.ir.outputs import PROBABILITIES, is_output, is_scores
from kdplan.ir.plan import Plan, Target, View
from kdplan.nn.outputs import scores

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
    if is_output(path):
        return lambda x: scores(network(x))
    if path == PROBABILITIES:
        return lambda x: scores(network(x)).softmax(dim=1)
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


def class_order(plan: Plan, target: Target, view: View, cut: bool = False) -> list[int] | None:
    """Which column of the outputs each class of the view is; None where they are in order or nothing is known.

    Of a network over more classes only the scores of the view's count. With `cut`, outputs of which nothing is known
    are over all classes of the data.

    Raises
    ------
    PlanError
        KD0840 if the outputs are over other classes than the view's labels.
    """
    sets = [plan.networks[v.network].classes for v in target.versions]
    known = [s for s in sets if s is not None and s.data == view.data]
    inside = {split(plan.networks[v.network], target.path)[1] for v in target.versions}
    if not all(map(is_scores, inside)):
        return None
    if len(known) < len(sets):
        return list(view.classes.ids) if cut and view.classes is not None else None
    ids = [i for s in known for i in s.ids] if target.join == "concat" else known[0].ids
    count = len(plan.data[view.data].classes) or len(ids)
    wanted = view.classes.ids if view.classes is not None else list(range(count))
    if target.join != "concat" and any(s.ids != ids for s in known):
        raise error("KD0840", target.span, metric=target.join, reason="the networks' classes differ, or their order")
    if not {*wanted} <= {*ids} or len({*ids}) < len(ids):
        reason = f"the outputs are over {len(ids)} classes, the labels of `{view.data}` over {len(wanted)} others"
        raise error("KD0840", target.span, metric="this view", reason=reason)
    return None if ids == wanted else [ids.index(i) for i in wanted]
