"""Runs a plan's phases, one after another. Without torch until a phase must be trained.

A phase that another process trains comes later: what else is ready goes first, and the run waits only for such phases.
"""

from __future__ import annotations

import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdplan.diagnostics.report import PlanError, diagnostic
from kdplan.ir.dag import PhaseKey, Planned
from kdplan.ir.plan import Plan
from kdplan.passes.stacking import is_stacked
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.interrupt import INTERRUPTED, Interrupt, Interrupted
from kdplan.runtime.memory import freed_memory_kept
from kdplan.runtime.options import RunOptions
from kdplan.runtime.space import Patience
from kdplan.runtime.store import Artifact, Store, StoreCorrupt, StoreError, StoreLocked, StoreLost, StoreMissing, Work
from kdplan.runtime.versions import SharedSources, Sources

if TYPE_CHECKING:
    from kdplan.runtime.phase import Assemble, PhaseRun
    from kdplan.runtime.stacks import Stacks

POLL = 0.5
"""Seconds between two looks at phases that other processes train, where nothing else is ready."""
RARE = 4
"""And so many times what a look took: where another process makes frozen values, a phase is built to find that out."""


@dataclass
class RunResult:
    """How a run ended.

    Attributes
    ----------
    exit_code : int
        0 all is done, 1 a phase failed, 3 locked, 4 the store is damaged, 75 interrupted and resumable.
    trained, cached, skipped : list of str
        Phases that were trained now, were there already, or could not run because of others.
    failed : dict
        Phase -> its error.
    """

    exit_code: int = 0
    trained: list[str] = field(default_factory=list)
    cached: list[str] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)
    failed: dict[str, PlanError] = field(default_factory=dict)
    interrupted: str | None = None
    """The phase that was running when the run was asked to stop."""
    by: str = ""
    """What asked: a signal's name."""

    @property
    def done(self) -> set[str]:
        """Phases whose artifact is in the store."""
        return {*self.trained, *self.cached}


def run_plan(
    plan: Plan,
    planned: Mapping[str, Planned],
    keys: Mapping[str, PhaseKey],
    store: Store,
    options: RunOptions | None = None,
    events: Events | None = None,
    *,
    assemble: Assemble | None = None,
    interrupt: Interrupt | None = None,
    part: bool = False,
) -> RunResult:
    """Runs the actions of `planned`, in its order; a finished phase is in the store before the next begins.

    Parameters
    ----------
    plan : Plan
    planned : mapping
        Phase name -> its action, every phase after those that it needs.
    keys : mapping
        Phase name -> key, for every phase whose weights are read.
    store : Store
    options : RunOptions, optional
    events : Events, optional
        Receives every moment of the run.
    assemble : callable, optional
        Builds the graphs of a phase instead of `kdplan.graph.assemble`.
    interrupt : Interrupt, optional
        Stops the run where others than a signal ask for that.
    part : bool
        Whether the plan has more phases than `planned`, of which others know what became.

    Returns
    -------
    RunResult
    """
    options, events = options or RunOptions(), events or NoEvents()
    result = RunResult()
    events.plan_started(planned)
    interrupt = interrupt or Interrupt()
    try:
        with interrupt:
            runner = Runner(plan, planned, keys, store, options, events, interrupt, assemble, result)
            later, noted = list(planned.values()), set[str]()
            while later and not runner.ended:
                steps, later, began = later, [], time.monotonic()
                for step in steps:
                    if runner.ended or step.name in runner.settled or spared(step, result):
                        continue
                    if {s.name for s in later} & {*step.needs, step.same_as} or not runner.attempt(step):
                        later.append(step)
                    elif options.plan_file:
                        new = result.done - noted
                        store.remember(options.plan_file, {n: keys[n].key for n in new})
                        noted |= new
                if len(later) == len(steps):
                    interrupt.sleep(max(POLL, RARE * (time.monotonic() - began)))
        if options.plan_file and result.done:
            store.remember(
                options.plan_file, {n: keys[n].key for n in result.done}, result.done == planned.keys() and not part
            )
        if interrupt.requested:
            result.exit_code, result.by = result.exit_code or INTERRUPTED, interrupt.by
        result.skipped += [n for n in planned if n not in result.done | result.failed.keys() | {*result.skipped}]
    finally:
        events.finished()
    return result


