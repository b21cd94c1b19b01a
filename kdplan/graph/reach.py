"""Which parameters the loss gives a gradient, and which of its terms can give none.

    loss = mse(small.layer2, big.layer2) + mse(big.logits, labels)      # big is frozen

`gradient_reach` has the parameters of small up to layer2 (and not small.fc); `constant_terms` has the second term.
The answers come from autograd itself on fake tensors, so detach, no_grad, argmax and comparisons count as they do in
a real step.
"""

from __future__ import annotations

import operator
from collections.abc import Collection
from typing import Any

import torch
from torch import Tensor, fx

from kdplan.graph.freeze import parameter_names
from kdplan.graph.module import outputs_of
from kdplan.graph.replay import Replay, example_inputs, world_for


def gradient_reach(gm: fx.GraphModule, output: str = "loss") -> set[str]:
    """Names of the parameters that get a gradient from an output.

    Examples
    --------
    >>> from torch import nn
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(2, 3))
    >>> b.network("a", nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    >>> gm = b.finish({"loss": b.call(torch.sum, b.apply("a", (x,), "0")), "out": b.apply("a", (x,))}).graph_module
    >>> sorted(gradient_reach(gm))
    ['nets.a.0.bias', 'nets.a.0.weight']
    """
    world = world_for(gm)
    with torch.enable_grad():
        result = Replay(gm, world).run(*example_inputs(gm, world))
    known = parameter_names(gm)
    names = {id(world.fake(p)): known[id(p)] for p in gm.parameters()}
    found: set[str] = set()
    seen: set[Any] = set()
    todo = [result[output].grad_fn]
    while todo:
        fn = todo.pop()
        if fn is None or fn in seen:
            continue
        seen.add(fn)
        variable = getattr(fn, "variable", None)
        if variable is not None and id(variable) in names:
            found.add(names[id(variable)])
        todo += [f for f, _ in fn.next_functions]
    return found


def constant_terms(gm: fx.GraphModule, moving: Collection[str], output: str = "loss") -> list[str]:
    """Names of the nodes that are additive terms of an output and depend on no moving parameter.

    Examples
    --------
    >>> from torch import nn
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(2, 3))
    >>> b.network("a", nn.Linear(3, 3))
    >>> b.network("t", nn.Linear(3, 3))
    >>> terms = [b.call(torch.sum, b.apply(n, (x,))) for n in ("a", "t")]
    >>> gm = b.finish({"loss": b.call(operator.add, *terms)}).graph_module
    >>> constant_terms(gm, {"nets.a.weight", "nets.a.bias"}) == [terms[1].name]
    True
    """
    terms = additive_terms(outputs_of(gm)[output])
    world = world_for(gm, moving)
    replay = Replay(gm, world, keep=[t.name for t in terms])
    with torch.enable_grad():
        replay.run(*example_inputs(gm, world))
    values = {t.name: replay.seen.get(t.name) for t in terms}
    return [name for name, v in values.items() if not (isinstance(v, Tensor) and v.requires_grad)]


_SUMS: tuple[Any, ...] = (operator.add, torch.add, operator.sub, torch.sub)
_SIGNS: tuple[Any, ...] = (operator.neg, torch.neg, operator.pos)


def additive_terms(node: fx.Node) -> list[fx.Node]:
    """The summands that a node is the sum of, left to right; numbers are left out."""
    found: list[fx.Node] = []
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
            found.append(n)
    return found
