"""Weights through a plan: what a phase reads, which phases made what, and where a phase keeps what it leaves."""

from __future__ import annotations

from collections.abc import Iterator

from kdplan.ir.expr import Tap, Version, walk
from kdplan.ir.origins import Copied, EmaOf
from kdplan.ir.plan import Phase, Plan
from kdplan.ir.snapshots import kept


def read_versions(phase: Phase) -> Iterator[Version]:
    """Every version that the phase's loss and logged terms apply, as often as they do."""
    for expr in (phase.loss, *phase.logged.values()):
        for node in walk(expr):
            if isinstance(node, Tap) and isinstance(node.of, Version):
                yield node.of


def versions_of(phase: Phase) -> Iterator[Version]:
    """Every version that a phase starts from or looks at."""
    for trainee in phase.trainees:
        yield trainee.base
    yield from read_versions(phase)


def parts(plan: Plan, version: Version) -> Iterator[Version]:
    """The trained versions that make up a version: itself, or those of the networks that it is made of."""
    if version.phase is not None:
        yield version
        return
    for parent in plan.networks[version.network].origin.parents():
        yield from parts(plan, parent)


def makers(plan: Plan, version: Version) -> Iterator[str]:
    """The phases whose weights make up a version."""
    for part in parts(plan, version):
        if part.phase is not None:
            yield part.phase


def ema_copies(plan: Plan, phase: Phase) -> list[str]:
    """The networks that are EMA copies of what `phase` trains, in the order in which its loss names them."""
    trained = {trainee.base.network for trainee in phase.trainees}
    networks: dict[str, None] = {}
    for version in read_versions(phase):
        origin = plan.networks[version.network].origin
        if version.phase is None and isinstance(origin, EmaOf) and origin.network in trained:
            networks[version.network] = None
    return list(networks)


def slot_of(plan: Plan, version: Version) -> int:
    """The number under which the version's phase keeps the network's weights: trainees first, then EMA copies."""
    assert version.phase is not None, version
    return slot_in(plan, plan.phases[version.phase], version)


def slot_in(plan: Plan, phase: Phase, version: Version) -> int:
    """`slot_of`, for a phase that need not stand in the plan yet."""
    for slot, trainee in enumerate(phase.trainees):
        if trainee.base.network == version.network:
            return slot
    return len(phase.trainees) + ema_copies(plan, phase).index(version.network)


def kept_of(plan: Plan, version: Version) -> set[str]:
    """The snapshots that the version's phase keeps of its network."""
    assert version.phase is not None, version
    return kept(plan.phases[version.phase], slot_of(plan, version))


def ancestors(plan: Plan, version: Version) -> list[Version]:
    """The version, what it was trained from, and so on back to the start.

    Snapshots of one phase are different versions with the same past.
    """
    versions = [version]
    while True:
        last = versions[-1]
        if last.phase is not None:
            trainees = [m for m in plan.phases[last.phase].trainees if m.base.network == last.network]
            if not trainees:
                return versions
            versions.append(trainees[0].base)
            continue
        origin = plan.networks[last.network].origin
        if not isinstance(origin, Copied):
            return versions
        versions.append(origin.version)
