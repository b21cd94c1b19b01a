"""What the planner asks of a store. No torch here."""

from __future__ import annotations

from pathlib import Path

from kdplan.ir.dag import PhaseKey
from kdplan.passes.schedule import Facts
from kdplan.runtime.store import Store, StoreError


def store_facts(store: Store, plan_file: Path | None = None) -> Facts:
    """Return what the planner asks of the store, with the keys of the last run of `plan_file`, if there is a file."""
    last = store.last_keys(plan_file) if plan_file is not None else {}

    def last_key(name: str) -> PhaseKey | None:
        """The key that a phase of this name had in the last run, where its artifact is still stored."""
        key = last.get(name)
        if key is None or not store.has(key):
            return None
        try:
            return store.artifact(key).phase_key()
        except StoreError:
            return None  # damaged, and wanted for a reason only

    def is_extendable(key: str) -> bool:
        """Whether a longer phase can start from the artifact under a key."""
        try:
            return store.has(key) and store.artifact(key).extendable
        except StoreError:
            return False

    return Facts(store.has, store.resume_step, store.problem, last_key, is_extendable)
