"""Code that asks autograd while it runs: it hooks tensors, or computes gradients of its own.

Graphs are built on fake tensors without gradients, which such code refuses. A node of it is run again with gradients,
together with all that it depends on, and marked.

>>> from torch import nn
>>> from kdplan.graph.trace import trace
>>> class Net(nn.Module):
...     __module__ = "mine"
...     def __init__(self):
...         super().__init__()
...         self.body = nn.Linear(3, 4)
...     def forward(self, x):
...         f = self.body(x)
...         f.register_hook(lambda g: 2 * g)
...         return f
>>> traced = trace(Net(), torch.zeros(2, 3))
>>> traced.leaves, asks(traced.graph)
({'': 'it registers a hook on a tensor'}, True)
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, ClassVar, Protocol

import torch
from torch import Tensor, fx, nn
from torch.utils.flop_counter import FlopCounterMode

from kdplan.diagnostics.boundary import is_foreign
from kdplan.graph.structure import mapped, tensors
from kdplan.graph.written import Writing

_LACKS = re.compile(
    r"does not require grad|requires_grad=False|doesn't require gradient|does not have a grad_fn|"
    r"not been used in the graph"
)


def lacks_gradients(problem: BaseException) -> bool:
    """Whether an exception says that a tensor has no gradient.

    >>> try:
    ...     torch.zeros(1).retain_grad()
    ... except RuntimeError as problem:
    ...     lacks_gradients(problem)
    True
    """
    return isinstance(problem, RuntimeError) and bool(_LACKS.search(str(problem)))


def asks(graph: fx.Graph) -> bool:
    """Whether a node of a graph must run with gradients, also where nothing is trained."""
    return any(n.meta.get("asks") for n in graph.nodes)


@contextmanager
def gradients_for(module: nn.Module) -> Iterator[None]:
    """Inside, a frozen graph runs as it must: without gradients, unless its code asks for them."""
    with torch.set_grad_enabled(isinstance(module, fx.GraphModule) and asks(module.graph)):
        yield


def detached(value: Any) -> Any:
    """A structure whose tensors have no gradients."""
    return mapped(lambda v: v.detach() if isinstance(v, Tensor) else v, value)


class Runner(Protocol):
    """What runs nodes on fake tensors."""

    def run(self, node: fx.Node, root: nn.Module, args: Any, kwargs: Any) -> Any:
        """The node's value for these argument values."""
        ...


class Flops(FlopCounterMode):
    """torch's counter, without its tracking of modules, which forbids code to ask autograd while it runs.

    >>> with Flops() as counter:
    ...     _ = torch.ones(2, 3) @ torch.ones(3, 4)
    >>> counter.get_total_flops()
    48
    """

    active: ClassVar[list[Flops]] = []
    """Those that count now."""

    def __init__(self) -> None:
        super().__init__(display=False)
        self.mod_tracker = _Everything()  # type: ignore[assignment]

    def __enter__(self) -> Flops:
        self.active.append(self)
        super().__enter__()  # type: ignore[no-untyped-call]
        return self

    def __exit__(self, *args: Any) -> None:
        self.active.remove(self)
        super().__exit__(*args)  # type: ignore[no-untyped-call]

    def add(self, flops: int) -> None:
        """Count what ran elsewhere."""
        self.flop_counts["Global"]["elsewhere"] += flops


class _Everything:
    """All operations are of one module."""

    parents = ("Global",)

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        return None


def evaluated(node: fx.Node, root: nn.Module, context: Runner) -> tuple[Any, set[fx.Node]]:
    """The value of a node on fake tensors with gradients, and the inputs that it writes into.

    `context` is one in which parameters ask for gradients as they do in the phase.
    """
    wanted = {node}
    todo = [node]
    while todo:
        new = [n for n in todo.pop().all_input_nodes if n not in wanted]
        wanted.update(new)
        todo += new
    values: dict[fx.Node, Any] = {}
    with torch.enable_grad():
        for n in node.graph.nodes:
            if n not in wanted or n is node:
                continue
            args, kwargs = fx.map_arg((n.args, n.kwargs), values.__getitem__)
            if n.op == "placeholder":
                values[n] = n.meta["val"].detach().requires_grad_() * 1 if n.meta.get("graded") else n.meta["val"]
                continue
            try:
                values[n] = context.run(n, root, args, kwargs)
            except BaseException as problem:
                if not is_foreign(problem):
                    raise
                values[n] = n.meta["val"]  # real numbers gave it
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        with Writing(v for n in node.all_input_nodes for v in tensors(values[n])) as wrote:
            value = context.run(node, root, args, kwargs)
    return value, {n for n in node.all_input_nodes if wrote.wrote_into(*tensors(values[n]))}
