"""Moments of a run, for observers: a table on the terminal, plain lines, TensorBoard, or a user's own."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from kdplan.ir.dag import Planned
from kdplan.ir.plan import Plain
from kdplan.runtime.measures.results import MeasureResult

Summary = Mapping[str, Plain]


class Events(Protocol):
    """The moments of a run, in the order in which they come. Each method does nothing here."""

    def plan_started(self, planned: Mapping[str, Planned]) -> None:
        """Before anything runs: all phases with their actions."""
        return None

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
        """A phase begins, or resumes at `start_step`; `total_steps` is None where the schedule decides."""
        return None

    def progress(
        self,
        name: str,
        step: int,
        epoch: int,
        loss: float,
        images_per_second: float,
        metrics: Mapping[str, float],
    ) -> None:
        """`step` steps are done. May come at every step: observers must be quick."""
        return None

    def epoch_done(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """`epoch` epochs are done; `metrics` holds the numbers of its validation."""
        return None

    def checkpointed(self, name: str, step: int) -> None:
        """A checkpoint is on the disk."""
        return None

    def stopped(self, name: str, step: int) -> None:
        """The phase failed or was stopped after `step` steps."""
        return None

    def elsewhere(self, name: str, who: str, step: int | None) -> None:
        """Another process trains the phase, `who` in a sentence; it has logged `step` steps. Comes again and again."""
        return None

    def phase_done(self, name: str, seconds: float, summary: Summary) -> None:
        """The phase's artifact is in the store: of this run, or of a process that this run waited for."""
        return None

    def phase_failed(self, name: str, error: BaseException) -> None:
        """The phase ended with an error, without an artifact."""
        return None

    def measured(self, name: str, table: MeasureResult) -> None:
        """A measure is complete."""
        return None

    def note(self, text: str) -> None:
        """One sentence for the user."""
        return None

    def finished(self) -> None:
        """The last moment, whether the run went well or not."""
        return None


class NoEvents(Events):
    """Ignores every moment: the base of observers that need some moments only.

    Examples
    --------
    >>> class Losses(NoEvents):
    ...     def progress(self, name, step, epoch, loss, images_per_second, metrics):
    ...         print(f"{name} {step}: {loss}")
    >>> Losses().progress("kd", 3, 0, 0.5, 100.0, {})
    kd 3: 0.5
    """


def _forwarded(moment: str) -> Callable[..., None]:
    def forward(self: Several, *args: object, **values: object) -> None:
        for observer in self.observers:
            getattr(observer, moment)(*args, **values)

    return forward


class Several(NoEvents):
    """Reports every moment to several observers, in their order; an observer that raises ends the run."""

    def __init__(self, observers: Sequence[Events]) -> None:
        self.observers = list(observers)

    plan_started = _forwarded("plan_started")
    phase_started = _forwarded("phase_started")
    progress = _forwarded("progress")
    epoch_done = _forwarded("epoch_done")
    checkpointed = _forwarded("checkpointed")
    stopped = _forwarded("stopped")
    elsewhere = _forwarded("elsewhere")
    phase_done = _forwarded("phase_done")
    phase_failed = _forwarded("phase_failed")
    measured = _forwarded("measured")
    note = _forwarded("note")
    finished = _forwarded("finished")
