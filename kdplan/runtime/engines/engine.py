"""What an engine is: it trains phases in workers of some kind. Which phase is ready is not its concern."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.metadata import entry_points
from pathlib import Path
from typing import Literal, Protocol

from kdplan.diagnostics.report import error, listing
from kdplan.ir.dag import Planned
from kdplan.runtime.options import RunOptions
from kdplan.runtime.worker import SNAPSHOT, Task

GROUP = "kdplan.engines"
"""Entry points of this group are engines: functions from a `Run` to an `Engine`."""


@dataclass(frozen=True, slots=True)
class Run:
    """A run, for its engine.

    Attributes
    ----------
    folder
        The run's folder in the store: its snapshot, and a file of moments for each phase.
    store
        The store's folder, or its address.
    options
        The options of the run.
    jobs
        How many phases may be trained at the same time; None leaves that to the engine.
    settings
        Options of the engine itself, as `--engine-option name=value` gives them.
    """

    folder: Path
    store: str
    options: RunOptions
    jobs: int | None = None
    settings: tuple[tuple[str, str], ...] = ()

    @property
    def snapshot(self) -> Path:
        """The file that workers read."""
        return self.folder / SNAPSHOT

    def arguments(self, *keys: str) -> list[str]:
        """The command line after `kdplan` of a worker that trains these phases."""
        return ["work", str(self.snapshot), "--store", self.store, "--no-wait", "--phase", *keys]


Cause = Literal["crash", "preempted"]


@dataclass(frozen=True, slots=True)
class Lost:
    """A phase whose worker ended without saying how.

    Attributes
    ----------
    cause
        `preempted` where the engine took the machine away, else `crash`.
    reason
        What is known, in words.
    """

    task: Task
    cause: Cause
    reason: str


class Engine(Protocol):
    """Trains phases. What happens in a phase is read from the run's folder, whoever trains it."""

    look: float
    """Seconds between two looks at what the workers have appended."""
    requeues: bool
    """Whether a phase that was stopped goes on by itself, without being submitted again."""

    def room(self, step: Planned, alone: bool = False) -> str | None:
        """The device on which a phase may begin now ("": the worker's own choice), or None where it has to wait.

        With `alone`, nothing else may be trained on that device meanwhile.
        """

    def submit(self, task: Task, step: Planned) -> None:
        """Begin to train a phase, or put it into the engine's own queue."""

    def ended(self, task: Task) -> None:
        """The phase has ended: its file of moments says how."""

    def lost(self) -> list[Lost]:
        """Phases whose worker ended since the last call, without a last moment in the phase's file."""

    def stop(self) -> None:
        """Ask all workers to save a checkpoint and to end. `lost` and the files say when they have."""

    def close(self) -> None:
        """End what still runs, and give everything back."""


def engine(name: str) -> Callable[[Run], Engine]:
    """The engine with this name.

    Raises
    ------
    PlanError
        KD0972 if no installed package has such an engine, KD0973 if what it needs is not installed.
    """
    points = {point.name: point for point in entry_points(group=GROUP)}
    if name not in points:
        raise error("KD0972", None, name=name, known=listing(sorted({"local", *points})))
    try:
        make: Callable[[Run], Engine] = points[name].load()
    except ImportError as problem:
        raise error("KD0973", None, name=name, reason=str(problem)) from None
    return make