def repairing(
    plan: Plan,
    planned: Mapping[str, Planned],
    keys: Mapping[str, PhaseKey],
    store: Store,
    options: RunOptions,
    events: Events | None = None,
) -> Callable[[Path], bool]:
    """A function that trains the phase of a damaged artifact's folder again, and says whether it did."""

    def repair(folder: Path) -> bool:
        step = maker_of(planned, store, folder)
        if step is None:
            return False
        report_repair(step, events or NoEvents())
        again = run_plan(plan, {**planned, step.name: replace(step, action="rerun")}, keys, store, options, events)
        return again.exit_code == 0 and step.name in again.trained

    return repair


def maker_of(planned: Mapping[str, Planned], store: Store, folder: Path | None) -> Planned | None:
    """The step that makes the artifact in a folder."""
    steps = (s for s in planned.values() if s.same_as is None)
    return next((s for s in steps if store.phase_folder(s.key) == folder), None)


def report_repair(step: Planned, events: Events) -> None:
    notice = diagnostic("KD0915", None, phase=step.name)
    events.note(f"{notice.code}: {notice.message}")


def spared(step: Planned, result: RunResult) -> bool:
    """Notes phases that need no work or cannot be worked on."""
    if step.action == "cached" or (step.same_as is not None and step.same_as in result.done):
        result.cached.append(step.name)
        return True
    lost = {*result.failed, *result.skipped}
    same_lost = step.same_as is not None and step.same_as in lost
    if step.action == "blocked" or same_lost or any(need in lost for need in step.needs):
        result.skipped.append(step.name)
        return True
    return False


