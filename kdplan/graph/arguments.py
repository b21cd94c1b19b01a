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

import warnings
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_map

from kdplan.diagnostics.boundary import is_foreign
from kdplan.graph.fake import real_like
from kdplan.graph.kept import code_of, undone
from kdplan.graph.state import Attributes, draws_undone, is_write
from kdplan.graph.structure import as_written
from kdplan.nn.whose import is_users_own

Arguments = tuple[fx.Node, tuple[Any, ...], dict[str, Any]]


def drawn_loss(
    gm: fx.GraphModule, fakes: Mapping[str, Any], known: Mapping[str, Tensor], seed: int = 0
) -> Tensor | None:
    """The loss of a phase where networks and adapters give numbers of the normal distribution; None if it fails.

    `fakes` have the shape of every node's value, and `known` are placeholders; others are drawn.
    """
    with _undone([gm], code_of(gm), seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of code that may be wrong on such numbers
        loss = _Reader(gm, (), known, False, [], fakes).run(*[None] * len(gm.graph.find_nodes(op="placeholder")))[
            "loss"
        ]
        return loss if isinstance(loss, Tensor) else None
    return None


def drawn_terms(gm: fx.GraphModule, given: Mapping[str, Any], names: Collection[str], seed: int) -> dict[str, Any]:
    """The values of some nodes of the loss, from those of all that it reads; {} if it fails.

    Parameters
    ----------
    gm
        A phase's graph.
    given
        Values of inputs, and of nodes of networks and adapters (`is_drawn`), by name.
    names
        Of the nodes that are wanted.
    seed
        Of what the loss itself draws.
    """
    terms: dict[str, Any] = {}
    with _undone([gm], code_of(gm), seed), warnings.catch_warnings():
        warnings.simplefilter("ignore")
        _Terms(gm, given, terms).run(*[None] * len(gm.graph.find_nodes(op="placeholder")))
        return {name: terms[name] for name in names}
    return {}


def is_drawn(node: fx.Node) -> bool:
    """Whether a node gives an input, or what a network or adapter computes: numbers that only training knows."""
    own = str(node.meta.get("owner", "loss")).partition(" ")[0]
    return node.op in ("placeholder", "call_module") or own in ("net", "adapter")


class _Terms(fx.Interpreter):
    """Runs a phase's loss on given values; what only networks read is nothing."""

    def __init__(self, graph: fx.GraphModule, given: Mapping[str, Any], terms: dict[str, Any]) -> None:
        super().__init__(graph)
        self.given, self.terms = given, terms

    def run_node(self, n: fx.Node) -> Any:
        """The node's value."""
        if n.op == "output" or n.name in self.given or is_drawn(n):
            return self.given.get(n.name)
        args, kwargs = as_written(self.fetch_args_kwargs_from_env(n))
        self.terms[n.name] = getattr(self, n.op)(n.target, args, kwargs)
        return self.terms[n.name]


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
    code = [*(f for part in parts for f in code_of(part)), *(n.target for n in calls)]
    values = dict(known)
    kept = [part for part in parts if weights]
    with _undone(parts, code, seed=0, kept=kept):
        for part in parts:
            with torch.autocast("cpu", torch.bfloat16, enabled=half):
                inputs = sum(n.op == "placeholder" for n in part.graph.nodes)
                values |= _Reader(part, calls, values, weights, seen).run(*[None] * inputs)
    return seen


@contextmanager
def _undone(
    parts: Sequence[fx.GraphModule], code: Sequence[object], seed: int, kept: Sequence[fx.GraphModule] = ()
) -> Iterator[None]:
    """A run whose draws, attributes and kept values are undone, and what code wrote into in `kept`; it may fail."""
    written = {id(b): b for part in kept for b in (*part.buffers(), *_of_users(part)) if not b.is_meta}
    before = [(b, b.detach().clone()) for b in written.values()]
    attributes = [Attributes(part) for part in parts]
    try:
        with torch.random.fork_rng(devices=[]), draws_undone(), undone(*code), torch.no_grad():
            torch.default_generator.manual_seed(seed)
            yield
    except BaseException as problem:  # whoever runs the graph reports it
        if not is_foreign(problem):
            raise
    finally:
        for held in attributes:
            held.restore()
        with torch.no_grad():
            for tensor, value in before:
                tensor.copy_(value)


def _of_users(part: fx.GraphModule) -> Iterator[nn.Parameter]:
    """The parameters of a user's modules, whose code may write into them."""
    for module in part.modules():
        if is_users_own(type(module)):
            yield from module.parameters()


class _Reader(fx.Interpreter):
    """Runs a graph on real numbers and notes the arguments of some calls."""

    def __init__(
        self,
        graph: fx.GraphModule,
        calls: Collection[fx.Node],
        known: Mapping[str, Tensor],
        weights: bool,
        seen: list[Arguments],
        fakes: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(graph)
        self.fakes = fakes if fakes is not None else {n.name: n.meta.get("val") for n in graph.graph.nodes}
        self.calls, self.known, self.weights, self.seen = set(calls), known, weights, seen

    def run_node(self, n: fx.Node) -> Any:
        """The node's value: real, or drawn where it has no numbers to be computed from."""
        if n.op == "placeholder":
            return self.known[n.name] if n.name in self.known else real_like(self.fakes[n.name], torch.randn)
        if not self.weights and is_drawn(n) and not is_write(n):
            return real_like(self.fakes[n.name], torch.randn)
        args, kwargs = as_written(self.fetch_args_kwargs_from_env(n))
        if n not in self.calls:
            return getattr(self, n.op)(n.target, args, kwargs)
        self.seen.append((n, *tree_map(_copy, (args, kwargs))))
        frozen = bool(n.meta.get("frozen"))
        with torch.set_grad_enabled(not frozen):
            args, kwargs = tree_map(lambda v: _copy(v, gradients=not frozen), (args, kwargs))
            return tree_map(_copy, self.call_function(n.target, args, kwargs))


def _copy(value: object, gradients: bool = False) -> object:
    """A tensor as it is before the call, which may write into it."""
    if not isinstance(value, Tensor):
        return value
    copied = value.detach().clone()
    return copied.requires_grad_(gradients) * 1 if value.is_floating_point() and gradients else copied
