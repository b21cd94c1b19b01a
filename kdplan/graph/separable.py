"""Whether a phase's loss on a batch is the mean of its losses on parts: what training in shards relies on.

The loss is computed on numbers that stand for what networks give: of a whole batch, and of two parts of it. A term that
compares samples with each other gives something else on the parts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from kdplan.diagnostics.report import Reporter
from kdplan.graph.arguments import drawn_terms, is_drawn
from kdplan.graph.assemble import Joined
from kdplan.graph.fake import real_like
from kdplan.graph.lines import NodeError
from kdplan.graph.module import outputs_of
from kdplan.graph.parts import DRAWS, known_inputs, replayed
from kdplan.ir.plan import Phase, Plan

HALF = 8
"""Samples of a part; the whole has twice as many."""
TOLERANCE = 1e-4
"""Relative to the largest value of a term: rounding is a hundred times smaller."""
SPREADS = (1.0, 0.1, 10.0)
"""What draws are multiplied with: a term may be zero where outputs are near each other, or far apart."""
FEW = 2
"""Classes of every second draw's labels, so that many samples are of one."""

Pair = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Terms by the names of their nodes: of a whole batch, and their mean over its parts."""


def check_separable(plan: Plan, phase: Phase, joined: Joined, reporter: Reporter) -> None:
    """Report KD0961 for each term of the loss that couples samples; a warning, KD0962, where it cannot be computed.

    Where the recipe has no shards, several processes share each batch (`run --fast`): KD0980 and KD0981.
    Batch norm and whatever else networks do with a batch is part of each shard, and is not looked at.
    """
    in_shards = phase.recipes[0].shards > 1
    gm = joined.graph_module
    spans = {name: term.span for term, names in joined.terms for name in names}
    names = spans or {outputs_of(gm)["loss"].name: phase.loss.span}
    own = {node.name for node in gm.graph.nodes if is_drawn(node)}  # terms that a network gives are its own affair
    names = {name: span for name, span in names.items() if name not in own}
    values: list[Pair] = []
    with suppress(NodeError):
        values = _values(plan, phase, gm, [*names], torch.randn) or _values(plan, phase, gm, [*names], torch.rand)
    # Rounding is seen beside values of the same spread only.
    spreads = [values[at : at + DRAWS] for at in range(0, len(values), DRAWS)]
    pairs = {n: [_finite([(whole[n], parts[n]) for whole, parts in some]) for some in spreads] for n in names}
    if not all(map(any, pairs.values())):
        span = phase.recipes[0].spans.get("shards", phase.recipes[0].span)
        reporter.report("KD0962" if in_shards else "KD0981", span, phase=phase.name)
    for span in {names[n]: None for n in names if any(map(_differs, pairs[n]))}:
        text = span.text if span is not None else "loss"
        reporter.report("KD0961" if in_shards else "KD0980", span, phase=phase.name, term=text)


def _finite(pairs: list[tuple[Tensor, Tensor]]) -> list[tuple[float, float]]:
    return [(float(a), float(b)) for a, b in pairs if a.numel() == 1 and bool((a + b).isfinite())]


def _differs(pairs: list[tuple[float, float]]) -> bool:
    """Whether the whole and the mean of the parts are apart in some draw by more than rounding.

    >>> _differs([(1.0, 1.000001), (0.00001, 0.00002)]), _differs([(1.0, 1.01)])
    (False, True)
    """
    size = max((abs(v) for pair in pairs for v in pair), default=0.0)
    return any(abs(a - b) > TOLERANCE * size for a, b in pairs)


def _values(plan: Plan, phase: Phase, gm: fx.GraphModule, names: list[str], draw: Callable[..., Tensor]) -> list[Pair]:
    """For each draw, terms on a whole batch, and their mean over its two parts; [] where they cannot be computed."""
    large, small = (replayed(gm, (size,) * len(phase.streams)) for size in (2 * HALF, HALF))
    values = []
    for seed in range(DRAWS * len(SPREADS)):
        given = _given(plan, phase, gm, large, seed, draw)
        batches = [given, *({n: _part(v, small.get(n), first) for n, v in given.items()} for first in (True, False))]
        terms = [drawn_terms(gm, batch, names, seed) for batch in batches]
        whole, one, other = ({n: v for n, v in t.items() if isinstance(v, Tensor)} for t in terms)
        if not (names == [*whole] == [*one] == [*other]):
            return []
        values.append((whole, {n: (one[n] + other[n]) / 2 for n in names}))
    return values


def _given(
    plan: Plan, phase: Phase, gm: fx.GraphModule, fakes: Mapping[str, Any], seed: int, draw: Callable[..., Tensor]
) -> dict[str, Any]:
    """What the loss reads on a whole batch: labels, step counters, and draws in place of what networks give."""
    given: dict[str, Any] = dict(known_inputs(phase, gm, (2 * HALF,) * len(phase.streams), seed))
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)

        def scaled(*arguments: Any, **options: Any) -> Tensor:
            return draw(*arguments, **options) * SPREADS[seed // DRAWS]

        for number, view in enumerate(phase.streams):
            classes = len(view.classes.ids) if view.classes else len(plan.data[view.data].classes)
            if f"labels_{number}" in given:
                among = FEW if seed % 2 else max(classes, FEW)
                given[f"labels_{number}"] = torch.randint(among, (2 * HALF,))
        for node in gm.graph.nodes:
            if node.name not in given and is_drawn(node) and not all(map(is_drawn, node.users)):
                given[node.name] = real_like(fakes[node.name], scaled)
    return given


def _part(value: Any, like: Any, first: bool) -> Any:
    """One half of a value whose first dimension grows with the batch; the value where it does not."""

    def part(whole: Any, half: Any) -> Any:
        if not isinstance(whole, Tensor) or not isinstance(half, Tensor) or whole.shape == half.shape:
            return whole
        return whole[: len(half)] if first else whole[-len(half) :]

    return tree_map(part, value, like)
