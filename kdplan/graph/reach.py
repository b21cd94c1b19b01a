"""Which parameters the loss gives a gradient, and which of its terms can give none.

>>> from torch import nn
>>> from kdplan.graph.build import Builder
>>> from kdplan.graph.diagram import diagram
>>> b = Builder()
>>> x, y = b.input("inputs_0", torch.zeros(2, 3)), b.input("labels_0", torch.zeros(2, dtype=torch.long))
>>> b.network("big", nn.Sequential(nn.Linear(3, 3)))
>>> b.network("small", nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
>>> match = b.call(nn.functional.mse_loss, b.apply("small", (x,), "0"), b.apply("big", (x,)))
>>> fixed = b.call(nn.functional.cross_entropy, b.apply("big", (x,)), y)
>>> gm = b.finish({"loss": b.call(operator.add, match, fixed)}).graph_module
>>> print(diagram(graph=gm.graph))
graph
inputs_0 = input
labels_0 = input
small_0 = nets.small.0(inputs_0)
small_1 = nets.small.1(small_0)
big_0 = nets.big.0(inputs_0)
mse_loss = mse_loss(small_0, big_0)
cross_entropy = cross_entropy(big_0, labels_0)
add = add(mse_loss, cross_entropy)
return loss=add
>>> reach = gradient_reach(gm)
>>> for term, names in reach.terms.items():
...     print(term, *sorted(names))
mse_loss nets.big.0.bias nets.big.0.weight nets.small.0.bias nets.small.0.weight
cross_entropy nets.big.0.bias nets.big.0.weight

The term `cross_entropy` reaches the teacher only: where `small` is trained, it is constant. `small.1` is in no term.
The answers come from autograd itself on fake tensors, so detach, no_grad, argmax and comparisons count as they do in
a real step.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch.autograd.function import BackwardCFunction
from torch.utils._pytree import tree_leaves

from kdplan.diagnostics.boundary import is_foreign
from kdplan.graph.asking import Flops
from kdplan.graph.freeze import parameter_names
from kdplan.graph.module import outputs_of
from kdplan.graph.replay import Replay, context_for, example_inputs


@dataclass(frozen=True, slots=True)
class Reach:
    """Names of the parameters that get a gradient: from the output, and from each of its additive terms, by node."""

    whole: set[str]
    terms: dict[str, set[str]]
    flops: int
    """Of the graph forward, with the batch that it was built with."""
    nodes: dict[str, set[str]] = field(default_factory=dict)
    """The same of other nodes that the graph still has."""

    def constant(self, trainable: Collection[str]) -> set[str]:
        """Names of the nodes that are terms and depend on no trainable parameter."""
        return {name for name, reached in self.terms.items() if reached.isdisjoint(trainable)}


def gradient_reach(gm: fx.GraphModule, output: str = "loss", nodes: Collection[str] = ()) -> Reach:
    """What an output, its additive terms, and further `nodes` give a gradient.

    Examples
    --------
    >>> from torch import nn
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(2, 3))
    >>> for name in ("a", "t"):
    ...     b.network(name, nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    >>> terms = [b.call(torch.sum, b.apply(name, (x,), "0")) for name in ("a", "t")]
    >>> reach = gradient_reach(b.finish({"loss": b.call(operator.add, *terms)}).graph_module)
    >>> sorted(reach.whole)
    ['nets.a.0.bias', 'nets.a.0.weight', 'nets.t.0.bias', 'nets.t.0.weight']
    >>> reach.constant({"nets.a.0.weight"}) == {terms[1].name}
    True
    """
    terms = [n.name for n in additive_terms(outputs_of(gm)[output])]
    context = context_for(gm)
    replay, counter = Replay(gm, context, keep={*terms, *nodes}), Flops()
    with torch.enable_grad(), counter:
        result = replay.run(*example_inputs(gm, context))
    known = parameter_names(gm)
    twins = {known[id(p)]: context.fake(p) for p in gm.parameters()}
    flops = int(counter.get_total_flops())

    def run(value: Tensor) -> None:
        with context.mode, context.swapped(gm):
            torch.autograd.backward(value, retain_graph=True)

    by_term = {t: _reached(replay.seen.get(t), twins, run) for t in terms}
    others = {n: _reached(replay.seen[n], twins, run) for n in nodes if n in replay.seen}
    return Reach(_reached(result[output], twins, run), by_term, flops, others)


def _reached(value: object, twins: Mapping[str, Tensor], run: Callable[[Tensor], None]) -> set[str]:
    """The parameters that autograd would go back to; `twins` are their fake tensors by name.

    A function with a backward of its own, as checkpointing has, may go back to parameters that are no inputs of it:
    there `run` goes backward.
    """
    names = {id(twin): name for name, twin in twins.items()}
    reached: set[str] = set()
    seen: set[object] = set()
    todo = [v.grad_fn for v in tree_leaves(value) if isinstance(v, Tensor)]
    while todo:
        fn = todo.pop()
        if fn is None or fn in seen:
            continue
        seen.add(fn)
        variable = getattr(fn, "variable", None)
        if variable is not None and id(variable) in names:
            reached.add(names[id(variable)])
        todo += [f for f, _ in fn.next_functions]
    if isinstance(value, Tensor) and any(isinstance(fn, BackwardCFunction) for fn in seen):
        reached |= _by_running(value, twins, run)
    return reached


def _by_running(value: Tensor, twins: Mapping[str, Tensor], run: Callable[[Tensor], None]) -> set[str]:
    """The parameters that have a gradient afterwards; all of them where fake tensors do not go backward."""
    try:
        run(value.sum())
        return {name for name, twin in twins.items() if twin.grad is not None}
    except BaseException as problem:
        if not is_foreign(problem):
            raise
        return set(twins)
    finally:
        for twin in twins.values():
            twin.grad = None


_SUMS: tuple[Any, ...] = (operator.add, torch.add, operator.sub, torch.sub)
_SIGNS: tuple[Any, ...] = (operator.neg, torch.neg, operator.pos)


def additive_terms(node: fx.Node) -> list[fx.Node]:
    """The summands that a node is the sum of, left to right; numbers are left out."""
    terms: list[fx.Node] = []
    todo: list[Any] = [node]
    while todo:
        n = todo.pop()
        if not isinstance(n, fx.Node):
            continue
        if n.op == "call_function" and n.target in (*_SUMS, *_SIGNS):
            todo += reversed(n.args)
        elif n.op == "call_function" and n.target is sum and isinstance(n.args[0], list | tuple):
            todo += reversed(n.args[0])
        else:
            terms.append(n)
    return terms
