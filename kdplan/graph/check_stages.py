"""Ladders of stages: whether both networks climb them in step."""

from __future__ import annotations

from collections.abc import Container

from kdplan.constructs.ladder import natural
from kdplan.diagnostics.report import Reporter, listing
from kdplan.graph.cuts import cuts_of
from kdplan.ir import expr as ir
from kdplan.ir.cuts import Cut
from kdplan.ir.plan import Network, Phase, Plan

Pair = tuple[ir.Tap, ir.Tap]
"""The student's tap and the teacher's."""


def check_ladders(plan: Plan, wanted: Container[str], reporter: Reporter) -> None:
    """Report KD0604 for a ladder whose teacher's taps go down, KD0607 for a stage that only one side passes over.

    The latter is a mistake only between networks with equally many stages. Only constructs are looked at: whoever
    writes phases may match what they like.
    """
    ladders: dict[str, list[Phase]] = {}
    for name, phase in plan.phases.items():
        if phase.construct is not None and name in wanted:
            ladders.setdefault(phase.construct, []).append(phase)
    reported: set[object] = set()
    for phases in ladders.values():
        if len({phase.trainees[0].base.network for phase in phases}) > 1:
            continue  # a line of networks, each with a phase of its own
        before: Pair | None = None
        for phase in phases:
            pairs = _pairs(phase)
            if len(pairs) != 1:
                break  # the head; and of a pyramid's several taps none is before the others
            span = pairs[0][0].span
            if span not in reported and _check(plan, phase, before, pairs[0], reporter):
                reported.add(span)
            before = pairs[0]


def _pairs(phase: Phase) -> list[Pair]:
    """Calls of a loss whose first argument depends on what is trained, and another on a frozen network."""
    pairs: dict[tuple[str, str], Pair] = {}
    for e in ir.walk(phase.loss):
        if isinstance(e, ir.Call) and len(e.args) == 2:
            trainable = [t for t in ir.walk(e.args[0]) if isinstance(t, ir.Tap) and isinstance(t.of, ir.InTraining)]
            frozen = [t for t in ir.walk(e.args[1]) if isinstance(t, ir.Tap) and isinstance(t.of, ir.Version)]
            if trainable and frozen and all(map(_plain, [*trainable, *frozen])):
                pairs.setdefault((trainable[0].path, frozen[0].path), (trainable[0], frozen[0]))
    return [*pairs.values()]


def _plain(tap: ir.Tap) -> bool:
    """Whether a network is applied to images: features of features climb no ladder."""
    return not tap.since and all(isinstance(i, ir.StreamField) for i in tap.inputs)


def _check(plan: Plan, phase: Phase, before: Pair | None, now: Pair, reporter: Reporter) -> bool:
    shape = plan.data[phase.streams[0].data].shape
    if shape is None:
        return False
    networks = [_network(plan, phase, tap) for tap in now]
    cuts = [cuts_of(network, tuple(shape)) for network in networks]
    positions = [[_position(c, tap) for c, tap in zip(cuts, pair or (), strict=bool(pair))] for pair in (before, now)]
    name = networks[1].name.partition("[")[0]
    if before is not None and before[1].of == now[1].of and None not in (positions[0][1], positions[1][1]):
        first, second = positions[0][1], positions[1][1]
        assert first is not None and second is not None
        if second <= first:
            reporter.report("KD0604", now[1].span, name=name, taps=f"`{now[1].path}`", since=f"`{before[1].path}`")
            return True
    return _skips(networks, cuts, before, now, reporter)


def _skips(networks: list[Network], cuts: list[list[Cut]], before: Pair | None, now: Pair, reporter: Reporter) -> bool:
    ends = [[run[-1].path for run in natural(c)] for c in cuts]
    if len(ends[0]) != len(ends[1]):
        return False
    stages = []
    for side in (0, 1):
        start = ends[side].index(before[side].path) if before and before[side].path in ends[side] else -1
        if now[side].path not in ends[side] or (before is not None and before[side].path not in ends[side]):
            return False
        stages.append(ends[side][start + 1 : ends[side].index(now[side].path)])
    if len(stages[0]) == len(stages[1]):
        return False
    if before is None and min(map(len, stages)) > 0:
        return False
    side = 0 if len(stages[0]) > len(stages[1]) else 1
    names = [n.name.partition("[")[0] for n in networks]
    reporter.report("KD0607", now[side].span, name=names[side], other=names[1 - side], skipped=listing(stages[side]))
    return True


def _network(plan: Plan, phase: Phase, tap: ir.Tap) -> Network:
    of = tap.of
    return plan.networks[phase.trainees[of.slot].base.network if isinstance(of, ir.InTraining) else of.network]


def _position(cuts: list[Cut], tap: ir.Tap) -> int | None:
    return next((i for i, cut in enumerate(cuts) if cut.path == tap.path), None)
