"""The files that hold the weights of versions, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdplan.diagnostics.report import error, listing
from kdplan.ir.dag import PhaseKey
from kdplan.ir.expr import Version
from kdplan.ir.plan import Plan
from kdplan.ir.versions import slot_of
from kdplan.runtime.store import Artifact, Store

if TYPE_CHECKING:
    from kdplan.runtime.ranks import Ranks


@dataclass(frozen=True, slots=True)
class Sources:
    """A plan with the store that holds its phases' weights under `keys` (phase name -> key)."""

    plan: Plan
    store: Store
    keys: Mapping[str, PhaseKey]

    def artifact(self, phase: str) -> Artifact:
        """The artifact of phase `phase`."""
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

    def weights(self, version: Version) -> bytes:
        """The safetensors file with the weights of a trained version.

        Raises
        ------
        PlanError
            As `file`, and where it is missing or damaged.
        """
        artifact, name = self.file(version)
        return artifact.read(name)


@dataclass(frozen=True, slots=True)
class SharedSources(Sources):
    """The same on every rank: rank 0 reads, and the others get what it has read."""

    ranks: Ranks

    def weights(self, version: Version) -> bytes:
        """The file, as rank 0 has it."""
        return self.ranks.share_bytes(Sources.weights(self, version) if self.ranks.leads else None)
