"""The values that calls in a phase's graph get on one batch, without a trace left in networks, code or generators.

>>> from kdplan.graph.build import Builder
>>> from torch import nn
>>> b = Builder()
>>> x = b.input("inputs_0", torch.zeros(2, 3))
>>> b.network("small", nn.Linear(3, 4))
>>> loss = b.call(torch.sum, b.call(torch.softmax, b.apply("small", (x,)), 1))
>>> gm = b.finish({"loss": loss}).graph_module
>>> call = next(n for n in gm.graph.nodes if n.target is torch.sum)
>>> [(_, (scores,), _)] = arguments_of([gm], [call], {}, half=False, weights=False)
>>> scores.sum(1).round()
tensor([1., 1.])
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, fx
from torch.utils._pytree import tree_map

from kdplan.diagnostics.boundary import is_foreign
from kdplan.graph.fake import real_like
from kdplan.graph.kept import code_of, undone
from kdplan.graph.state import Attributes, draws_undone, is_write

Arguments = tuple[fx.Node, tuple[Any, ...], dict[str, Any]]


def arguments_of(
    parts: Sequence[fx.GraphModule], calls: Collection[fx.Node], known: Mapping[str, Tensor], half: bool, weights: bool
) -> list[Arguments]:
    """Each call with its arguments, as far as the graphs run; `known` are placeholders, others are drawn.

    Each part gets what the one before it returns. Without `weights`, what networks and adapters give is drawn from the
    normal distribution.
    """
    seen: list[Arguments] = []
    if not calls:
        return seen
    buffers = {b: b.detach().clone() for part in parts for b in part.buffers() if weights and not b.is_meta}
    attributes = [Attributes(part) for part in parts]
    code = [*(f for part in parts for f in code_of(part)), *(n.target for n in calls)]
    values = dict(known)
    try:
        with torch.random.fork_rng(devices=[]), draws_undone(), undone(*code), torch.no_grad():
            torch.default_generator.manual_seed(0)
            for part in parts:
                with torch.autocast("cpu", torch.bfloat16, enabled=half):
                    inputs = sum(n.op == "placeholder" for n in part.graph.nodes)
                    values |= _Reader(part, calls, values, weights, seen).run(*[None] * inputs)
    except BaseException as problem:  # whoever runs the graph reports it
        if not is_foreign(problem):
            raise
    finally:
        for held in attributes:
            held.restore()
        with torch.no_grad():
            for buffer, value in buffers.items():
                buffer.copy_(value)
    return seen


class _Reader(fx.Interpreter):
    """Runs a graph on real numbers and notes the arguments of some calls."""

    def __init__(
        self,
        graph: fx.GraphModule,
        calls: Collection[fx.Node],
        known: Mapping[str, Tensor],
        weights: bool,
        seen: list[Arguments],
    ) -> None:
        super().__init__(graph)
        self.calls, self.known, self.weights, self.seen = set(calls), known, weights, seen

    def run_node(self, n: fx.Node) -> Any:
        """The node's value: real, or drawn where it has no numbers to be computed from."""
        if n.op == "placeholder":
            return self.known[n.name] if n.name in self.known else real_like(n.meta["val"], torch.randn)
        own = str(n.meta.get("owner", "loss")).partition(" ")[0]
        if not self.weights and own in ("net", "adapter") and not is_write(n):
            return real_like(n.meta["val"], torch.randn)
        args, kwargs = self.fetch_args_kwargs_from_env(n)
        if n not in self.calls:
            return getattr(self, n.op)(n.target, args, kwargs)
        self.seen.append((n, *tree_map(_copy, (args, kwargs))))
        with torch.enable_grad():
            args, kwargs = tree_map(lambda v: _copy(v, gradients=True), (args, kwargs))
            return tree_map(_copy, self.call_function(n.target, args, kwargs))


def _copy(value: object, gradients: bool = False) -> object:
    """A tensor as it is before the call, which may write into it."""
    if not isinstance(value, Tensor):
        return value
    copied = value.detach().clone()
    return copied.requires_grad_(gradients) * 1 if value.is_floating_point() and gradients else copied
