"""Several phases with one graph, trained as one: the loop of a stack.

Each member stays a `Training` of its own, with its checkpoints, metrics, schedule, averages, validation and artifact.
Its parameters and buffers are views of rows of the stack's tensors, so all of that works as it does alone. A step
computes every member's loss and gradients at once.

Bits of a member follow from its phase and from its form: how many rows the stack has, which of them is the member's,
whether all read one batch, and which numbers of the graph are rows. Members who else are in the stack change nothing.
So checkpoints have the form, and a phase that goes on keeps it: rows whose phase has ended, or is trained elsewhere,
stay empty.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from torch import Tensor, fx, nn

from kdplan.diagnostics.report import PlanError
from kdplan.graph.stack import NotStackable, StackedGraph, differing, number_of, tensors_of
from kdplan.ir.expr import STEP_COUNTERS
from kdplan.ir.plan import Plain
from kdplan.runtime.interrupt import Interrupted
from kdplan.runtime.loop import Training
from kdplan.runtime.stack_optimise import StackedOptimizers
from kdplan.runtime.streams import Batch, samples, split

T = TypeVar("T")
Members = dict[int, Training]
"""Row -> the phase that has it."""
End = Callable[[int, BaseException | None], None]
"""Called when the member of a row has ended, with what went wrong."""


@dataclass(frozen=True)
class Form:
    """What decides the bits of the members of a stack, besides their phases.

    Attributes
    ----------
    width
        Rows of the stack.
    shared
        Whether all members read the same batches.
    numbers
        The numbers of the graph that are rows, as `graph.stack.differing` names them.
    """

    width: int
    shared: bool
    numbers: tuple[str, ...]

    def record(self, row: int) -> dict[str, Plain]:
        """The form of the member of a row, for checkpoints and artifacts."""
        return {"width": self.width, "row": row, "shared": self.shared, "numbers": list(self.numbers)}

    @staticmethod
    def of(record: Mapping[str, Plain]) -> tuple[Form, int]:
        """The inverse of `record`.

        >>> Form.of(Form(3, True, ("3#0",)).record(2))
        (Form(width=3, shared=True, numbers=('3#0',)), 2)
        """
        return Form(record["width"], record["shared"], tuple(record["numbers"])), record["row"]


class Stack:
    """The members of a stack, and their state.

    Parameters
    ----------
    members
        Row -> training; rows without one stay empty.
    form
        Of the stack.

    Raises
    ------
    NotStackable
        If the members' graphs cannot be one.
    """

    def __init__(self, members: Members, form: Form) -> None:
        self.members, self.form = dict(members), form
        first = next(iter(self.members.values()))
        gm = graph_of(first)
        self.device = first.job.device
        self.graph = StackedGraph(gm, form.numbers, self.device)
        self.inputs = first.job.phase_graph.trainable_inputs
        values = {row: [number_of(graph_of(t), n) for n in form.numbers] for row, t in self.members.items()}
        columns = zip(*self._filled(values), strict=True) if form.numbers else ()
        self.numbers = {n: torch.tensor(c, device=self.device) for n, c in zip(form.numbers, columns, strict=True)}
        names = self.graph.names
        self.homes = {row: dict(zip(names, tensors_of(graph_of(t)), strict=True)) for row, t in self.members.items()}
        trained = {id(p) for p in first.job.phase_graph.named_trainable().values()}
        self.tensors: dict[str, Tensor] = {}
        owners: dict[int, str] = {}
        for name, tensor in self.homes[next(iter(self.homes))].items():
            if id(tensor) in owners:  # another name of the same
                self.tensors[name] = self.tensors[owners[id(tensor)]]
                continue
            owners[id(tensor)] = name
            rows = self._filled({row: home[name].detach() for row, home in self.homes.items()})
            self.tensors[name] = torch.stack(rows).requires_grad_(id(tensor) in trained)
        self.own = list(owners.values())
        self.trained = [n for n in self.own if self.tensors[n].requires_grad]
        self.optimizers = StackedOptimizers(self.members, self.homes, {n: self.tensors[n] for n in self.trained})
        self.bound: set[int] = set()
        """Rows whose member's tensors are views of the stack's."""
        self.common = _common_frozen(self.members) if form.shared else False
        frozen = [t.job.phase_graph.frozen for t in self.members.values()]
        self.draws_anything = self.graph.is_random or any(map(_is_random, frozen))
        self._batches: dict[int, _Batches] = {}

    @property
    def first(self) -> Training:
        """One of the members."""
        return next(iter(self.members.values()))

    def _filled(self, rows: Mapping[int, T]) -> list[T]:
        """A value for each row: empty ones get that of the first member."""
        first = next(iter(rows.values()))
        return [rows.get(row, first) for row in range(self.form.width)]

    def _bind(self, rows: Collection[int]) -> None:
        """Let the tensors of these members be views of their rows, and those of the others be their own."""
        for row in self.bound - {*rows}:
            self.release(row)
        for row in {*rows} - self.bound:
            for name in self.own:
                tensor, home = self.tensors[name].data[row], self.homes[row][name]
                tensor.copy_(home.detach())
                home.data = tensor
            self.optimizers.bind(row)
            self.bound.add(row)

    def release(self, row: int) -> None:
        """Give a member tensors of its own, until it is active again."""
        if row in self.bound:
            for name in self.own:
                home = self.homes[row][name]
                home.data = home.data.clone()
            self.optimizers.release(row)
            self.bound.discard(row)

    def leave(self, row: int) -> Training:
        """Let a member go, with tensors of its own; its row is empty from now on."""
        self.release(row)
        self.homes.pop(row)
        self._batches.pop(row, None)
        return self.members.pop(row)

    # ---- the loop

    def run(self, ended: End) -> None:
        """Train all members to their ends; each is reported as soon as it has ended.

        Raises
        ------
        Interrupted
            When the run's interrupt asks for it; every member has a checkpoint then.
        """
        with ExitStack() as stack:
            for training in self.members.values():
                stack.enter_context(training.saving)
            for row in [row for row, t in self.members.items() if t.finished]:
                self._end(row, ended)
            while self.members:
                self._advance(ended)

    def _advance(self, ended: End) -> None:
        """One step of those that are furthest behind; after a resume, the others wait for them."""
        at = min(t.step for t in self.members.values())
        active = {row: t for row, t in self.members.items() if t.step == at}
        self.train_step(active, self._next(active))
        epochs = {row: t.step // t.per_epoch for row, t in active.items()}
        for training in active.values():
            training.step += 1
        last = {row: t.step % t.per_epoch == 0 or t.step == t.total for row, t in active.items()}
        if any(t.due(last[row]) for row, t in active.items()):
            for training in active.values():  # all at one step, so that a resumed stack need not wait for some
                training.saved_at = -math.inf
        stopped: set[int] = set()
        for row, training in active.items():
            try:
                training.after_step(epochs[row])
                if training.finished:
                    self._end(row, ended)
            except Interrupted:
                stopped.add(row)
            except PlanError as problem:
                self._go_back(row, problem, ended)
            except Exception as problem:  # a member's validation runs its own code
                self.leave(row)
                ended(row, problem)
        if stopped:
            for row in active.keys() & self.members.keys() - stopped:
                self.members[row].save(at_once=True)
            raise Interrupted

    def _end(self, row: int, ended: End) -> None:
        training = self.members[row]
        training.check_finite()
        training.saving.collect(wait=True)
        self.leave(row)
        ended(row, None)

    def _go_back(self, row: int, problem: PlanError, ended: End) -> None:
        try:
            self.members[row].go_back(problem)
            self.release(row)  # its optimizer has a state of its own now
            self._batches.pop(row, None)
        except PlanError as final:
            self.leave(row)
            ended(row, final)

    def _next(self, active: Members) -> dict[int, Batch]:
        """The batch of each active member."""
        if self.form.shared:
            leader = next(iter(active))
            batch = self._batch(leader, active[leader])
            return dict.fromkeys(active, batch)
        return {row: self._batch(row, training) for row, training in active.items()}

    def _batch(self, row: int, training: Training) -> Batch:
        batches = self._batches.get(row)
        if batches is None or batches.step != training.step:
            batches = self._batches[row] = _Batches(training)
        return batches.next()

    # ---- a step

    def train_step(self, active: Members, batches: Mapping[int, Batch]) -> None:
        """One step of every active member, each on its batch."""
        alone = {} if self.form.shared else {r: t for r, t in active.items() if not is_full(t, batches[r])}
        for row, training in alone.items():  # other shapes
            self.release(row)
            training.train_step(batches[row])
        if together := {row: t for row, t in active.items() if row not in alone}:
            self._step(together, batches)

    def _step(self, active: Members, batches: Mapping[int, Batch]) -> None:
        self._bind(active)
        befores = {row: self._copied(row) for row, t in active.items() if t.recovery.skips}
        whole = samples(batches[next(iter(active))])
        for training in active.values():
            training.optimisers.start_step(training.step)
            training.seen += whole
        for name in self.trained:
            self.tensors[name].grad = None
        states = self._seeded(active)
        size = next(iter(active.values())).recipe.batch_of()
        parts = {row: list(split(batches[row], size)) for row in active}
        terms: list[tuple[dict[str, Tensor], int]] = []
        for number in range(len(next(iter(parts.values())))):
            part = {row: p[number] for row, p in parts.items()}
            count = samples(next(iter(part.values())))
            terms.append((self._gradients(active, part, states, count / whole), count))
        self._finish(active, terms, befores)

    def _seeded(self, active: Members) -> dict[int, Tensor]:
        """The state of each member's generator as at the beginning of its step, where something is drawn."""
        states = {}
        if self.draws_anything:
            for row, training in active.items():
                training.seed()
                states[row] = self.graph.draws.state()
        return states

    def _gradients(
        self, active: Members, parts: Mapping[int, Batch], states: dict[int, Tensor], share: float
    ) -> dict[str, Tensor]:
        """Add the gradients of a part of each batch; give the loss and its logged terms, [k] each."""
        known = self._known(active, parts, states)
        one = next(iter(active))
        shared = {n: known[one][n] for n in self.inputs if self.form.shared and n in parts[one]}
        own = [n for n in self.inputs if n not in shared]
        rows = {n: torch.stack(self._filled({r: k[n] for r, k in known.items()})) for n in own}
        draws = self.graph.draws
        if states:
            draws.states = self._filled(states)
        result = self.graph(self.tensors, self.numbers, rows, shared)
        states.update({row: draws.states[row] for row in states})
        loss = result["loss"] if len(active) == self.form.width else result["loss"][list(active)]
        total = loss.sum()
        (total * share if share != 1 else total).backward()  # type: ignore[no-untyped-call]
        return {name: value.detach() for name, value in result.items()}

    def _known(
        self, active: Members, parts: Mapping[int, Batch], states: dict[int, Tensor]
    ) -> dict[int, dict[str, Tensor]]:
        """What each member's trainable graph reads: its batch, and what its frozen graph gives."""
        known: dict[int, dict[str, Tensor]] = {}
        crossing: dict[str, Tensor] | None = None
        for row, training in active.items():
            own = training.known(parts[row])
            if crossing is None or not self.common:
                if states:
                    self.graph.draws.load(states[row])
                crossing = self._named(training, training.crossing(own))
                if states:
                    states[row] = self.graph.draws.state()
            known[row] = self._named(training, own) | crossing
        return known

    def _named(self, training: Training, values: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What a member's graph reads, by the names that it has in the stack's."""
        pairs = zip(self.inputs, training.job.phase_graph.trainable_inputs, strict=True)
        return {name: values[own] for name, own in pairs if own in values}

    def _finish(
        self,
        active: Members,
        terms: list[tuple[dict[str, Tensor], int]],
        befores: Mapping[int, dict[str, Tensor]],
    ) -> None:
        """Update what is trained, and what watches it."""
        skipped = {row for row, before in befores.items() if not self._is_finite(row, terms)}
        for result, size in terms:
            names = list(result)
            wide = [v.to(self.first.watch.wide) for v in result.values()]
            means = torch.stack([v.flatten(1).mean(1) if v.dim() > 1 else v for v in wide], 1)
            for row, training in active.items():
                if row not in skipped:
                    training.watch.begin(names)
                    training.watch.add_row(means[row], size, training.step)
        with self._kept(skipped, befores):
            self.optimizers.step(active)
        for row, training in active.items():
            if row in skipped:
                training.recovery.skipped += 1
            else:
                training.averages.update()

    def share_gradients(self, active: Members) -> None:
        """Let the parameters of members have the gradients of the last step."""
        for row in active:
            for name in self.trained:
                gradient = self.tensors[name].grad
                self.homes[row][name].grad = gradient[row] if gradient is not None else None

    def _is_finite(self, row: int, terms: list[tuple[dict[str, Tensor], int]]) -> bool:
        """Whether the losses of a member and its gradients are finite."""
        gradients = [t.grad[row] for n in self.trained if (t := self.tensors[n]).grad is not None]
        losses = [value[row] for result, _ in terms for value in result.values()]
        return all(bool(torch.isfinite(t).all()) for t in (*losses, *gradients))

    @contextmanager
    def _kept(self, rows: Collection[int], befores: Mapping[int, dict[str, Tensor]]) -> Iterator[None]:
        """Inside, what members of these rows have may change; afterwards it is as before the step."""
        trained = {row: {n: self.tensors[n].data[row].clone() for n in self.trained} for row in rows}
        states = {row: self.optimizers.copied(row) for row in rows}
        yield
        for row in rows:
            for name, tensor in (befores[row] | trained[row]).items():
                self.tensors[name].data[row] = tensor
            self.optimizers.put_back(row, states[row])

    def _copied(self, row: int) -> dict[str, Tensor]:
        """A copy of what a forward pass may change of a member."""
        return {n: self.tensors[n].data[row].clone() for n in self.own if n not in self.trained}


class _Batches:
    """The batches of one member, from its step on."""

    def __init__(self, training: Training) -> None:
        self.step, self.training = training.step, training
        self._iterator: Iterator[Batch] | None = None

    def next(self) -> Batch:
        """The batch of this step."""
        per_epoch = self.training.per_epoch
        if self._iterator is None or self.step % per_epoch == 0:
            self._iterator = self.training.job.streams.epoch(*divmod(self.step, per_epoch))
        self.step += 1
        return next(self._iterator)


def is_full(training: Training, batch: Batch) -> bool:
    """Whether a batch has all samples that a step may have."""
    return samples(batch) == training.recipe.batch_of() * training.recipe.accumulate


def graph_of(training: Training) -> fx.GraphModule:
    """The trainable graph of a phase."""
    graph = training.job.phase_graph.trainable_graph
    if not isinstance(graph, fx.GraphModule):
        raise NotStackable("it is no graph")
    return graph


def _is_random(graph: nn.Module | None) -> bool:
    return isinstance(graph, fx.GraphModule) and any(n.meta.get("random") for n in graph.graph.nodes)


def _common_frozen(members: Members) -> bool:
    """Whether the members' frozen graphs give the same for a batch, so that one of them is enough."""
    first, *others = (t.job for t in members.values())
    if any(job.stored is not None for job in (first, *others)):
        return False
    graphs = [job.phase_graph.frozen for job in (first, *others)]
    if graphs[0] is None:
        return True
    if set(first.phase_graph.frozen_inputs) & set(STEP_COUNTERS) or first.phase_graph.ema_copies:
        return False
    return all(_equal(graphs[0], graph) for graph in graphs[1:])


def _equal(one: nn.Module | None, other: nn.Module | None) -> bool:
    if not isinstance(one, fx.GraphModule) or not isinstance(other, fx.GraphModule):
        return False
    if any(n.meta.get("random") or n.meta.get("buffers") or n.meta.get("mutates") for n in one.graph.nodes):
        return False
    try:
        if differing([one, other]):
            return False
    except NotStackable:
        return False
    return all(map(torch.equal, tensors_of(one), tensors_of(other)))
