"""What a step of a phase will cost, before any tensor is allocated.

The split graph runs forward and backward on fake tensors: the frozen part without gradients, the trainable part with.
FLOPs are counted per operator. Memory is the largest sum of storages that exist at one time.

>>> from torch import nn
>>> from kdplan.graph.build import Builder
>>> b = Builder()
>>> x = b.input("inputs_0", torch.zeros(2, 3))
>>> b.network("big", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
>>> b.network("small", nn.Sequential(nn.Linear(3, 5)))
>>> loss = b.call(nn.functional.mse_loss, b.apply("small", (x,)), b.apply("big", (x,)))
>>> gm = b.finish({"loss": loss}).graph_module
>>> for name, flops in flops_by_node(gm).items():
...     print(f"{name:9} {flops:4}")
inputs_0     0
small_0     60
big_0       48
big_1       80
mse_loss     0
output       0
>>> step = cost(gm, {"nets.small.0.weight", "nets.small.0.bias"})
>>> step.flops_forward, step.flops_frozen, step.flops_step, step.boundary_bytes
(188, 128, 248, 40)
"""

from __future__ import annotations

import weakref
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdplan.graph.asking import Flops
from kdplan.graph.fake import FakeContext
from kdplan.graph.freeze import own_state, parameter_names, split
from kdplan.graph.replay import Replay, context_for, example_inputs


@dataclass(frozen=True)
class Cost:
    """The cost of one training step at one batch size.

    Attributes
    ----------
    parameters, trainable
        Numbers of parameters that the graph uses, and of those that are trained.
    gradient_bytes
        Of the latter.
    flops_forward, flops_step
        Floating-point operations of both parts forward, and of the whole step.
    flops_frozen
        The part of `flops_forward` that a cache of the frozen outputs would save.
    weight_bytes
        Parameters and buffers in use.
    peak_bytes
        The most that the step itself allocates at one time: activations, gradients of activations and parameters.
    saved_bytes
        What is held between forward and backward.
    boundary_bytes
        Size of the frozen outputs that cross, for one batch.
    batch
        The batch size.
    """

    parameters: int
    trainable: int
    flops_forward: int
    flops_step: int
    flops_frozen: int
    weight_bytes: int
    peak_bytes: int
    saved_bytes: int
    boundary_bytes: int
    batch: int
    gradient_bytes: int


