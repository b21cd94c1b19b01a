"""Content-addressed results: nothing here imports torch, nothing is ever unpickled."""

from kdplan.runtime.store.artifact import Artifact, Checkpoint, phase_json, phase_key_from_json
from kdplan.runtime.store.attempts import read_metrics
from kdplan.runtime.store.errors import (
    StoreCorrupt,
    StoreError,
    StoreLocked,
    StoreLost,
    StoreMissing,
    StoreUnwritable,
)
from kdplan.runtime.store.lock import Holder
from kdplan.runtime.store.store import Store
from kdplan.runtime.store.work import Work

__all__ = [
    "Artifact",
    "Checkpoint",
    "Holder",
    "Store",
    "StoreCorrupt",
    "StoreError",
    "StoreLocked",
    "StoreLost",
    "StoreMissing",
    "StoreUnwritable",
    "Work",
    "phase_json",
    "phase_key_from_json",
    "read_metrics",
]
