"""What a run tells while it goes on: to a live table, to plain lines, to TensorBoard, or to a user's own observer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Protocol

from kdplan.ir.dag import Planned
from kdplan.runtime.measures.results import MeasureResult

Summary = Mapping[str, Any]


class Events(Protocol):
    """The moments of a run, in the order in which they come."""

    def plan_started(self, planned: Mapping[str, Planned]) -> None:
        """Before anything runs: all phases with their actions."""

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
        """A phase begins, or goes on at `start_step`; `total_steps` is None where the schedule decides."""

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

    def epoch_done(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        """`epoch` epochs are done; `metrics` holds what was validated."""

    def checkpointed(self, name: str, step: int) -> None:
        """A checkpoint is on the disk."""

    def phase_done(self, name: str, seconds: float, summary: Summary) -> None:
        """The phase's artifact is in the store."""

    def phase_failed(self, name: str, error: BaseException) -> None:
        """The phase ended without an artifact."""

    def measured(self, name: str, table: MeasureResult) -> None:
        """A measure is complete."""

    def note(self, text: str) -> None:
        """One sentence that the person who started the run should read."""

    def finished(self) -> None:
        """Nothing more comes, whether the run went well or not."""


class NoEvents:
    """Listens to nothing: the base of observers that care about some moments only.

    Examples
    --------
    >>> class Losses(NoEvents):
    ...     def progress(self, name, step, epoch, loss, images_per_second, metrics):
    ...         print(f"{name} {step}: {loss}")
    >>> Losses().progress("kd", 3, 0, 0.5, 100.0, {})
    kd 3: 0.5
    """

    def plan_started(self, planned: Mapping[str, Planned]) -> None:
        return None

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
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
        return None

    def epoch_done(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        return None

    def checkpointed(self, name: str, step: int) -> None:
        return None

    def phase_done(self, name: str, seconds: float, summary: Summary) -> None:
        return None

    def phase_failed(self, name: str, error: BaseException) -> None:
        return None

    def measured(self, name: str, table: MeasureResult) -> None:
        return None

    def note(self, text: str) -> None:
        return None

    def finished(self) -> None:
        return None


class Several(NoEvents):
    """Tells every moment to several observers, in their order.

    An observer that raises ends the run: only what it was told to ignore is ignored.
    """

    def __init__(self, observers: Sequence[Events]) -> None:
        self.observers = list(observers)

    def plan_started(self, planned: Mapping[str, Planned]) -> None:
        for o in self.observers:
            o.plan_started(planned)

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
        for o in self.observers:
            o.phase_started(name, key, total_steps, start_step)

    def progress(
        self,
        name: str,
        step: int,
        epoch: int,
        loss: float,
        images_per_second: float,
        metrics: Mapping[str, float],
    ) -> None:
        for o in self.observers:
            o.progress(name, step, epoch, loss, images_per_second, metrics)

    def epoch_done(self, name: str, epoch: int, metrics: Mapping[str, float]) -> None:
        for o in self.observers:
            o.epoch_done(name, epoch, metrics)

    def checkpointed(self, name: str, step: int) -> None:
        for o in self.observers:
            o.checkpointed(name, step)

    def phase_done(self, name: str, seconds: float, summary: Summary) -> None:
        for o in self.observers:
            o.phase_done(name, seconds, summary)

    def phase_failed(self, name: str, error: BaseException) -> None:
        for o in self.observers:
            o.phase_failed(name, error)

    def measured(self, name: str, table: MeasureResult) -> None:
        for o in self.observers:
            o.measured(name, table)

    def note(self, text: str) -> None:
        for o in self.observers:
            o.note(text)

    def finished(self) -> None:
        for o in self.observers:
            o.finished()
