"""Runs a whole phase graph on fake tensors, with gradients.

>>> from kdplan.graph.build import Builder
>>> from torch import nn, zeros
>>> b = Builder()
>>> x = b.input("inputs_0", zeros(2, 3))
>>> b.network("a", nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
>>> gm = b.finish({"loss": b.call(nn.functional.softplus, b.apply("a", (x,)))}).graph_module
>>> context = context_for(gm)
>>> replay = Replay(gm, context, keep=["a_0", "a_1"])
>>> result = replay.run(*example_inputs(gm, context, batch=8))
>>> for name, value in {**replay.seen, **result}.items():
...     print(f"{name:5} {list(value.shape)} {type(value.grad_fn).__name__}")
a_0   [8, 4] AddmmBackward0
a_1   [8, 4] ReluBackward0
loss  [8, 4] SoftplusBackward0
"""

from __future__ import annotations

import random
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes
from torch.utils._pytree import tree_leaves, tree_map

from kdplan.diagnostics.boundary import is_foreign
from kdplan.graph.asking import Flops
from kdplan.graph.fake import FakeContext, is_differentiable, real_like, whole
from kdplan.graph.freeze import parameter_names
from kdplan.graph.lines import NodeError
from kdplan.graph.state import draws_undone

_SMALL = (2, 4)
"""Batches on which FLOPs of real modules are counted."""