@dataclass
class Runner:
    """Trains phases; what all of them need."""

    plan: Plan
    planned: Mapping[str, Planned]
    keys: Mapping[str, PhaseKey]
    store: Store
    options: RunOptions
    events: Events
    interrupt: Interrupt
    assemble: Assemble | None
    result: RunResult
    repaired: set[str] = field(default_factory=set)
    stacks: Stacks | None = None
    settled: set[str] = field(default_factory=set)
    """Phases that a stack has trained, or that failed in one."""

    @property
    def ended(self) -> bool:
        """Whether no further phase is to be trained."""
        stopped = self.result.interrupted is not None
        return stopped or (bool(self.result.failed) and not self.options.keep_going)

    def attempt(self, step: Planned) -> bool:
        """Trains one phase or notes why that failed; False where another process has it, and it comes later.

        Where its recipe says so, phases with an equal graph that are ready are trained with it, as a stack.
        """
        if is_stacked(self.plan, step):
            if self.stacks is None:
                from kdplan.runtime.stacks import Stacks

                self.stacks = Stacks(self)
            self.stacks.train(step)
            if step.name in self.settled or self.ended:
                return True
        try:
            self.train(step)
        except (Interrupted, PlanError) as problem:
            return self.stopped(step, problem)
        return True

    def stopped(self, step: Planned, problem: Interrupted | PlanError) -> bool:
        """Notes why a phase did not end well; False where another process has it, and it comes later."""
        result = self.result
        if isinstance(problem, Interrupted):
            result.interrupted, result.exit_code = step.name, INTERRUPTED
        elif isinstance(problem, StoreLost):
            notice = problem.diagnostics[0]
            self.events.note(f"{notice.code}: {notice.message}")
            result.interrupted, result.exit_code, result.by = step.name, INTERRUPTED, "the loss of its lease"
        elif isinstance(problem, StoreLocked) and self.options.wait:
            holder = self.store.holder(step.key)
            who = f"Process {holder.pid} on {holder.host} has trained it since {holder.since}." if holder else ""
            at = self.store.running_step(step.key)
            self.events.elsewhere(step.name, who or problem.diagnostics[0].message, at)
            return False
        else:
            result.failed[step.name] = problem
            result.exit_code = result.exit_code or (problem.exit_code if isinstance(problem, StoreError) else 1)
            self.events.phase_failed(step.name, problem)
            _forget_frames(problem)
        return True

    def train(self, step: Planned) -> None:
        """Trains one phase; a damaged or missing artifact that it reads is made again first.

        Hashes are compared where files are read, so that no file is read for this alone.
        """
        while True:
            try:
                return self._train(step)
            except (StoreCorrupt, StoreMissing) as damage:
                if step.extends is not None and damage.folder == self.store.phase_folder(step.extends):
                    step = replace(step, extends=None)  # from the start instead
                    report_repair(step, self.events)
                    continue
                maker = maker_of(self.planned, self.store, damage.folder)
                if maker is None or maker.key in self.repaired:
                    raise
                report_repair(maker, self.events)
                self.repaired.add(maker.key)
                self.train(replace(maker, action="rerun"))

    def _train(self, step: Planned) -> None:
        """Trains a phase, unless another process has done so in the meantime."""
        from kdplan.runtime.phase import run_phase

        if self.interrupt.requested:
            raise Interrupted
        key = self.keys[step.name]
        patience = Patience(self.options.wait_for_space, self.events, self.interrupt)
        with patience.write(lambda: self.store.begin(key.key, watch=not self.options.wait)) as work:
            if self.was_trained(step, work):
                return
            phase, ranks, run = self.plan.phases[step.name], self.options.ranks, self.surroundings(step)
            if ranks is not None and (ranks.way or phase.recipes[0].shards > 1):
                ranks.check(self.plan, phase)
                run.ranks, run.sources = ranks, SharedSources(self.plan, self.store, self.keys, ranks)
            with freed_memory_kept():
                artifact = run_phase(run, phase, key, work)
            self.result.trained.append(step.name)
            _note_speed(self.store, step, artifact)

    def surroundings(self, step: Planned) -> PhaseRun:
        """What a phase needs of this run."""
        from kdplan.runtime.phase import PhaseRun

        run = PhaseRun(Sources(self.plan, self.store, self.keys), self.options, self.events, self.interrupt,
                       cost=step.cost, extends=step.extends)  # fmt: skip
        if self.assemble is not None:
            run.assemble = self.assemble
        return run

    def was_trained(self, step: Planned, work: Work) -> bool:
        """Whether another process has trained a phase in the meantime; notes it then."""
        if not _sound(self.store, step.key):
            return False
        work.discard()
        self.result.cached.append(step.name)
        summary = self.store.artifact(step.key).summary
        self.events.phase_done(step.name, summary["seconds"], summary)
        return True


def _forget_frames(problem: BaseException | None) -> None:
    """Releases networks, data and loader workers that the frames of a failed phase hold."""
    while problem is not None:
        traceback.clear_frames(problem.__traceback__)
        problem = problem.__cause__


def _note_speed(store: Store, planned: Planned, artifact: Artifact) -> None:
    """Stores how fast this device was, for predictions."""
    cost = store.number("costs", planned.key)
    if cost is None and planned.cost is not None:
        cost = {"flops_step": planned.cost.flops_step}
    summary, environment = artifact.summary, artifact.json("environment.json")
    if cost and summary["seconds"] > 0:
        device = str(environment.get("gpu", environment["device"]))
        store.keep_speed(device, planned.key, cost["flops_step"] * summary["steps"] / summary["seconds"])


def _sound(store: Store, key: str) -> bool:
    """Whether the phase is finished and every byte of it is as written."""
    if not store.has(key):
        return False
    try:
        store.verify(key)
    except StoreError:
        return False  # it is trained again, and its damaged files are replaced
    return True
