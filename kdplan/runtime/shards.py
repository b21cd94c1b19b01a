"""A step on the shards of a batch: the same bits on one process and on many.

Each of V shards has its own forward and backward, its own draws and its own batch statistics. What they give is summed
in the order of a fixed tree (`tree.py`), which knows V and not the number of ranks. Rank r of W computes the shards
r V/W … (r + 1) V/W - 1, so its block is one node of the tree, or a few; every rank gets the nodes of all and adds them
up alike.

The sum is Σᵢ (nᵢ/n) gᵢ for n samples of which shard i has nᵢ: the gradient of the mean over the batch.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _NormBase

from kdplan.diagnostics.report import PlanError, error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.runtime.ranks import Abandoned, Ranks
from kdplan.runtime.recovery import untouched
from kdplan.runtime.streams import Batch, samples
from kdplan.runtime.tree import Node, cover, tree_sum

CHUNK = 1 << 23
"""Numbers that are exchanged at once: each rank holds so many of every other rank."""

Step = Callable[..., Mapping[str, Tensor]]
"""One shard's forward and backward: its number, its samples, its share of the loss; gives the loss and its terms."""

Sums = dict[torch.dtype, Tensor]
"""All that is summed over shards, one row of numbers for each type."""


def cut(batch: Batch, count: int) -> list[Batch]:
    """The shards of a batch, of sizes that differ by at most one; fewer than `count` where samples are fewer.

    >>> [s["inputs_0"].tolist() for s in cut({"inputs_0": torch.arange(5)}, 4)]
    [[0, 1], [2], [3], [4]]
    """
    count = min(count, samples(batch))
    pieces = {name: tensor.tensor_split(count) for name, tensor in batch.items()}
    return [{name: piece[i] for name, piece in pieces.items()} for i in range(count)]


class Layout:
    """Where tensors of fixed shapes are in rows of numbers.

    Examples
    --------
    >>> layout = Layout(torch.device("cpu"), {"a": torch.zeros(2), "b": torch.zeros(1, 2)})
    >>> rows = layout.rows({"b": torch.ones(1, 2)})
    >>> rows[torch.float32].tolist(), layout.tensors(rows)["b"].tolist()
    ([0.0, 0.0, 1.0, 1.0], [[1.0, 1.0]])
    """

    def __init__(self, device: torch.device, like: Mapping[str, Tensor]) -> None:
        self.device, self.like = device, like

    def rows(self, values: Mapping[str, Tensor | None]) -> Sums:
        """Copies of tensors; zeros for those that are not there."""
        parts: dict[torch.dtype, list[Tensor]] = {}
        for name, like in self.like.items():
            value = values.get(name)
            row = value.detach().reshape(-1) if value is not None else like.new_zeros(like.numel(), device=self.device)
            parts.setdefault(like.dtype, []).append(row.to(self.device, like.dtype))
        return {dtype: torch.cat(row) for dtype, row in parts.items()}

    def tensors(self, rows: Sums) -> dict[str, Tensor]:
        """The tensors in rows, as views of them."""
        tensors, at = {}, dict.fromkeys(rows, 0)
        for name, like in self.like.items():
            start = at[like.dtype]
            at[like.dtype] += like.numel()
            tensors[name] = rows[like.dtype][start : at[like.dtype]].view(like.shape)
        return tensors


def _add(one: Sums, other: Sums) -> Sums:
    for dtype, row in one.items():
        row += other[dtype]
    return one


@dataclass(slots=True)
class _Own:
    """What this rank's shards gave."""

    nodes: list[Sums | None] = field(default_factory=list)
    """Sums of its nodes of the tree."""
    present: list[bool] = field(default_factory=list)
    """Which parameters got a gradient."""
    left: dict[str, Tensor] | None = None
    """State that is no batch statistic, after its first shard; None where it had no shard."""
    problem: Exception | None = None


