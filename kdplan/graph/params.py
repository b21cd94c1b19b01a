"""Which parameters a value of a network depends on."""

from __future__ import annotations

import operator
from collections.abc import Iterable

from torch import fx, nn

from kdplan.graph.fake import whole
from kdplan.graph.taps import TapError
from kdplan.graph.trace import Traced
from kdplan.graph.tracer import ROOT


def parameters_of(traced: Traced, *taps: str) -> set[str]:
    """Names (as the module has them) of the parameters that the taps' values depend on.

    Raises
    ------
    TapError
        If there is no such tap.

    Examples
    --------
    >>> import torch
    >>> from kdplan.graph.trace import trace
    >>> t = trace(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False)), torch.zeros(2, 3))
    >>> sorted(parameters_of(t, "0"))
    ['0.bias', '0.weight']
    """
    for tap in taps:
        if tap not in traced.taps:
            raise TapError(tap, traced.taps)
    names = {id(p): n for n, p in traced.module.named_parameters()}
    reached: set[str] = set()
    seen: set[fx.Node] = set()
    todo = [traced.taps[tap].node for tap in taps]
    while todo:
        node = todo.pop()
        if node in seen:
            continue
        seen.add(node)
        todo += node.all_input_nodes
        target = str(node.target)
        if node.op == "call_module":
            module = whole(traced.root.get_submodule(target))
            reached.update(names[id(p)] for p in module.parameters())
        elif node.op == "get_attr" and target.startswith(ROOT + "."):
            box, _, leaf = target.rpartition(".")
            value = getattr(traced.root.get_submodule(box), leaf)
            reached.update([names[id(value)]] if id(value) in names else [])
    return reached


def upto(traced: Traced, taps: Iterable[str], beyond: Iterable[str] = ()) -> set[str]:
    """Parameters that `taps` depend on, without those that `beyond` depend on too.

    Examples
    --------
    >>> import torch
    >>> from kdplan.graph.trace import trace
    >>> t = trace(nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3, bias=False)), torch.zeros(2, 3))
    >>> upto(t, ["1"], beyond=["0"])
    {'1.weight'}
    """
    return parameters_of(traced, *taps) - parameters_of(traced, *beyond)


def learns(node: fx.Node, root: nn.Module) -> bool:
    """Whether what a node reads has a gradient for a parameter of `root` that asks for one.

    Examples
    --------
    >>> import torch
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> b.network("small", nn.Linear(3, 3))
    >>> scores = b.apply("small", (b.input("x", torch.zeros(2, 3)),))
    >>> learns(b.call(torch.sum, scores), b.root), learns(b.call(torch.sum, b.detach(scores)), b.root)
    (True, False)
    """
    seen: set[fx.Node] = set()
    todo = list(node.all_input_nodes)
    while todo:
        n = todo.pop()
        if n in seen or n.target == "detach" or n.meta.get("frozen"):
            continue
        seen.add(n)
        todo += n.all_input_nodes
        if n.op == "call_module" and any(
            p.requires_grad for p in whole(root.get_submodule(str(n.target))).parameters()
        ):
            return True
        if n.op == "get_attr" and getattr(operator.attrgetter(str(n.target))(root), "requires_grad", False):
            return True
    return False
