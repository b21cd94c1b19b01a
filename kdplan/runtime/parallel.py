"""A step on many processes as torch's DistributedDataParallel does it: gradients are summed while others are computed.

The sum is that of `shards.py`, Σᵢ (nᵢ/n) gᵢ for n samples of which shard i has nᵢ, in whatever order: its last bits
depend on the number of processes. Batch norm takes each shard's own statistics here, too, and the running ones become
the mean over the samples.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Protocol

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from kdplan.diagnostics.report import error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.plan import Plain, Recipe
from kdplan.runtime.averages import Averages
from kdplan.runtime.division import Division, Slot
from kdplan.runtime.first_batch import FirstBatch
from kdplan.runtime.interrupt import Interrupt
from kdplan.runtime.job import Job
from kdplan.runtime.optimise import Optimisers
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.recovery import State, untouched
from kdplan.runtime.shards import Layout, mark_of, statistics
from kdplan.runtime.store.atomic import Content
from kdplan.runtime.streams import Batch

_SETTINGS = signature(DistributedDataParallel).parameters
_BUFFERS = next(name for name in ("forward_sync_buffers", "broadcast_buffers") if name in _SETTINGS)
"""The setting by which torch sends buffers at every forward pass: its name is another one since 2.14."""

Graph = Callable[..., dict[str, Tensor]]
Compute = Callable[[int, Batch, float], Mapping[str, Tensor]]
"""A shard's forward and backward: its number, its samples, its share of the loss; gives the loss and its terms."""


class Trained(Protocol):
    """What the training loop shows of itself, and has exchanged where parameters are cut."""

    job: Job
    recipe: Recipe
    per_epoch: int
    total: int | None
    step: int
    optimisers: Optimisers
    averages: Averages
    first: FirstBatch | None

    def state(self) -> State:
        """Tensors, which may be parts, and plain values of a checkpoint."""
        ...

    def checkpoint(self) -> State:
        """The same of whole tensors."""
        ...

    def load(self, tensors: dict[str, Tensor], state: dict[str, Plain]) -> None:
        """The inverse."""
        ...

    def of_shard(self, number: int, batch: Batch, share: float) -> dict[str, Tensor]:
        """Adds the gradients of a shard."""
        ...