class Shards:
    """Computes the gradients of a batch shard by shard.

    Parameters
    ----------
    graph : PhaseGraph
        On its device, in its modes.
    count : int
        V, the number of shards.
    ranks : Ranks
        This process among those that train the phase; their number divides `count`.
    phase : str
    span : Span or None
        Of the recipe's `shards`, for errors.
    """

    averages: type[_NormBase] = _NormBase
    """Modules in training mode whose statistics become the mean of those of the shards."""

    def __init__(self, graph: PhaseGraph, count: int, ranks: Ranks, phase: str, span: Span | None) -> None:
        self.graph, self.count, self.ranks, self.phase, self.span = graph, count, ranks, phase, span
        self.parameters = graph.named_trainable()
        self.names = ["loss", *graph.terms]
        self.nodes = [list(cover((0, count), Ranks(r, ranks.size).shards_of(count))) for r in range(ranks.size)]
        self.stop = False
        """Whether any rank was asked to stop."""
        state, running = graph.state(), statistics([graph.root, *graph.networks], self.averages)
        self.averaged = {name: tensor for name, tensor in state.items() if id(tensor) in running}
        """Batch statistics, by name."""
        device = next(iter(state.values())).device
        scalar = torch.zeros((), dtype=torch.float32 if device.type == "mps" else torch.float64)
        like = {**self.parameters, **self.averaged, **dict.fromkeys(self.names, scalar)}
        self.layout = Layout(device, {name: t.detach().to("meta") for name, t in like.items()})

    def train(self, batch: Batch, whole: int, step: Step, stop: bool = False) -> dict[str, Tensor]:
        """Add the gradients of a part of a step's batch to those of the parameters; gives the loss and its terms.

        Parameters
        ----------
        batch
            The part, of all ranks.
        whole
            Samples of the step.
        step
            Computes one shard's gradients.
        stop
            Whether this rank was asked to stop; `self.stop` says it of all.

        Raises
        ------
        PlanError
            KD0951 for a buffer that shards leave different, KD0953 for an error on another rank.
        """
        shards, earlier = cut(batch, self.count), [p.grad for p in self.parameters.values()]
        start = untouched(self.graph)
        own = self._own(shards, whole, step, start)
        present = self._agreed(own, stop, len(shards))
        sums = self.layout.tensors(self._over_ranks(own.nodes, len(shards)))
        for (name, parameter), has, before in zip(self.parameters.items(), present, earlier, strict=True):
            parameter.grad = before
            if has:  # in the parameter's layout in memory, by which norms are rounded
                gradient = torch.empty_like(parameter).copy_(sums[name])
                parameter.grad = before.add_(gradient) if before is not None else gradient
        self.graph.load_state(self.graph.state() | {name: start[name] + sums[name] for name in self.averaged})
        return {name: sums[name] for name in self.names}

    def _own(self, shards: list[Batch], whole: int, step: Step, start: dict[str, Tensor]) -> _Own:
        """What the shards of this rank give; what one of them raises is kept."""
        own = _Own(present=[False] * len(self.parameters))
        total = sum(map(samples, shards))

        def shard(number: int) -> Sums | None:
            if number >= len(shards):
                return None
            if own.left is not None:
                self.graph.load_state(start)
            for parameter in self.parameters.values():
                parameter.grad = None
            size = samples(shards[number])
            terms = step(number, shards[number], size / whole)
            return self._row(own, {name: p.grad for name, p in self.parameters.items()}, terms, size / total, start)

        try:
            own.nodes = [tree_sum(node, shard, _add, {}) for node in self.nodes[self.ranks.rank]]
        except Exception as problem:  # the other ranks must know before anybody leaves
            if self.ranks.size == 1:
                raise
            own.problem = problem
        return own

    def _row(
        self,
        own: _Own,
        gradients: Mapping[str, Tensor | None],
        terms: Mapping[str, Tensor],
        share: float,
        start: Mapping[str, Tensor],
    ) -> Sums:
        """What a shard with this share of the samples adds to the sums; its state is that of the graph now."""
        self._compare_left(own)
        values = dict(gradients)
        own.present = [has or value is not None for has, value in zip(own.present, values.values(), strict=True)]
        state = self.graph.state()
        values |= {name: (state[name] - start[name]) * share for name in self.averaged}
        wide = self.layout.like["loss"].dtype
        values |= {name: terms[name].detach().to(wide).mean() * share for name in self.names}
        return self.layout.rows(values)

    def loaded(self, batches: Iterable[Batch]) -> Iterator[Batch]:
        """The same batches; what one rank cannot read ends the phase on all of them."""
        reader = iter(batches)
        while True:
            try:
                batch = next(reader, None)
            except Exception as problem:
                if self.ranks.size > 1:
                    self._fail(problem)
                raise
            if batch is None:
                return
            yield batch

    def _fail(self, problem: Exception) -> None:
        """Say to the other ranks, which are in a step, that this one has run into an error; raises."""
        self._agreed(_Own(present=[False] * len(self.parameters), problem=problem), False, self.count)

    def backward(self, loss: Tensor) -> None:
        """The backward pass of one shard."""
        loss.backward()  # type: ignore[no-untyped-call]

    # ---- state that is no batch statistic

    def _others(self) -> dict[str, Tensor]:
        """State that every shard must leave alike: counters, masks, a network's own buffers."""
        not_these = self.parameters.keys() | self.averaged
        return {name: tensor for name, tensor in self.graph.state().items() if name not in not_these}

    def _compare_left(self, own: _Own) -> None:
        """KD0951 where a shard leaves another state than this rank's first."""
        others = self._others()
        if own.left is None:
            own.left = {name: tensor.clone() for name, tensor in others.items()}
        elif names := _differing(own.left, others):
            raise self._differ(names)

    def _differ(self, names: Iterable[str]) -> PlanError:
        shown = listing(dict.fromkeys(n.removeprefix("buffer/").removeprefix("nets.") for n in names), 4)
        return error("KD0951", self.span, phase=self.phase, names=shown)

    # ---- among ranks

    def _agreed(self, own: _Own, stop: bool, shards: int) -> list[bool]:
        """Which parameters have a gradient on any rank, once all of them have computed their shards."""
        if self.ranks.size == 1:
            self.stop = stop
            return own.present
        numbers = [stop, mark_of(own.left), *own.present]
        rows = self.ranks.exchange(numbers, own.problem, self.phase, self.span)
        self.stop = any(row[0] for row in rows)
        if len({row[1] for row in rows} - {NOTHING}) > 1:
            names = self._differing_among_ranks(own.left)
            raise self._differ(names) if self.ranks.leads else Abandoned
        if shards <= self.count - self.count // self.ranks.size:  # the last rank has none, and perhaps others
            left = self.ranks.share_state((own.left, {}) if own.left is not None else None)
            assert left is not None
            self.graph.load_state(self.graph.state() | left[0])
        return [any(column) for column in zip(*(row[2:] for row in rows), strict=True)]

    def _differing_among_ranks(self, left: Mapping[str, Tensor] | None) -> list[str]:
        names = sorted(self._others())
        marks = [mark_of({name: left[name]}) if left is not None and name in left else NOTHING for name in names]
        columns = zip(*self.ranks.gather_numbers(marks), strict=True)
        return [name for name, column in zip(names, columns, strict=True) if len({*column} - {NOTHING}) > 1]

    def _over_ranks(self, own: list[Sums | None], shards: int) -> Sums:
        """The sum over all shards, from this rank's nodes of the tree and those of the others."""
        if self.ranks.size == 1:
            assert own[0] is not None
            return own[0]
        sums = self.layout.rows({})
        for dtype, whole in sums.items():
            for start in range(0, len(whole), CHUNK):
                chunk = slice(start, start + CHUNK)
                known: dict[Node, Tensor] = {}
                for number in range(max(map(len, self.nodes))):
                    mine = own[number] if number < len(own) else None
                    rows = self.ranks.gather(mine[dtype][chunk] if mine is not None else whole[chunk])
                    for nodes, row in zip(self.nodes, rows, strict=True):
                        if number < len(nodes) and nodes[number][0] < shards:
                            known[nodes[number]] = row
                total = tree_sum((0, self.count), lambda _: None, Tensor.add, known)
                assert total is not None
                whole[chunk] = total
        return sums


