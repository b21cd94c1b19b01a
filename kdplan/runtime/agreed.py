"""Whether a phase goes on as it was: on every rank alike, and after a checkpoint on the same kind of machine."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Protocol

from kdplan.diagnostics.report import diagnostic, error
from kdplan.ir.plan import Plain
from kdplan.runtime.device import other_rounding, rounding
from kdplan.runtime.job import Job
from kdplan.runtime.recovery import State
from kdplan.runtime.shards import mark_of


class Training(Protocol):
    """What is asked of the training of a phase."""

    job: Job
    step: int

    def checkpoint(self) -> State:
        """All that resuming needs."""


def agree(training: Training) -> None:
    """KD0954 where a rank has other weights, or another state of an optimizer, than rank 0."""
    job, ranks = training.job, training.job.ranks
    if ranks.size > 1 and ranks.way != "fully-shard":
        ranks.order("agree")
        marks = ranks.gather_numbers([mark(training)])
        if others := [rank for rank, theirs in enumerate(marks) if theirs != marks[0]]:
            raise error("KD0954", job.span, phase=job.name, step=training.step, ranks=", ".join(map(str, others)))


def mark(training: Training) -> int:
    """A number of 63 bits for all that training changes."""
    tensors, _ = training.checkpoint()
    return mark_of(tensors)


def compare_rounding(training: Training, state: Mapping[str, Plain]) -> None:
    """KD0838 where a checkpoint is of another machine, library or order of sums."""
    job = training.job
    if others := other_rounding(rounding(job.device, job.ranks.sums), state.get("rounding", {})):
        notice = diagnostic("KD0838", None, phase=job.name, step=training.step, others=others)
        job.events.note(f"{notice.code}: {notice.message}")