class Parallel:
    """Computes the gradients of a step together with other processes; stands in for the trainable graph.

    Parameters
    ----------
    graph : PhaseGraph
        On its device, in its modes.
    call : callable
        Its trainable graph, perhaps compiled.
    division : Division
    ranks : Ranks
    phase : str
    device : torch.device
        On which it trains.
    span : Span or None
        Of the loss, for errors.
    interrupt : Interrupt, optional
        Whether this rank was asked to stop.
    """

    early = False
    """Whether ranks look at the start of a step whether all came so far: they exchange something in forward passes."""

    def __init__(
        self,
        graph: PhaseGraph,
        call: Graph,
        division: Division,
        ranks: Ranks,
        phase: str,
        device: torch.device,
        span: Span | None = None,
        interrupt: Interrupt | None = None,
    ) -> None:
        self.graph, self.call, self.division = graph, call, division
        self.ranks, self.phase, self.span = ranks, phase, span
        self.names = ["loss", *graph.terms]
        self.stop = False
        """Whether any rank was asked to stop."""
        self.interrupt = interrupt or Interrupt()
        self._alone = self._met = self._known = self._compared = False
        self._last = self._sums = True
        state, running = graph.state(), statistics([graph.root, *graph.networks])
        self.averaged = {name: tensor for name, tensor in state.items() if id(tensor) in running}
        """Batch statistics, by name."""
        self.device = device
        scalar = torch.zeros((), dtype=torch.float64)
        like = {**self.averaged, **dict.fromkeys(self.names, scalar)}
        self.layout = Layout(device, {name: t.detach().to("meta") for name, t in like.items()})
        self.wrapped = self._wrap(device)

    def _wrap(self, device: torch.device) -> nn.Module | None:
        """The trainable graph as a module that sums gradients over the ranks in its backward pass."""
        if device.type == "mps":
            raise error("KD0985", self.span, phase=self.phase, device=device.type)
        group = dist.new_group(backend="gloo") if self.ranks.through_host and device.type == "cuda" else None
        whole = _Whole(self.graph.trainable_graph, self.call)
        unused = any(not type(m).__module__.startswith("torch.nn.") for m in _called(self.graph.trainable_graph))
        return DistributedDataParallel(
            whole,
            process_group=group,
            init_sync=False,
            **{_BUFFERS: False},  # type: ignore[arg-type]
            find_unused_parameters=unused,  # a module of somebody else's may leave some of its own out
        )

    def _keeping(self) -> AbstractContextManager[None]:
        """Within it gradients are added up on this rank alone."""
        context: AbstractContextManager[None] = self.wrapped.no_sync()  # type: ignore[operator, union-attr]
        return context

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """The trainable graph on a shard; before ranks sum anything, they look whether all came so far."""
        if self._alone:
            return self.call(**inputs)
        with nullcontext() if self._last else self._keeping():
            outputs: dict[str, Tensor] = self.wrapped(**inputs)  # type: ignore[misc]
        if self._sums:
            self.meet()
        return outputs

    # ---- a step

    def train(self, batch: Batch, step: int, compute: Compute, compare: bool = False) -> tuple[dict[str, Tensor], int]:
        """Leaves the gradients of a step's batch in the parameters; gives the loss with its terms, and its samples.

        Parameters
        ----------
        batch
            What this rank has loaded: the samples of its slots.
        step
            Counted from the phase's first.
        compute
            Computes one shard's gradients.
        compare
            Whether to compute the first shard on this rank alone before, for who compares it.

        Raises
        ------
        PlanError
            KD0953 for an error on another rank, KD0984 for a buffer that shards leave different.
        """
        slots, size = self.division.slots(step), float(self.ranks.size)
        self._met = self._known = False
        sums: dict[str, Tensor] = {}
        try:
            pieces = list(self.pieces(batch, slots))
            if compare:
                self._try(compute, slots[0].number, pieces[0])
            self._begin()
            values: dict[str, Tensor | None] = {}
            for at, (slot, piece) in enumerate(zip(slots, pieces, strict=True)):
                if at == 0 or slots[at - 1].part != slot.part:
                    start = untouched(self.graph)
                else:
                    self.graph.load_state(start)
                self._last = at == len(slots) - 1
                self._sums = self._last or (bool(self.averaged) and slots[at + 1].part != slot.part)
                terms = compute(slot.number, piece, slot.share * size)  # torch takes the mean over the ranks
                for name in self.names:
                    _add(values, name, terms[name].detach().double().mean() * slot.share)
                state = self.graph.state()
                for name in self.averaged:
                    _add(values, name, (state[name] - start[name]) * slot.share_of_part)
                if self._last:
                    self._end()
                if self._sums:
                    sums = self._summed(values)
                    values = {name: sums[name] / size for name in self.names}
                    changed = {name: start[name] + sums[name] for name in self.averaged}
                    self.graph.load_state(self.graph.state() | changed)
                    self._met = self._last or self.early
        except Exception as problem:
            self._fail(problem)
            raise
        self._compare()
        return {name: sums[name] for name in self.names}, self.division.samples(step)[0]

    @staticmethod
    def pieces(batch: Batch, slots: list[Slot]) -> Iterator[Batch]:
        """The samples of each slot."""
        at = [0] * len(slots[0].rows)
        for slot in slots:
            ends = [start + len(rows) for start, rows in zip(at, slot.rows, strict=True)]
            yield {name: t[at[n] : ends[n]] for name, t in batch.items() for n in [int(name.rpartition("_")[2])]}
            at = ends

    def _summed(self, values: Mapping[str, Tensor | None]) -> dict[str, Tensor]:
        """Sums over the ranks."""
        rows = {dtype: self.ranks.sum(row) for dtype, row in self.layout.rows(values).items()}
        return self.layout.tensors(rows)

    def _begin(self) -> None:
        """Before a step's first forward pass."""

    def _end(self) -> None:
        """After a step's last backward pass."""

    def _try(self, compute: Compute, number: int, piece: Batch) -> None:
        """Compute a shard on this rank alone, and put all back."""
        start, self._alone = untouched(self.graph), True
        try:
            compute(number, piece, 1.0)
        finally:
            self._alone = False
        self.graph.load_state(start)
        for parameter in self.graph.named_trainable().values():
            parameter.grad = None

    # ---- what stays as it is where every rank has all parameters

    def prepare(self, training: Trained, batch: Batch) -> None:
        """Before a step: what must be done before the first one."""

    def whole(self, tensors: dict[str, Tensor], step: int, keep: bool) -> dict[str, Tensor]:
        """The tensors of a checkpoint, of which ranks may have parts."""
        return tensors

    def divided(self, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        """The inverse of `whole`."""
        return tensors

    def written(self, training: Trained) -> dict[str, Content]:
        """Files with the parts that ranks have of a checkpoint, where they write them themselves; rank 0 orders it."""
        return {}

    def tidy(self) -> None:
        """Remove what `written` gave, when the checkpoint has it."""

    def write_parts(self, training: Trained, folder: str) -> None:
        """Write this rank's parts, as rank 0 has ordered."""

    def refresh(self, networks: Sequence[nn.Module]) -> None:
        """Load the weights of the last `whole` into copies of the trained networks, if these have parts only."""

    def all_agree(self, fine: bool) -> bool:
        """Whether something holds on every rank, where all compute the same."""
        return fine

    # ---- where a rank fails

    def meet(self, problem: Exception | None = None) -> None:
        """Learn whether every rank has come so far, and whether any was asked to stop.

        Raises
        ------
        Abandoned, PlanError
            As `Ranks.exchange`.
        """
        self._met = self._known = True
        rows = self.ranks.exchange([self.interrupt.requested], problem, self.phase, self.span)
        self.stop = any(row[0] for row in rows)
        self._known = False

    def _fail(self, problem: Exception) -> None:
        """Have the other ranks know of a problem, which they may know already."""
        if not self._met:
            self.meet(problem)
        elif not self._known:  # they are within a sum, and wait for this rank until it has left
            self.ranks.leave()

    def loaded(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The batches; where one cannot be loaded, the other ranks know."""
        try:
            yield from batches
        except Exception as problem:
            self.meet(problem)
            raise

    # ---- state that is no batch statistic

    def _compare(self) -> None:
        """KD0984 where ranks leave other state after the first step; later they compare before each checkpoint."""
        if self._compared:
            return
        self._compared = True
        not_these = self.graph.named_trainable().keys() | self.averaged
        others = {name: tensor for name, tensor in self.graph.state().items() if name not in not_these}
        names = sorted(others)
        columns = zip(*self.ranks.gather_numbers([mark_of({name: others[name]}) for name in names]), strict=True)
        if differing := [name for name, column in zip(names, columns, strict=True) if len({*column}) > 1]:
            shown = listing(dict.fromkeys(n.removeprefix("buffer/").removeprefix("nets.") for n in differing), 4)
            problem = error("KD0984", self.span, phase=self.phase, names=shown)
            self.ranks.exchange([], problem, self.phase, self.span)


class _Whole(nn.Module):
    """A graph as a module that calls it another way: compiled, for example."""

    def __init__(self, graph: nn.Module, call: Graph) -> None:
        super().__init__()
        self.graph = graph
        self.call = [call]  # in a list, so that it is no submodule a second time

    def forward(self, **inputs: Tensor) -> dict[str, Tensor]:
        """What the graph gives."""
        return self.call[0](**inputs)


def _called(graph: nn.Module) -> Iterator[nn.Module]:
    """The modules that a graph calls."""
    nodes = getattr(getattr(graph, "graph", None), "nodes", ())
    yield from (graph.get_submodule(str(n.target)) for n in nodes if n.op == "call_module")


def _add(values: dict[str, Tensor | None], name: str, value: Tensor) -> None:
    before = values.get(name)
    values[name] = before + value if before is not None else value
