"""Runs a plan's phases in workers of an engine, several at a time.

This process trains nothing: it decides which phase is next, shows what the workers do, and says what becomes of a
phase that failed.
"""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

from kdplan.diagnostics.report import PlanError, counted, error
from kdplan.ir.dag import Planned
from kdplan.ir.plan import Plain
from kdplan.passes.critical import critical
from kdplan.runtime.engines.engine import Cause, Engine, Lost
from kdplan.runtime.events import Events
from kdplan.runtime.execute import POLL, RARE, RunResult, maker_of, report_repair, spared
from kdplan.runtime.interrupt import INTERRUPTED, Interrupt
from kdplan.runtime.relay import ENDED, Reader, problem_from_json, show
from kdplan.runtime.store import Store, StoreCorrupt, StoreLocked
from kdplan.runtime.worker import Task

TRIES: dict[Cause, int] = {"crash": 3, "preempted": 10}
"""Why a worker ended -> how often a phase is begun again for that without a newer checkpoint."""
OUT_OF_MEMORY = "KD0813"
LOCKED = StoreLocked.exit_code


@dataclass
class _Running:
    """A phase that a worker has."""

    task: Task
    step: Planned
    reader: Reader
    began: float = field(default_factory=time.monotonic)


@dataclass
class Driver:
    """Trains the phases of `planned` with `engine`.

    Attributes
    ----------
    planned
        Phase name -> its action, every phase after those that it needs.
    folder
        The run's folder, in which workers append what they do.
    keep_going
        Whether to go on with phases that do not depend on one that failed.
    plan_file
        The plan's path, under which the store remembers what is done.
    wait
        Whether to wait for phases that other processes train; else they fail.
    """

    planned: Mapping[str, Planned]
    store: Store
    engine: Engine
    folder: Path
    events: Events
    keep_going: bool = False
    plan_file: str = ""
    wait: bool = True
    result: RunResult = field(default_factory=RunResult)
    running: dict[str, _Running] = field(default_factory=dict)
    readers: dict[str, Reader] = field(default_factory=dict)
    later: dict[str, float] = field(default_factory=dict)
    """Phase that another process trains -> when to look again."""
    attempts: dict[str, int] = field(default_factory=dict)
    repaired: set[str] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)
    """Phases that had too little memory beside others."""
    changed: bool = True
    """Whether a phase has begun or ended since it was last decided what is ready."""
    asked: bool = False
    """Whether the workers were asked to stop."""

    def run(self) -> RunResult:
        """Trains until nothing is left to do, or until a signal asks to stop."""
        result = self.result
        self.events.plan_started(self.planned)
        order = critical(self.planned)
        waiting = dict(self.planned)
        with Interrupt() as interrupt:
            try:
                self.train_all(waiting, order, interrupt)
            finally:
                self.engine.close()
                self.events.finished()
            if interrupt.requested:
                result.exit_code, result.by = result.exit_code or INTERRUPTED, interrupt.by
        if self.plan_file and result.done:
            done = {name: self.planned[name].key for name in result.done}
            self.store.remember(self.plan_file, done, result.done == self.planned.keys())
        result.skipped += [n for n in self.planned if n not in result.done | result.failed.keys() | {*result.skipped}]
        return result

    def train_all(self, waiting: dict[str, Planned], order: Mapping[str, float], interrupt: Interrupt) -> None:
        """Trains what waits, and looks at the workers now and then."""
        while True:
            self.follow(waiting)
            if interrupt.requested and not self.asked:
                self.asked = True
                self.engine.stop()
            if not self.running and (self.asked or not waiting or self.failed):
                return
            if (self.changed or self.later or not self.running) and not (self.asked or self.failed):
                self.changed = False
                self.submit_ready(waiting, order)
            time.sleep(self.engine.look)

    @property
    def failed(self) -> bool:
        """Whether no further phase is begun. Those that are trained go on to their end."""
        return bool(self.result.failed) and not self.keep_going

    def submit_ready(self, waiting: dict[str, Planned], order: Mapping[str, float]) -> None:
        """Gives the engine phases that are ready, those first that most of the plan waits for."""
        for name in [n for n, step in waiting.items() if spared(step, self.result)]:
            del waiting[name]
        unfinished = waiting.keys() | self.running.keys()
        ready = {name for name, step in waiting.items() if unfinished.isdisjoint([*step.needs, step.same_as])}
        for step in sorted((s for n, s in self.planned.items() if n in ready), key=lambda s: -order[s.name]):
            step = waiting[step.name]  # one that is trained again has another action
            if not self.is_due(step):
                continue
            device = self.engine.room(step, step.name in self.alone)
            if device is None:
                continue
            task = Task(step.name, step.key, device)
            reader = self.readers.setdefault(step.key, Reader(self.folder / f"{step.key}.jsonl"))
            self.running[step.name] = _Running(task, waiting.pop(step.name), reader)
            self.engine.submit(task, step)

    def is_due(self, step: Planned) -> bool:
        """Whether nobody else trains a phase, as far as is known; from time to time its holder is shown."""
        if step.name not in self.later:
            return True
        if time.monotonic() < self.later[step.name] and not self.store.has(step.key):
            return False
        if self.store.holder(step.key) is None or self.store.has(step.key):
            del self.later[step.name]
            return True
        self.elsewhere(step)
        return False

    def elsewhere(self, step: Planned, otherwise: str = "", seconds: float = POLL) -> None:
        """Shows who trains a phase, which comes later: not before so many seconds, since an attempt is costly."""
        holder = self.store.holder(step.key)
        who = f"Process {holder.pid} on {holder.host} has trained it since {holder.since}." if holder else otherwise
        self.events.elsewhere(step.name, who, self.store.running_step(step.key))
        self.later[step.name] = time.monotonic() + max(POLL, seconds)

    def follow(self, waiting: dict[str, Planned]) -> None:
        """Shows what the workers have done since the last look, and takes up what has ended."""
        lost = {one.task.name: one for one in self.engine.lost()} if self.running else {}
        for name, one in list(self.running.items()):
            for moment, arguments in one.reader.read():
                if moment == ENDED and arguments[0] == INTERRUPTED and self.engine.requeues and not self.asked:
                    continue  # the engine begins it again
                if moment == ENDED:
                    self.changed = True
                    del self.running[name]
                    self.engine.ended(one.task)
                    self.ended(one, waiting, *arguments)
                else:
                    show(self.events, moment, arguments)
            if name in lost and name in self.running:
                self.changed = True
                del self.running[name]
                self.crashed(one.step, waiting, lost[name])

    def ended(
        self, one: _Running, waiting: dict[str, Planned], code: int, problems: list[Plain], damaged: str | None
    ) -> None:
        """Takes up a phase that a worker says has ended with an exit code."""
        step, result, problem = one.step, self.result, problem_from_json(problems)
        if code == 0:
            result.trained.append(step.name)
        elif code == INTERRUPTED:
            waiting[step.name] = step
            if self.asked:
                result.interrupted = result.interrupted or step.name
        elif code == LOCKED and self.wait:
            waiting[step.name] = step
            self.elsewhere(step, problem.diagnostics[0].message, RARE * (time.monotonic() - one.began))
        elif damaged is not None and (maker := maker_of(self.planned, self.store, Path(damaged))) is not None:
            self.repair(step, maker, waiting, problem)
        elif OUT_OF_MEMORY in [d.code for d in problem.diagnostics] and step.name not in self.alone:
            self.alone.add(step.name)
            self.events.note(f"{step.name}: it had too little memory, and is begun once more with a device of its own")
            waiting[step.name] = step
        else:
            self.fail(step, problem, code)

    def repair(self, step: Planned, maker: Planned, waiting: dict[str, Planned], problem: PlanError) -> None:
        """Trains the phase again that made a damaged artifact, then the one that reads it."""
        if self.tried(step, f"damage of {maker.key}") > 1:
            self.fail(step, problem, StoreCorrupt.exit_code)
            return
        waiting[step.name] = step
        if maker.key in self.repaired:  # another reader has found the same
            return
        report_repair(maker, self.events)
        self.repaired.add(maker.key)
        equal = {name: one for name, one in self.planned.items() if one.same_as == maker.name}
        for names in (self.result.cached, self.result.trained):
            names[:] = [name for name in names if name not in {maker.name, *equal}]
        waiting |= {maker.name: replace(maker, action="rerun")} | {
            n: replace(s, action="rerun") for n, s in equal.items()
        }

    def crashed(self, step: Planned, waiting: dict[str, Planned], lost: Lost) -> None:
        """Begins a phase again whose worker has ended: from its newest checkpoint."""
        if self.asked:
            waiting[step.name] = step
            self.result.interrupted = self.result.interrupted or step.name
            return
        at = self.store.resume_step(step.key)
        where = f"goes on at step {at}" if at else "begins anew"
        tries = TRIES[lost.cause]
        if self.tried(step, f"{lost.cause} at {at}") <= tries:
            self.events.note(f"{step.name}: {lost.reason}; it {where}")
            waiting[step.name] = step
        else:
            self.fail(step, error("KD0974", None, phase=step.name, reason=lost.reason, times=tries + 1), 1)

    def tried(self, step: Planned, what: str) -> int:
        """How often this has happened to a phase, this time included."""
        self.attempts[f"{step.name} {what}"] = self.attempts.get(f"{step.name} {what}", 0) + 1
        return self.attempts[f"{step.name} {what}"]

    def fail(self, step: Planned, problem: PlanError, code: int) -> None:
        """Notes that a phase failed."""
        self.result.failed[step.name] = problem
        self.result.exit_code = self.result.exit_code or code
        self.events.phase_failed(step.name, problem)
        if self.failed and self.running:
            rest = counted(len(self.running), "phase")
            self.events.note(f"no other phase begins; {rest} still trained, and Ctrl-C stops that at a checkpoint")