NOTHING = -1
"""The mark of a rank that had no shard."""


def mark_of(tensors: Mapping[str, Tensor] | None) -> int:
    """A number of 63 bits for the names and bits of tensors, in whatever order; -1 for None.

    >>> mark_of({"a": torch.zeros(2)}) == mark_of({"a": torch.zeros(2)}) != mark_of({"a": torch.ones(2)})
    True
    >>> mark_of({"a": torch.zeros(2), "b": torch.ones(1)}) == mark_of({"b": torch.ones(1), "a": torch.zeros(2)})
    True
    """
    if tensors is None:
        return NOTHING
    names = sorted(tensors)  # a file's tensors are read in another order by each process
    hashed = hashlib.blake2b(" ".join(names).encode(), digest_size=8)
    if names:
        hashed.update(_bits(tensors[name] for name in names).cpu().numpy().tobytes())
    return int.from_bytes(hashed.digest()) >> 1


def _bits(tensors: Iterable[Tensor]) -> Tensor:
    """The bits of tensors, uint8 [n]."""
    rows = [t.detach().contiguous().reshape(-1).view(torch.uint8) for t in tensors]
    return torch.cat([row.to(rows[0].device) for row in rows])


def _differing(one: Mapping[str, Tensor], other: Mapping[str, Tensor]) -> list[str]:
    """Names of tensors that are not in both, or differ in a bit."""
    alike = [n for n, t in one.items() if n in other and (t.shape, t.dtype) == (other[n].shape, other[n].dtype)]
    names = [n for n in one.keys() | other.keys() if n not in alike]
    if alike and not torch.equal(_bits(one[n] for n in alike), _bits(other[n] for n in alike)):
        names += [n for n in alike if not torch.equal(_bits([one[n]]), _bits([other[n]]))]
    return sorted(names)


def statistics(modules: Iterable[nn.Module], kind: type[_NormBase] = _NormBase) -> set[int]:
    """Identities of the running means and variances that norms in training mode keep."""
    norms = [m for module in modules for m in module.modules() if isinstance(m, kind) and m.training]
    return {id(t) for norm in norms for t in (norm.running_mean, norm.running_var) if t is not None}