class LiveBytes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Counts the bytes that the operators inside have allocated and not yet freed.

    Examples
    --------
    >>> with LiveBytes() as live_bytes:
    ...     a = torch.ones(4)
    ...     b = a + 1
    ...     del a
    >>> live_bytes.now, live_bytes.peak
    (16, 32)
    """

    def __init__(self, known: Collection[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.now = 0
        self.peak = 0
        self._known = {t.untyped_storage()._cdata for t in known}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        for value in tree_leaves(result):
            if isinstance(value, Tensor) and value.layout is torch.strided:
                self._add(value.untyped_storage())
        self.peak = max(self.peak, self.now)
        return result

    def add(self, size: int) -> None:
        """Count bytes that stay."""
        self.now += size
        self.peak = max(self.peak, self.now)

    def _add(self, storage: torch.UntypedStorage) -> None:
        key = storage._cdata
        if key not in self._known:
            self._known.add(key)
            self.now += storage.nbytes()
            weakref.finalize(storage, self._drop, key, storage.nbytes())

    def _drop(self, key: int, size: int) -> None:
        self._known.discard(key)
        self.now -= size


def cost(
    gm: fx.GraphModule,
    trainable: Collection[str],
    batch: int | Callable[[int], int] | None = None,
    output: str = "loss",
    copies: int = 1,
) -> Cost:
    """Predict one step of a pruned phase graph; `batch` defaults to the size it was built with, or is made from it.

    `copies` is how many gradients of each parameter there are at once.

    Examples
    --------
    >>> from torch import nn
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(2, 3))
    >>> b.network("a", nn.Linear(3, 5))
    >>> gm = b.finish({"loss": b.call(torch.sum, b.apply("a", (x,)))}).graph_module
    >>> c = cost(gm, {"nets.a.weight", "nets.a.bias"}, batch=10)
    >>> c.parameters, c.flops_forward, c.flops_step
    (20, 300, 600)
    """
    parts = split(gm, trainable)
    context = context_for(gm, trainable)
    inputs = example_inputs(gm, context, batch)
    state = [context.fake(t) for t in [*gm.parameters(), *gm.buffers()]]
    trained = [t for t in state if t.requires_grad]
    live_bytes = LiveBytes([*(v for v in inputs if isinstance(v, Tensor)), *state])
    for parameter in trained if copies > 1 else ():
        parameter.register_post_accumulate_grad_hook(lambda p: live_bytes.add((copies - 1) * p.nbytes))  # type: ignore[no-untyped-call]
    counter = Flops()
    crossing: list[Any] = []
    frozen = saved = 0
    with context.mode, live_bytes, counter:
        if parts.frozen is not None:
            with torch.no_grad():
                crossing = list(Replay(parts.frozen, context).run(*inputs).values())
            frozen = int(counter.get_total_flops())
        width = sum(v.numel() * v.element_size() for v in crossing if isinstance(v, Tensor))
        with torch.enable_grad():
            result = Replay(parts.trainable_graph, context).run(*inputs, *crossing)
            crossing.clear()  # what backward needs of them, it holds itself
            forward, saved = int(counter.get_total_flops()), live_bytes.now
            loss = result[output]
            if isinstance(loss, Tensor) and loss.requires_grad:
                with context.swapped(parts.trainable_graph):  # checkpointing runs modules again
                    torch.autograd.backward(loss)
    used = _used(gm)
    names = parameter_names(gm)
    first = next((v.shape[0] for v in inputs if isinstance(v, Tensor) and v.dim()), 1)
    size = batch if isinstance(batch, int) else first
    return Cost(
        parameters=sum(t.numel() for t in used.values() if id(t) in names),
        trainable=sum(t.numel() for t in used.values() if names.get(id(t)) in set(trainable)),
        flops_forward=forward,
        flops_step=int(counter.get_total_flops()),
        flops_frozen=frozen,
        weight_bytes=sum(t.numel() * t.element_size() for t in used.values()),
        peak_bytes=live_bytes.peak,
        saved_bytes=saved,
        boundary_bytes=width,
        batch=size,
        gradient_bytes=sum(t.numel() * t.element_size() for t in used.values() if names.get(id(t)) in set(trainable)),
    )


def _used(gm: fx.GraphModule) -> dict[int, Tensor]:
    return {id(t): t for node in gm.graph.nodes for t in own_state(gm, node)}


def forward_flops(gm: fx.GraphModule, batch: int | None = None) -> int:
    """FLOPs of running a graph once without gradients.

    Examples
    --------
    >>> from torch import nn
    >>> from kdplan.graph.trace import trace
    >>> forward_flops(trace(nn.Sequential(nn.Linear(3, 5)), torch.zeros(2, 3)).graph_module)
    60
    """
    context = context_for(gm, ())
    inputs = example_inputs(gm, context, batch)
    counter = Flops()
    with context.mode, counter, torch.no_grad():
        Replay(gm, context).run(*inputs)
    return int(counter.get_total_flops())


class _FlopsByNode(Replay):
    """Runs a graph on fake tensors and counts each node's operations."""

    def __init__(self, gm: fx.GraphModule, context: FakeContext, counter: Flops) -> None:
        super().__init__(gm, context)
        self.counter = counter
        self.flops: dict[str, int] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node and note its operations."""
        before = int(self.counter.get_total_flops())
        value = super().run_node(n)
        self.flops[n.name] = int(self.counter.get_total_flops()) - before
        return value


def flops_by_node(gm: fx.GraphModule) -> dict[str, int]:
    """Forward FLOPs of each node, at the batch size of the graph."""
    context = context_for(gm, ())
    inputs = example_inputs(gm, context)
    counter = Flops()
    with context.mode, counter, torch.no_grad():
        replay = _FlopsByNode(gm, context, counter)
        replay.run(*inputs)
    return replay.flops
