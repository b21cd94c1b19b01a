"""Where the weights of a version are found, without torch."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from kdplan.diagnostics.report import error, listing
from kdplan.ir.dag import PhaseKey
from kdplan.ir.expr import Tap, Version, walk
from kdplan.ir.plan import Copied, Follows, Phase, Plan
from kdplan.runtime.store import Artifact, Store


@dataclass(frozen=True, slots=True)
class Sources:
    """A plan with the store that holds its phases' weights under `keys` (phase name -> key)."""

    plan: Plan
    store: Store
    keys: Mapping[str, PhaseKey]

    def artifact(self, phase: str) -> Artifact:
        """What phase `phase` left."""
        return self.store.artifact(self.keys[phase].key)

    def file(self, version: Version) -> tuple[Artifact, str]:
        """The file with the weights of a trained version.

        Raises
        ------
        PlanError
            KD0832 if the phase kept no such snapshot.
        """
        assert version.phase is not None
        artifact = self.artifact(version.phase)
        slot = slot_of(self.plan, version)
        name = artifact.weights_name(slot, version.snapshot)
        if name not in artifact.files:
            raise error(
                "KD0832",
                version.span,
                phase=version.phase,
                snapshot=version.snapshot,
                network=version.network,
                known=listing(artifact.snapshots(slot)),
            )
        return artifact, name


def slot_of(plan: Plan, version: Version) -> int:
    """The number under which the version's phase keeps the network's weights: its move's, then the followers'."""
    assert version.phase is not None
    phase = plan.phases[version.phase]
    for slot, move in enumerate(phase.moves):
        if move.base.network == version.network:
            return slot
    return len(phase.moves) + followers(plan, phase).index(version.network)


def followers(plan: Plan, phase: Phase) -> list[str]:
    """The networks that are moving averages of what `phase` moves, in the order in which its loss names them."""
    moved = {move.base.network for move in phase.moves}
    found: dict[str, None] = {}
    for version in read_versions(phase):
        origin = plan.networks[version.network].origin
        if version.phase is None and isinstance(origin, Follows) and origin.network in moved:
            found[version.network] = None
    return list(found)


def read_versions(phase: Phase) -> Iterator[Version]:
    """Every version that the phase's loss and logged terms apply, as often as they do."""
    for expr in (phase.loss, *phase.logged.values()):
        for node in walk(expr):
            if isinstance(node, Tap) and isinstance(node.of, Version):
                yield node.of


def ancestors(plan: Plan, version: Version) -> list[Version]:
    """The version, what it was trained from, and so on back to the start.

    Snapshots of one phase are different versions with the same past.
    """
    found = [version]
    while True:
        last = found[-1]
        if last.phase is not None:
            moves = [m for m in plan.phases[last.phase].moves if m.base.network == last.network]
            if not moves:
                return found
            found.append(moves[0].base)
            continue
        origin = plan.networks[last.network].origin
        if not isinstance(origin, Copied):
            return found
        found.append(origin.version)
