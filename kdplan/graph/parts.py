"""A phase's graph on the smallest batches that its data leave: those of one sample stop batch norm, for example.

What is no number on them whatever the networks give, such as the deviation of one sample, is known before training.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import replace
from math import isfinite, isnan
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from kdplan.diagnostics.boundary import cause_of
from kdplan.diagnostics.report import Reporter, counted
from kdplan.graph.arguments import drawn_loss
from kdplan.graph.lines import NodeError
from kdplan.graph.module import outputs_of
from kdplan.graph.replay import Replay, context_for
from kdplan.ir.expr import STEP_COUNTERS
from kdplan.ir.lengths import part_sizes
from kdplan.ir.operators import OPERATORS
from kdplan.ir.plan import Phase, Recipe
from kdplan.nn.whose import is_user_code

Part = tuple[int, ...]
"""Samples of each stream that the loss is computed on at once."""


class _BesideOthers(TorchFunctionMode):
    """Batch norm in training as if other samples were beside those that it gets: any number of them will do."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.batch_norm and kwargs.get("training"):
            return args[0].clone()
        return func(*args, **kwargs)


def check_batches(
    phase: Phase, recipe: Recipe, gm: fx.GraphModule, sizes: Sequence[int], reporter: Reporter, ranks: int = 1
) -> None:
    """Report KD0615 where the graph does not run on one of the parts of a phase's batches.

    Parameters
    ----------
    phase
    recipe
        The phase's, with the number of shards into which its batches are cut.
    gm
    sizes
        Samples of each stream.
    reporter
    ranks
        Processes that share a batch.
    """
    parts = part_sizes(recipe, sizes)
    if recipe.shards > 1 and recipe.norm == "sync":
        check_parts(phase, gm, part_sizes(replace(recipe, shards=1), sizes), reporter)
        with _BesideOthers():
            check_parts(phase, gm, parts, reporter, shards=True)
    else:
        check_parts(phase, gm, parts, reporter, shards=phase.recipes[0].shards > 1, ranks=ranks)


def check_parts(
    phase: Phase,
    gm: fx.GraphModule,
    parts: Collection[Part],
    reporter: Reporter,
    shards: bool = False,
    ranks: int = 1,
) -> None:
    """Report KD0615 where the graph does not run on one of these parts: shards of a batch, or what `ranks` share.

    Whatever is not the user's own gives the same for any number of samples above one.
    """
    full = tuple(phase.recipes[0].batch_of(i) for i in range(len(phase.streams)))
    users = any(is_user_code(n.target) for n in gm.graph.nodes if n.op == "call_function") or any(
        is_user_code(type(m)) for m in gm.modules()
    )
    for part in sorted(parts):
        if part == full or not (users or min(part) <= 1):
            continue
        problem = _problem(phase, gm, part)
        if problem:
            sizes = [f"{counted(n, 'sample')} of `{v.data}`" for n, v in zip(part, phase.streams, strict=True)]
            recipe = phase.recipes[0]
            span = recipe.spans.get("shards" if shards else "batch", recipe.span)
            fewer = "Choose fewer shards" if shards else "Start fewer processes" if ranks > 1 else ""
            help = f"{fewer}, choose a larger `batch`, or `drop_last = true`." if fewer else None
            reporter.report("KD0615", span, phase=phase.name, part=" and ".join(sizes), problem=problem, help=help)
            return


def _problem(phase: Phase, gm: fx.GraphModule, part: Part) -> str:
    """Why the graph does not give a loss on so many samples of each stream; "" if it does."""
    if 0 in part:
        return "there is nothing to compute the loss on"
    try:
        fakes = replayed(gm, part)
    except NodeError as problem:
        return str(cause_of(problem))
    loss = outputs_of(gm)["loss"]
    shape = fakes[loss.name].shape
    return (
        f"the loss has shape {list(shape)}" if shape != loss.meta["val"].shape else _no_number(phase, gm, part, fakes)
    )


def replayed(gm: fx.GraphModule, part: Part) -> dict[str, Any]:
    """Fake values of all nodes for so many samples of each stream."""
    context = context_for(gm)
    inputs: list[Any] = []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            stream = _stream(node)
            if isinstance(value, Tensor) and value.dim() and stream is not None:
                with context.mode:
                    value = context.fresh(value).new_empty((part[stream], *value.shape[1:]))
            elif isinstance(value, Tensor):
                value = context.fresh(value)
            inputs.append(value)
    replay = Replay(gm, context, keep={n.name for n in gm.graph.nodes})
    replay.run(*inputs)
    return replay.seen


def _stream(node: fx.Node) -> int | None:
    """The number of the stream that a placeholder is of."""
    number = str(node.target).rpartition("_")[2]
    return int(number) if number.isdigit() else None


SEVERAL = 4
"""Samples of a batch in which none is alone."""
DRAWS = 3


def _no_number(phase: Phase, gm: fx.GraphModule, part: Part, fakes: Mapping[str, Any]) -> str:
    """What the loss is on so many samples where it is no number, whatever networks give; "" else.

    A loss that is no number on more samples either depends on the numbers, which only training knows.
    """
    losses = _drawn(phase, gm, part, fakes)
    if not losses or any(map(isfinite, losses)):
        return ""
    more = tuple(max(n, SEVERAL) for n in part)
    with suppress(NodeError):
        if all(map(isfinite, _drawn(phase, gm, more, replayed(gm, more)))):
            return f"it is {'NaN' if any(map(isnan, losses)) else 'infinite'}"
    return ""


def breaks_at_once(phase: Phase, gm: fx.GraphModule) -> bool:
    """Whether a loss with divisions or powers is no number in the first step, whatever networks give."""
    if not any(map(_may_break, gm.graph.nodes)):
        return False
    with suppress(NodeError):
        part = (SEVERAL,) * len(phase.streams)
        losses = _drawn(phase, gm, part, replayed(gm, part), counter=0.0)
        return bool(losses) and not any(map(isfinite, losses))
    return False


def _may_break(node: fx.Node) -> bool:
    """Whether a node of the loss divides by a signal or by 0, or takes a power that some numbers have not."""
    if node.op != "call_function" or node.meta.get("owner") != "loss" or len(node.args) < 2:
        return False
    right = node.args[1]
    if node.target is OPERATORS["/"]:
        return isinstance(right, fx.Node) or right in (0, 0.0)
    return node.target is OPERATORS["**"] and not (isinstance(right, int) and right >= 0)


def _drawn(phase: Phase, gm: fx.GraphModule, part: Part, fakes: Mapping[str, Any], counter: float = 0.5) -> list[float]:
    """The loss for several draws of what networks give; [] where it cannot be computed on such values."""
    losses = []
    for seed in range(DRAWS):
        loss = drawn_loss(gm, fakes, known_inputs(phase, gm, part, seed, counter), seed)
        losses += [float(loss)] if loss is not None and loss.numel() == 1 else []
    return losses


def known_inputs(phase: Phase, gm: fx.GraphModule, part: Part, seed: int, counter: float = 0.5) -> dict[str, Tensor]:
    """Labels, indices and step counters for so many samples of each stream, by placeholder."""
    known: dict[str, Tensor] = {name: torch.tensor(counter) for name in STEP_COUNTERS}
    for node in gm.graph.nodes:
        stream = _stream(node) if node.op == "placeholder" else None
        if stream is not None and str(node.target).startswith(("labels", "indices")):
            classes = phase.streams[stream].classes
            known[node.name] = (torch.arange(part[stream]) + seed) % (len(classes.ids) if classes else 2)
    return known
