"""Outputs of several networks of one architecture on one view, computed as one: seeds, generations, perturbed weights.

It happens where every phase that made the networks has `stack` in its recipe, so nobody gets rounding that nobody asked
for. The first batch is compared with each network alone, and numbers that are stored say how many networks it were.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap

from kdplan.data.loader import Loader
from kdplan.diagnostics.report import diagnostic
from kdplan.graph.stack import NotStackable
from kdplan.ir.expr import Version
from kdplan.ir.outputs import PROBABILITIES, is_output
from kdplan.ir.plan import Item, Plan, Target
from kdplan.ir.versions import makers
from kdplan.nn.catalog import METRICS
from kdplan.nn.outputs import scores
from kdplan.nn.whose import may_write
from kdplan.passes.keys import architecture
from kdplan.passes.stacking import most
from kdplan.runtime.networks import materialise
from kdplan.runtime.versions import Sources

CLOSE = 1e-4
"""How far outputs may be from those of a network alone, relative to the largest of them."""
MOST_BYTES = 256 * 2**20
"""Outputs of all samples that are kept at once."""
Note = Callable[[str], None]


class Known(nn.Module):
    """A network whose outputs on each batch of a view are known: [B, ...] -> [B, C], pass after pass.

    >>> known = Known([torch.zeros(2, 3), torch.ones(1, 3)], 2)
    >>> [known(torch.empty(n, 8)).shape[0] for n in (2, 1, 2)]
    [2, 1, 2]
    """

    def __init__(self, batches: Sequence[Tensor], width: int) -> None:
        super().__init__()
        self.batches, self.width, self.at = batches, width, 0

    def forward(self, x: Tensor) -> Tensor:
        """The outputs on the next batch."""
        result = self.batches[self.at]
        assert len(result) == len(x), "batches come in their order"
        self.at = (self.at + 1) % len(self.batches)
        return result


@dataclass(frozen=True, slots=True)
class Candidate:
    """A target that is measured on a view."""

    number: int
    target: Target
    metrics: Sequence[Item]


@dataclass(frozen=True, slots=True)
class _Network:
    """A version that a target has, with its position among them."""

    number: int
    index: int
    version: Version


def known_outputs(
    sources: Sources,
    candidates: Iterable[Candidate],
    loader: Loader,
    device: torch.device,
    note: Note,
) -> dict[int, dict[int, Known]]:
    """Of targets, by their numbers: which of their versions are computed as one with others, and the outputs."""
    known: dict[int, dict[int, Known]] = {}
    for alike in _alike(sources.plan, candidates):
        limit, timed = _limit(sources.plan, alike[0].version)
        for start in range(0, len(alike), limit):
            part = alike[start : start + limit]
            if len(part) < 2:
                continue
            try:
                with torch.no_grad():
                    batches, width = _outputs(sources, part, loader, device, timed)
            except NotStackable as problem:
                notice = diagnostic("KD1014", None, target=str(part[0].version), reason=problem)
                note(f"{notice.code}: {notice.message}")
                break
            for row, one in enumerate(part):
                known.setdefault(one.number, {})[one.index] = Known([batch[row] for batch in batches], width)
    return known


def _alike(plan: Plan, candidates: Iterable[Candidate]) -> list[list[_Network]]:
    """Networks of equal architectures, whose recipes have a stack and of which only outputs are measured."""
    kinds: dict[str, list[_Network]] = {}
    for one in candidates:
        target = one.target
        others = any(m.name in METRICS and METRICS[m.name].needs in ("transfer", "boxes") for m in one.metrics)
        if others or not (is_output(target.path) or target.path == PROBABILITIES):
            continue
        for index, version in enumerate(target.versions):
            recipes = [plan.phases[m].recipes[0] for m in makers(plan, version)]
            if recipes and all(r.stack != "off" for r in recipes):
                content = [architecture(plan.networks[version.network]), recipes[0].stack]
                kind = json.dumps(content, sort_keys=True, default=str)
                kinds.setdefault(kind, []).append(_Network(one.number, index, version))
    return list(kinds.values())


def _limit(plan: Plan, version: Version) -> tuple[int, bool]:
    """How many networks may be one, and whether that is to be timed."""
    phase = plan.phases[next(makers(plan, version))]
    return most(phase), phase.recipes[0].stack == "auto"


def _outputs(
    sources: Sources, part: Sequence[_Network], loader: Loader, device: torch.device, timed: bool
) -> tuple[list[Tensor], int]:
    """The outputs [k, B, C] of each batch, and how many networks were computed as one."""
    networks = [materialise(sources, one.version, device).eval() for one in part]
    if may_write(networks[0]):
        raise NotStackable("the networks may write into their inputs")
    together = _stacked(networks)
    batches: list[Tensor] = []
    for number, batch in enumerate(loader.epoch(0)):
        x = batch["inputs"]
        try:
            got = together(x)
        except (RuntimeError, TypeError, ValueError, NotImplementedError) as problem:
            raise NotStackable(f"torch.func cannot compute it: {str(problem).splitlines()[0][:160]}") from problem
        if number == 0:
            _compare(networks, x, got)
            if got.numel() // max(1, len(x)) * len(loader.dataset) * got.element_size() > MOST_BYTES:
                raise NotStackable("their outputs on all samples are too large to be kept")
            if timed and not _is_faster(networks, together, x):
                return _one_by_one(networks, loader), 1
        batches.append(got)
    return batches, len(part)


def _stacked(networks: Sequence[nn.Module]) -> Callable[[Tensor], Tensor]:
    parameters, buffers = stack_module_state(list(networks))

    def one(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        return scores(functional_call(networks[0], (p, b), (x,)))

    run = vmap(one, in_dims=(0, 0, None))

    def together(x: Tensor) -> Tensor:
        result: Tensor = run(parameters, buffers, x)
        return result

    return together


def _compare(networks: Sequence[nn.Module], x: Tensor, got: Tensor) -> None:
    for network, row in zip(networks, got, strict=True):
        alone = scores(network(x))
        size = float(alone.abs().max()) if alone.numel() else 0.0
        if alone.shape != row.shape or not torch.allclose(alone, row, rtol=0, atol=CLOSE * size, equal_nan=True):
            raise NotStackable("a stack gives other outputs")


def _is_faster(networks: Sequence[nn.Module], together: Callable[[Tensor], Tensor], x: Tensor) -> bool:
    def seconds(work: Callable[[], object]) -> float:
        times = []
        for _ in range(2):
            start = time.perf_counter()
            work()
            if x.device.type == "cuda":
                torch.cuda.synchronize(x.device)
            times.append(time.perf_counter() - start)
        return min(times)

    return seconds(lambda: together(x)) < seconds(lambda: [network(x) for network in networks])


def _one_by_one(networks: Sequence[nn.Module], loader: Loader) -> list[Tensor]:
    """The same without a stack: one pass over the data serves all of them."""
    return [torch.stack([scores(n(batch["inputs"])) for n in networks]) for batch in loader.epoch(0)]
