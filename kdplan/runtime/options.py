"""Options of a run; none of them is part of a key. No torch here."""

from __future__ import annotations

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdplan.ir.json_form import EXCLUDED


def default_data_root() -> Path | None:
    """`KDPLAN_DATA`, or None."""
    path = os.environ.get("KDPLAN_DATA")
    return Path(path) if path else None


def cache_folder() -> Path:
    """`KDPLAN_CACHE`, or `~/.cache/kdplan`: what can be made anew, of this user alone."""
    return Path(os.environ.get("KDPLAN_CACHE") or "~/.cache/kdplan").expanduser()


def processes() -> int:
    """How many processes `torchrun` has started for this run; 1 without it.

    >>> processes()
    1
    """
    return int(os.environ.get("WORLD_SIZE", 1)) if "RANK" in os.environ else 1


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
    wait : bool
        Whether to wait for phases that other processes train; else they fail, with exit code 3.
    wait_for_space : bool
        Wait when the store's disk is full, in place of an error.
    plan_file : str
        The plan's path, which artifacts record.
    settings : str
        What else decides which phases the plan has, such as values of params: the store keeps what each setting reads.
    data_root : Path or None
        Where data sets lie.
    tensorboard : Path or None
        Folder for TensorBoard's files, for whoever makes the events.
    ranks : Ranks or None
        The processes that `torchrun` has started; None where this one is alone.
    """

    device: str = "auto"
    deterministic: bool = False
    keep_going: bool = False
    checkpoint_seconds: float = 60.0
    checkpoint_steps: int | None = None
    wait_for_space: bool = False
    wait: bool = True
    plan_file: str = ""
    settings: str = ""
    data_root: Path | None = field(default_factory=default_data_root)
    tensorboard: Path | None = None
    ranks: Any = field(default=None, metadata=EXCLUDED)
