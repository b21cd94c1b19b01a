"""One process that trains phases of a snapshot, and appends what happens to files of the run."""

from __future__ import annotations

import sys
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from queue import SimpleQueue
from typing import TextIO

from kdplan.diagnostics.report import PlanError, error
from kdplan.runtime.events import Events, Several
from kdplan.runtime.execute import RunResult, run_plan
from kdplan.runtime.interrupt import INTERRUPTED, Interrupt
from kdplan.runtime.relay import ENDED, Relay, problem_to_json
from kdplan.runtime.snapshot import Snapshot
from kdplan.runtime.store import Store

SNAPSHOT = "snapshot.json"
"""The file of a run's folder that holds what workers read."""


def command(*arguments: str) -> list[str]:
    """How to start `kdplan` with these arguments in a process that finds the same modules as this one.

    No module that lies in the current folder by chance comes before them.
    """
    code = f"import sys; sys.path[:] = {sys.path!r}; from kdplan.cli import main; sys.exit(main(sys.argv[1:]))"
    return [sys.executable, "-P", "-c", code, *arguments]


@dataclass(frozen=True, slots=True)
class Task:
    """A phase to train: its name, its key, and the device; "" is that of the run's options."""

    name: str
    key: str
    device: str = ""


@dataclass
class Worker:
    """Trains phases of `snapshot` into `store`, one after another.

    Attributes
    ----------
    folder
        The run's folder, where each phase has a file of moments.
    observer
        Sees the same moments in this process.
    wait
        Whether to wait for a phase that another process trains.
    """

    snapshot: Snapshot
    store: Store
    folder: Path
    observer: Events
    wait: bool = False
    interrupt: Interrupt = field(default_factory=Interrupt)

    def task(self, word: str, device: str = "") -> Task:
        """The phase that a key, or its first digits, or a name means.

        Raises
        ------
        PlanError
            KD0971 if the snapshot has no such phase to train.
        """
        name = self.snapshot.named(word)
        if name is None:
            raise error("KD0971", None, phase=word, number=len(self.snapshot.planned))
        return Task(name, self.snapshot.planned[name].key, device)

    def train(self, task: Task) -> int:
        """Trains exactly one phase; returns the exit code, which the phase's file has, too.

        0 its artifact is in the store, 1 it failed, 3 another process trains it, 4 what it reads is damaged or missing,
        75 it was stopped and can be resumed.

        Raises
        ------
        PlanError
            KD0979 if that cannot be written: who waits for it would wait for ever, unless this process ends.
        """
        relay = Relay(self.folder / f"{task.key}.jsonl")
        try:
            result = self._run(task, Several([relay, self.observer]))
        except PlanError as problem:
            result = RunResult(getattr(problem, "exit_code", 1), failed={task.name: problem})
        failed = result.failed.get(task.name)
        damaged = getattr(failed, "folder", None)
        problems = problem_to_json(failed) if failed is not None else []
        if not relay.write(ENDED, result.exit_code, problems, str(damaged) if damaged else None):
            raise error("KD0979", None, path=relay.path)
        return result.exit_code

    def _run(self, task: Task, events: Events) -> RunResult:
        snapshot, options = self.snapshot, self.snapshot.options
        options = replace(options, device=task.device or options.device, wait=self.wait, keep_going=False)
        step = snapshot.planned[task.name]
        reads = snapshot.keys[task.name].reads
        with self.store.reading({task.name: step.key, **reads}):
            return run_plan(
                snapshot.plan, {task.name: step}, snapshot.keys, self.store, options, events,
                interrupt=self.interrupt, part=True,
            )  # fmt: skip

    def listen(self, first: str, lines: TextIO) -> int:
        """Trains the phases that come as lines `KEY DEVICE`; the end of the lines stops the phase that is trained."""
        for line in chain([first], _until_closed(lines, self._hang_up)):
            if self.interrupt.requested:
                return INTERRUPTED
            key, _, device = line.strip().partition(" ")
            self.train(self.task(key, device))
            if self.interrupt.requested:
                return INTERRUPTED
        return 0

    def _hang_up(self) -> None:
        self.interrupt.request("the end of the run that began it")


def _until_closed(lines: TextIO, closed: Callable[[], None]) -> Iterator[str]:
    """Lines as they come, read by a thread, which calls `closed` at their end, also while nobody waits for a line."""
    queue: SimpleQueue[str | None] = SimpleQueue()

    def read() -> None:
        for line in lines:
            queue.put(line)
        closed()
        queue.put(None)

    threading.Thread(target=read, daemon=True).start()
    return _lines(queue)


def _lines(queue: SimpleQueue[str | None]) -> Iterator[str]:
    while (line := queue.get()) is not None:
        if line.strip():
            yield line
