"""A step on shards whose batch norms take their statistics over all of them: `norm = sync`.

The shards of a rank go forward in lock step (`lockstep.py`), and their losses go backward at once. Every shard's part
of that is computed by the same operations in the same order, however many shards a rank has: autograd runs what was
recorded last first, and what several shards have in common is joined in the order of the fixed tree (`sync_norm.py`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import suppress
from typing import Any, NoReturn

import torch
from greenlet import getcurrent
from torch import Tensor, nn
from torch.nn.modules.instancenorm import _InstanceNorm

from kdplan.diagnostics.report import error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.phase_graph import UNTRAINED, PhaseGraph
from kdplan.graph.plain_form import PlainForm
from kdplan.runtime.lockstep import LockStep, Replica
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.shards import Shards, Step, Sums, _add, _Own
from kdplan.runtime.streams import Batch, samples
from kdplan.runtime.sync_norm import END, FAILED, Call, Exchange, Parted, mark, normalised
from kdplan.runtime.tree import tree_sum

Compared = Callable[[Callable[..., dict[str, Tensor]]], object]
"""Takes a step, which may be done in plain form: `Training._compared`."""


class SyncedShards(Shards):
    """Computes the gradients of a batch from shards in lock step.

    The step that it gets to know computes one shard's forward pass, and ends it with `backward`; the number of the
    shard, its samples, its share of the loss, and perhaps a plain form. Parameters as of `Shards`.

    Attributes
    ----------
    compared : callable or None
        Compares the first step in two forms. That is done with the shards of this rank alone, and leaves no trace.
    """

    averages = _InstanceNorm

    def __init__(self, graph: PhaseGraph, count: int, ranks: Ranks, phase: str, span: Span | None) -> None:
        super().__init__(graph, count, ranks, phase, span)
        self.compared: Compared | None = None
        roots = [graph.root, graph.trainable_graph, graph.frozen, graph.plain.root if graph.plain else None]
        roots += [*graph.networks, *(m for copy in graph.ema_copies for m in (copy.module, copy.source))]
        self.modules = list({id(m): m for root in roots if root is not None for m in root.modules()}.values())
        self.named = _named([graph.root, *graph.networks])
        self.losses: dict[Any, Tensor] = {}
        for name, module in _named(roots):
            if isinstance(module, nn.SyncBatchNorm | torch.jit.ScriptModule) and module.training:
                self._refuse(name, f"it is part of a `{type(module).__name__}`, which computes by itself")

    def backward(self, loss: Tensor) -> None:
        """Keep the loss of one shard: all go backward together."""
        self.losses[getcurrent()] = loss

    def _own(self, shards: list[Batch], whole: int, step: Step, start: dict[str, Tensor]) -> _Own:
        few = len(shards) < self.count  # then every rank computes them all
        mine = range(len(shards)) if few else self.ranks.shards_of(self.count)
        ranks = Ranks() if few else self.ranks
        own = _Own(present=[False] * len(self.parameters))
        exchange = Exchange(self.count, mine.start, ranks, self.nodes)
        try:
            if self.compared is not None:
                self._compare(shards, mine, whole, step, start)
            rows = self._together(own, shards, mine, whole, step, start, exchange)
            exchange.meet(END)
            own.nodes = [tree_sum(node, lambda n: rows.pop(n, None), _add, {}) for node in self.nodes[self.ranks.rank]]
            assert own.left is not None
            self.graph.load_state(self.graph.state() | own.left)
        except Parted as parted:
            own.problem = None if parted.failed else self._apart([parted.mine, *self._others_at(parted)])
        except Exception as problem:  # the other ranks must know before anybody leaves
            if self.ranks.size == 1:
                raise
            own.problem = problem
            if not exchange.parted and not few:
                self._leave(exchange)
        return own

    def _fail(self, problem: Exception) -> None:
        self._leave(Exchange(self.count, 0, self.ranks, self.nodes))
        super()._fail(problem)

    def _leave(self, exchange: Exchange) -> None:
        with suppress(Parted):
            exchange.meet(FAILED)

    def _compare(self, shards: list[Batch], mine: range, whole: int, step: Step, start: dict[str, Tensor]) -> None:
        """Have the first step compared, as if this rank's shards were all that there are; then all is as before."""
        compared, self.compared = self.compared, None
        assert compared is not None

        def alone(form: PlainForm | None = None) -> dict[str, Tensor]:
            own = _Own(present=[False] * len(self.parameters))
            exchange = Exchange(self.count, mine.start, Ranks(), self.nodes, whole=False)
            rows = self._together(own, shards, mine, whole, step, start, exchange, form)
            total = tree_sum((0, self.count), lambda n: rows.pop(n, None), _add, {})
            assert total is not None and own.left is not None
            sums = self.layout.tensors(total)
            self.graph.load_state(self.graph.state() | own.left)
            for (name, parameter), has in zip(self.parameters.items(), own.present, strict=True):
                parameter.grad = sums[name].clone() if has else None
            return {name: sums[name] for name in self.names}

        compared(alone)
        self.graph.load_state(start)

    def _together(
        self,
        own: _Own,
        shards: list[Batch],
        mine: range,
        whole: int,
        step: Step,
        start: dict[str, Tensor],
        exchange: Exchange,
        form: PlainForm | None = None,
    ) -> dict[int, Sums]:
        """What each of this rank's shards adds to the sums."""
        total = sum(map(samples, shards))
        for parameter in self.parameters.values():
            parameter.grad = None
        aliases, replicas, names = [], [], dict[int, str]()
        for _ in mine:
            leaves = {name: _leaf(p) for name, p in self.parameters.items()}
            replicas.append(Replica(self.modules, self._swapped(leaves, names)))
            aliases.append(leaves)
        device = next(iter(self.parameters.values())).device
        losses = self.losses = {}

        def forward(number: int) -> Mapping[str, Tensor]:
            batch = shards[mine[number]]
            return step(mine[number], batch, samples(batch) / whole, *([form] if form is not None else []))

        lock = LockStep(
            replicas,
            device,
            lambda calls: normalised(calls, exchange),
            lambda call: _name(call, names),
            self._refuse,
            lambda at: self._raise_apart(at),
        )
        terms = lock.run(forward)
        exchange.complete = True
        with lock:
            torch.autograd.backward([*losses.values()])
        losses.clear()
        if others := [name for name, p in self.parameters.items() if p.grad is not None]:
            self._refuse(listing(others, 4), "code uses it by another way than the module that has it")
        rows = {}
        for number, leaves in enumerate(aliases):
            share = samples(shards[mine[number]]) / total
            with lock.inside(number):
                gradients = {name: leaf.grad for name, leaf in leaves.items()}
                rows[mine[number]] = self._row(own, gradients, terms[number], share, start)
            gradients.clear()
            for leaf in leaves.values():
                leaf.grad = None
        return rows

    def _swapped(self, leaves: Mapping[str, Tensor], names: dict[int, str]) -> dict[int, Tensor]:
        """What one shard has in place of parameters and state, by identity; fills in the names of what it has."""
        swapped = {id(p): leaves[name] for name, p in self.parameters.items()}
        for name, tensor in self.graph.state().items():
            if name.startswith("buffer/") or name.startswith(f"{UNTRAINED}/"):
                copy = tensor.detach().clone()
                swapped[id(tensor)] = nn.Parameter(copy, tensor.requires_grad) if _is_parameter(tensor) else copy
        for name, module in self.named:
            own = (*module._parameters.values(), *module._buffers.values())
            names |= {id(swapped.get(id(tensor), tensor)): name for tensor in own if tensor is not None}
        return swapped

    def _others(self) -> dict[str, Tensor]:
        """As of any shards; leaves of autograd that a shard has in place of trained parameters are none of these."""
        leaves = {f"{UNTRAINED}/{name}" for name in self.parameters}
        return {name: tensor for name, tensor in super()._others().items() if name not in leaves}

    # ---- what cannot be done

    def _refuse(self, name: str, reason: str) -> NoReturn:
        name = name or "a batch norm without a name"
        raise error("KD0964", self.span, phase=self.phase, name=name, reason=reason)

    def _raise_apart(self, at: list[str]) -> NoReturn:
        raise self._apart(at)

    def _apart(self, at: list[str]) -> Exception:
        names = listing([name for name in dict.fromkeys(at) if name], 4)
        return error("KD0963", self.span, phase=self.phase, names=names)

    def _others_at(self, parted: Parted) -> list[str]:
        """The names of batch norms at which other ranks are."""
        known = {mark(name): name for name, _ in self.named}
        return [known.get(row[2], "") for row in parted.others]


def _leaf(parameter: nn.Parameter) -> nn.Parameter:
    """Another leaf of autograd on the same memory."""
    leaf = nn.Parameter(parameter.detach())
    leaf.__dict__.update(parameter.__dict__)
    return leaf


def _is_parameter(tensor: Tensor) -> bool:
    return isinstance(tensor, nn.Parameter)


def _named(roots: list[Any]) -> list[tuple[str, nn.Module]]:
    """All modules, by their names in the phase."""
    named = {id(m): (name.removeprefix("nets."), m) for root in reversed(roots) if root is not None
             for name, m in root.named_modules()}  # fmt: skip
    return [*named.values()]


def _name(call: Call, names: Mapping[int, str]) -> str:
    """The module that makes a call of batch norm, by what it has."""
    own = (call.running_mean, call.running_var, call.weight, call.bias)
    return next((names[id(t)] for t in own if id(t) in names), "")
