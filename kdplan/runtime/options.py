"""Options of a run; none of them is part of a key. No torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path


def default_data_root() -> Path | None:
    """`KDPLAN_DATA`, or None."""
    path = os.environ.get("KDPLAN_DATA")
    return Path(path) if path else None


@dataclass
class RunOptions:
    """How to run.

    Attributes
    ----------
    device : str
        `auto`, `cpu`, `cuda`, `cuda:1`, `mps`.
    deterministic : bool
        Exactly repeatable arithmetic on GPUs too.
    keep_going : bool
        Go on with phases that do not depend on one that failed.
    checkpoint_seconds, checkpoint_steps
        How often a running phase saves where it stands, besides the ends of epochs.
    plan_file : str
        The plan's path, which artifacts record.
    data_root : Path or None
        Where data sets lie.
    tensorboard : Path or None
        Folder for TensorBoard's files, for whoever makes the events.
    """

    device: str = "auto"
    deterministic: bool = False
    keep_going: bool = False
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    plan_file: str = ""
    data_root: Path | None = field(default_factory=default_data_root)
    tensorboard: Path | None = None
