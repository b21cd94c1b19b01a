"""A phase's graph on the smallest batches that its data leave: those of one sample stop batch norm, for example."""

from __future__ import annotations

from collections.abc import Collection

from torch import Tensor, fx

from kdplan.diagnostics.boundary import cause_of
from kdplan.diagnostics.report import Reporter, counted
from kdplan.graph.lines import NodeError
from kdplan.graph.module import outputs_of
from kdplan.graph.replay import Replay, context_for
from kdplan.graph.state import is_user_code
from kdplan.ir.plan import Phase

Part = tuple[int, ...]
"""Samples of each stream that the loss is computed on at once."""


def check_parts(phase: Phase, gm: fx.GraphModule, parts: Collection[Part], reporter: Reporter) -> None:
    """Report KD0615 where the graph does not run on one of the parts of a phase's batches.

    Whatever is not the user's own gives the same for any number of samples above one.
    """
    full = tuple(phase.recipes[0].batch_of(i) for i in range(len(phase.streams)))
    users = any(is_user_code(n.target) for n in gm.graph.nodes if n.op == "call_function") or any(
        is_user_code(type(m)) for m in gm.modules()
    )
    for part in sorted(parts):
        if part == full or not (users or min(part) <= 1):
            continue
        problem = _problem(gm, part)
        if problem:
            sizes = [f"{counted(n, 'sample')} of `{v.data}`" for n, v in zip(part, phase.streams, strict=True)]
            span = phase.recipes[0].spans.get("batch", phase.recipes[0].span)
            reporter.report("KD0615", span, phase=phase.name, part=" and ".join(sizes), problem=problem)
            return


def _problem(gm: fx.GraphModule, part: Part) -> str:
    """Why the graph does not run on so many samples of each stream; "" if it does."""
    if 0 in part:
        return "there is nothing to compute the loss on"
    context = context_for(gm)
    inputs = []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            stream = str(node.target).rpartition("_")[2]
            if isinstance(value, Tensor) and value.dim() and stream.isdigit():
                with context.mode:
                    value = context.fresh(value).new_empty((part[int(stream)], *value.shape[1:]))
            elif isinstance(value, Tensor):
                value = context.fresh(value)
            inputs.append(value)
    try:
        loss = Replay(gm, context).run(*inputs)["loss"]
    except NodeError as problem:
        return str(cause_of(problem))
    shape = outputs_of(gm)["loss"].meta["val"].shape
    return "" if loss.shape == shape else f"the loss has shape {list(loss.shape)}"
