"""Stacks of a run: which ready phases train as one, and what becomes of each of them.

A phase that no stack takes is left to the run, which trains it alone; the run says once why.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Protocol

import torch

from kdplan.diagnostics.report import PlanError, counted, diagnostic
from kdplan.graph.stack import NotStackable, differing, why_not
from kdplan.graph.state import draws_undone
from kdplan.ir.dag import PhaseKey, Planned
from kdplan.ir.plan import Phase, Plan
from kdplan.passes.keys import view_content
from kdplan.passes.layout import layout
from kdplan.passes.stacking import is_stacked, most, stack_key
from kdplan.runtime.device import choose_device, rounding
from kdplan.runtime.events import Events
from kdplan.runtime.extend import adopt
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.loop import Training
from kdplan.runtime.memory import freed_memory_kept
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import PhaseRun, begin, commit, failed, in_its_surroundings, make_job
from kdplan.runtime.space import Patience
from kdplan.runtime.stack_trial import try_out
from kdplan.runtime.stacked import Form, Stack, graph_of
from kdplan.runtime.store import Store, StoreError, Work, phase_json

FASTER = 0.9
"""`auto` stacks where a step takes less than this part of the time of its members alone."""


class Result(Protocol):
    """How the phases of a run have ended so far."""

    trained: list[str]
    failed: dict[str, PlanError]

    @property
    def done(self) -> set[str]:
        """Phases whose artifact is in the store."""
        ...


class Runner(Protocol):
    """What a stack needs of the run around it."""

    plan: Plan
    planned: Mapping[str, Planned]
    keys: Mapping[str, PhaseKey]
    store: Store
    options: RunOptions
    events: Events
    interrupt: Interrupt
    settled: set[str]

    @property
    def result(self) -> Result:
        """How its phases have ended so far."""
        ...

    @property
    def ended(self) -> bool:
        """Whether no further phase is to be trained."""
        ...

    def surroundings(self, step: Planned) -> PhaseRun:
        """What a phase needs of the run."""
        ...

    def was_trained(self, step: Planned, work: Work) -> bool:
        """Whether another process has trained a phase in the meantime; notes it then."""
        ...

    def stopped(self, step: Planned, problem: Interrupted | PlanError) -> bool:
        """Notes why a phase did not end well."""
        ...


@dataclass
class _Member:
    """A phase of which this process has the lock."""

    step: Planned
    phase: Phase
    run: PhaseRun
    work: Work
    form: tuple[Form, int] | None = None
    """The form with which it began, and its row."""
    training: Training | None = None

    @property
    def ready(self) -> Training:
        """The training, once it is made."""
        assert self.training is not None
        return self.training


@dataclass
class Stacks:
    """The stacks of the phases of `runner`.

    Attributes
    ----------
    refused
        Keys of phases that do not stack here.
    alone
        Phases that a stack was tried with, and that train alone.
    """

    runner: Runner
    refused: set[str] = field(default_factory=set)
    alone: set[str] = field(default_factory=set)

    def train(self, step: Planned) -> None:
        """Trains a phase as one with others that are ready. What is not trained afterwards is to be trained alone."""
        runner = self.runner
        phase = runner.plan.phases[step.name]
        key = stack_key(runner.plan, phase)
        if step.name in self.alone or key in self.refused:
            return
        with ExitStack() as locks, draws_undone():
            members = [self._member(locks, one) for one in self._ready(step, key)]
            for group in _groups([m for m in members if m is not None]):
                if runner.ended:
                    break
                self._train(group, key)
            self.alone |= {m.step.name for m in members if m is not None} - runner.settled

    def _ready(self, step: Planned, key: str) -> list[Planned]:
        """The phase, and others of its kind that wait for nothing."""
        runner, plan = self.runner, self.runner.plan
        ready = [step]
        for other in runner.planned.values():
            over = other.name in {*runner.settled, *self.alone, *runner.result.done, *runner.result.failed, step.name}
            idle = over or other.action in ("cached", "blocked") or other.same_as is not None
            idle = idle or not runner.result.done.issuperset(other.needs) or not is_stacked(plan, other)
            if not idle and stack_key(plan, plan.phases[other.name]) == key:
                ready.append(other)
        return ready[: most(plan.phases[step.name])]

    def _member(self, locks: ExitStack, step: Planned) -> _Member | None:
        """A phase with its lock; None where another process has it, or has trained it."""
        runner = self.runner
        run = runner.surroundings(step)
        patience = Patience(runner.options.wait_for_space, runner.events, runner.interrupt)
        try:
            work = locks.enter_context(patience.write(lambda: runner.store.begin(step.key)))
            if runner.was_trained(step, work):
                runner.settled.add(step.name)
                return None
            if step.extends is not None:
                adopt(work, run.sources.store.artifact(step.extends))
            checkpoint = work.latest_checkpoint()
        except StoreError:  # alone, it is waited for, repaired or reported
            return None
        member = _Member(step, runner.plan.phases[step.name], run, work)
        if checkpoint is not None:
            record = checkpoint.state.get("stack")
            if record is None:  # it began alone
                work.close()
                return None
            member.form = Form.of(record)
        return member

    # ---- one stack

    def _train(self, group: list[_Member], key: str) -> None:
        """Trains a group, or leaves it to the run with a reason."""
        runner, first = self.runner, group[0].phase
        device = choose_device(runner.options.device)
        name, known = device_name(device), f"{key}-{len(group)}"
        ratio = runner.store.stack_ratio(name, known)
        resumed = group[0].form is not None
        auto = first.recipes[0].stack == "auto" and not resumed
        try:
            if key in self.refused:
                raise NotStackable("")
            if (reason := _setting(runner.plan, first)) is not None:
                raise NotStackable(reason)
            if auto and ratio is not None and ratio >= FASTER:
                raise NotStackable(slow(len(group), ratio))
            if (built := self._built(group, device)) is None:
                return
            stack = self._stack(built)
            with in_its_surroundings(stack.first), freed_memory_kept():
                times = try_out(stack, auto and ratio is None)
                if times is not None:
                    runner.store.keep_stack_ratio(name, known, times.ratio)
                    if times.ratio >= FASTER:
                        raise NotStackable(slow(len(group), times.ratio))
        except NotStackable as problem:
            for member in group:
                member.training = None
                member.work.close()
            if resumed:  # what began in a stack cannot go on alone with the same bits
                self._lost_form(group, str(problem))
            if str(problem):
                self._refuse(key, first, str(problem))
            return
        self._run(stack, built, device)

    def _built(self, group: list[_Member], device: torch.device) -> list[_Member] | None:
        """The members with their trainings; None where fewer than two of a new stack can be built."""
        built = []
        for member in group:
            try:
                begin(member.run, member.phase)
                self._describe(member)
                member.training = Training(make_job(member.run, member.phase, member.step.key, member.work, device))
            except (PlanError, StoreError):  # alone, it is repaired or reported
                member.work.close()
                continue
            if (reason := why_not(member.ready.job.phase_graph.trainable_graph)) is not None:
                raise NotStackable(reason)
            built.append(member)
        if len(built) < 2 and not any(m.form for m in built):
            for member in built:
                member.work.close()
            return None
        return built

    def _describe(self, member: _Member) -> None:
        about = phase_json(member.phase.name, member.run.options.plan_file, self.runner.keys[member.step.name])
        member.run.patience.write(lambda: member.work.describe(about))

    def _stack(self, members: list[_Member]) -> Stack:
        """The stack of members that are built, which get their form."""
        numbers = tuple(differing([graph_of(m.ready) for m in members]))
        known = members[0].form
        if known is None:
            form = Form(len(members), self._share(members), numbers)
            for row, member in enumerate(members):
                member.form = form, row
                member.ready.form = form.record(row)
        else:
            form = known[0]
            if not set(numbers) <= set(form.numbers):
                raise NotStackable("their graphs differ in other numbers than before")
        return Stack({_row(m): m.ready for m in members}, form)

    def _share(self, members: list[_Member]) -> bool:
        """Whether all members read the same batches, and will."""
        plan = self.runner.plan

        def batches(phase: Phase) -> list[object]:
            views = [view_content(plan.data[v.data], v) for v in phase.streams]
            return [phase.seed, views]

        first = batches(members[0].phase)
        return all(batches(m.phase) == first and m.phase.recipes[0].on_nan.name != "rollback" for m in members)

    def _run(self, stack: Stack, members: list[_Member], device: torch.device) -> None:
        runner, rows = self.runner, {_row(m): m for m in members}
        for member in members:
            for notice in member.work.notices:
                runner.events.note(f"{notice.code}: {notice.message}")
            training = member.ready
            runner.events.phase_started(member.step.name, member.step.key, training.total, training.step)
        names = members[0].step.name
        names += f" and {counted(len(members) - 1, 'other')}" if len(members) > 1 else ""
        runner.events.note(f"{names}: trained as one, in a stack of {stack.form.width}")

        def ended(row: int, problem: BaseException | None) -> None:
            member = rows[row]
            if problem is None:
                try:
                    commit(member.run, member.phase, runner.keys[member.step.name], member.work, member.ready)
                    runner.result.trained.append(member.step.name)
                except PlanError as refusal:
                    problem = refusal
            if problem is not None:
                self._failed(member, device, problem)
            runner.settled.add(member.step.name)
            member.work.close()
            member.training = None

        try:
            with ExitStack() as surroundings:
                surroundings.enter_context(freed_memory_kept())
                for member in members:
                    surroundings.enter_context(in_its_surroundings(member.ready))
                stack.run(ended)
        except Interrupted as stop:
            for training in stack.members.values():
                runner.events.stopped(training.job.name, training.step)
            runner.stopped(rows[min(stack.members)].step, stop)
        except Exception as problem:  # of a step, in which all of them are
            for row in list(stack.members):
                ended(row, problem)

    def _failed(self, member: _Member, device: torch.device, problem: BaseException) -> None:
        training = member.ready
        self.runner.events.stopped(member.step.name, training.step)
        reported = failed(member.run, member.phase, training.step, device, problem)
        if not isinstance(reported, PlanError):
            raise reported
        self.runner.stopped(member.step, reported)

    # ---- what is said

    def _refuse(self, key: str, phase: Phase, reason: str) -> None:
        """Says once why phases of a kind train alone."""
        if key not in self.refused:
            self.refused.add(key)
            notice = diagnostic("KD1010", None, phase=phase.name, reason=reason)
            self.runner.events.note(f"{notice.code}: {notice.message}")

    def _lost_form(self, group: list[_Member], reason: str) -> None:
        """Says that phases go on alone which began in a stack."""
        for member in group:
            notice = diagnostic("KD1011", None, phase=member.step.name, reason=reason)
            self.runner.events.note(f"{notice.code}: {notice.message}")


def device_name(device: torch.device) -> str:
    """What a time on a device goes by."""
    return rounding(device, "")["device"]


def slow(width: int, ratio: float) -> str:
    return f"a stack of {width} takes {ratio:.2f} of the time of its phases alone"


def _row(member: _Member) -> int:
    assert member.form is not None
    return member.form[1]


def _groups(members: Iterable[_Member]) -> list[list[_Member]]:
    """Members that train as one: those of one form, each in its row; and those that begin."""
    groups: list[list[_Member]] = []
    new: list[_Member] = []
    for member in members:
        if member.form is None:
            new.append(member)
            continue
        form, row = member.form
        fitting = (g for g in groups if g[0].form is not None and g[0].form[0] == form and row not in map(_row, g))
        group = next(fitting, None)
        if group is None:
            groups.append([member])
        else:
            group.append(member)
    return [*groups, new] if len(new) > 1 else groups


def _setting(plan: Plan, phase: Phase) -> str | None:
    """The setting of a recipe that does not go with a stack, as a reason."""
    recipe = phase.recipes[0]
    for name in ("precision", "frozen_precision"):
        if getattr(recipe, name) not in ("fp32", None):
            return f"its recipe has `{name} = {getattr(recipe, name)}`"
    if recipe.compile:
        return f"its recipe has `compile = {str(recipe.compile).lower()}`"
    if layout(plan, phase, recipe) == "channels_last":
        return "its layout is `channels_last`; with `layout = contiguous` it may train in a stack"
    return None