class Replay(fx.Interpreter):
    """Interprets a graph in a fake-tensor context; values are dropped after their last use, as in a real step.

    `seen` keeps what `keep` names.
    """

    def __init__(self, gm: fx.GraphModule, context: FakeContext, keep: Collection[str] = ()) -> None:
        super().__init__(gm)
        self.context = context
        self.keep = set(keep)
        self.seen: dict[str, Any] = {}

    def run_node(self, n: fx.Node) -> Any:
        """Run a node on fake tensors, and keep its value if `keep` names it.

        Raises
        ------
        NodeError
            With what the node raised as its cause.
        """
        if n.op in ("placeholder", "output"):
            value = super().run_node(n)
            if n.name in self.keep:
                self.seen[n.name] = value
            return value
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        assert isinstance(self.module, fx.GraphModule)
        frozen = bool(n.meta.get("frozen"))
        real = bool(n.meta.get("real")) and (frozen or n.op == "call_module")
        try:
            with torch.set_grad_enabled(torch.is_grad_enabled() and not frozen):
                if frozen:
                    args, kwargs = tree_map(lambda v: v.detach() if isinstance(v, Tensor) else v, (args, kwargs))
                value = self._shaped(n, args, kwargs) if real else self.context.run(n, self.module, args, kwargs)
        except BaseException as problem:
            if not is_foreign(problem):
                raise
            raise NodeError(n, problem) from problem
        if (real and not frozen) or n.meta.get("varies"):
            backward = self._counted(n, args, kwargs) if real else 0
            value = self._reading(n, args, kwargs, value, backward)
        if n.name in self.keep:
            self.seen[n.name] = value
        return value

    def _shaped(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        """Values of the shapes that a module returns which asks for numbers."""
        given, known = (
            [v.shape for v in tree_leaves(tree) if isinstance(v, Tensor)]
            for tree in ((args, kwargs), fx.map_arg((n.args, n.kwargs), lambda a: a.meta["val"]))
        )
        assert isinstance(self.module, fx.GraphModule)
        value = n.meta["val"] if given == known else self._really(n, args, kwargs)

        def like(v: Any) -> Any:
            return torch.zeros(v.shape, dtype=v.dtype, device=v.device) if isinstance(v, Tensor) else v

        with self.context.mode:
            return tree_map(like, value)

    def _really(self, n: fx.Node, args: Any, kwargs: Any) -> Any:
        """What a module, or a function of frozen values, returns on real numbers."""
        assert isinstance(self.module, fx.GraphModule)
        if n.op == "call_module":
            return self.context.really(self.module.get_submodule(str(n.target)), args, kwargs)
        assert callable(n.target)
        return self.context.called(n.target, real_like(args, torch.rand), real_like(kwargs, torch.rand))

    def _counted(self, n: fx.Node, args: Any, kwargs: Any) -> int:
        """Count the FLOPs of a module that runs on real numbers alone; gives those of its backward.

        It runs on small batches, and each sample more costs the same.
        """
        batch = next((v.shape[0] for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor) and v.dim()), 0)
        if not Flops.active or not batch:
            return 0
        work: dict[int, tuple[int, int]] = n.meta.setdefault("work", {})
        for size in _SMALL:
            if size not in work:
                work[size] = self._work(n, args, kwargs, batch, size)
        (one, two), (few, more) = _SMALL, (work[size] for size in _SMALL)
        forward, backward = (a + (b - a) * (batch - one) // (two - one) for a, b in zip(few, more, strict=True))
        for counter in Flops.active:
            counter.add(forward)
        return backward

    def _work(self, n: fx.Node, args: Any, kwargs: Any, batch: int, size: int) -> tuple[int, int]:
        """FLOPs of a module's forward and backward on so many samples; none where it does not run on so few."""

        def sized(v: Any) -> Any:
            if not isinstance(v, Tensor):
                return v
            shape = (size, *v.shape[1:]) if v.dim() and v.shape[0] == batch else tuple(v.shape)
            return torch.zeros(shape, dtype=v.dtype) if not is_differentiable(v) else torch.rand(shape, dtype=v.dtype)

        assert isinstance(self.module, fx.GraphModule)
        with _disable_current_modes(), _same_draws(), torch.enable_grad(), Flops() as counter:
            try:
                args, kwargs = tree_map(sized, (args, kwargs))
                value = self.context.really(self.module.get_submodule(str(n.target)), args, kwargs)
                forward = int(counter.get_total_flops())
                graded = [v.sum() for v in tree_leaves(value) if isinstance(v, Tensor) and v.requires_grad]
                if graded:
                    torch.autograd.backward([v.real for v in graded])
            except BaseException as problem:
                if not is_foreign(problem):
                    raise
                return 0, 0
            return forward, int(counter.get_total_flops()) - forward

    def _reading(self, n: fx.Node, args: Any, kwargs: Any, value: Any, backward: int) -> Any:
        """The value of a module that numbers or draws lead; by other ones it reads any of its parameters and inputs.

        Its gradient costs so many FLOPs `backward`.
        """
        assert isinstance(self.module, fx.GraphModule)
        read = [v for v in tree_leaves((args, kwargs)) if isinstance(v, Tensor)]
        read += [self.context.fake(p) for p in whole(self.module.get_submodule(str(n.target))).parameters()]
        with self.context.mode:
            total = sum((v.real.sum() for v in read if v.requires_grad), torch.zeros(()))
            if backward and total.requires_grad:
                total.register_hook(  # type: ignore[no-untyped-call]
                    partial(_count, list(Flops.active), backward)
                )
            return tree_map(lambda v: v + total if isinstance(v, Tensor) and is_differentiable(v) else v, value)


@contextmanager
def _same_draws() -> Iterator[None]:
    """Inside, all generators begin alike, so that what they lead costs the same whenever it is counted."""
    with torch.random.fork_rng(devices=[]), draws_undone():
        torch.default_generator.manual_seed(0)
        random.seed(0)
        np.random.seed(0)
        yield


def _count(counters: list[Flops], flops: int, _: Tensor) -> None:
    for counter in counters:
        counter.add(flops)


def context_for(gm: fx.GraphModule, trainable: Collection[str] | None = None) -> FakeContext:
    """A context in the graph's own fake mode whose parameters ask for gradients: those in `trainable`, or all."""
    first = next((n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), FakeTensor)), None)
    context = FakeContext(first.fake_mode if first is not None else None)
    names = parameter_names(gm)
    for p in gm.parameters():
        asks = is_differentiable(p) and (trainable is None or names[id(p)] in trainable)
        context.set_twin(p, context.fresh(p, requires_grad=asks))
    return context


def example_inputs(
    gm: fx.GraphModule, context: FakeContext, batch: int | Callable[[int], int] | None = None
) -> list[Any]:
    """Fresh fake inputs for the graph's placeholders; `batch` replaces the first dimension where there is one."""
    inputs: list[Any] = []
    for node in gm.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            if not isinstance(value, Tensor):
                inputs.append(value)
                continue
            fresh = context.fresh(value)
            if batch is not None and value.dim():
                size = batch(value.shape[0]) if callable(batch) else batch
                with context.mode:
                    fresh = fresh.new_empty((size, *value.shape[1:]))  # type: ignore[assignment]
            inputs.append(fresh)
    return inputs
