"""Where a network forks: its graph cut in two at one value that all that comes after depends on.

>>> import torch
>>> from torch import nn
>>> from kdplan.graph.diagram import diagram
>>> from kdplan.graph.trace import trace
>>> net = nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
>>> cut = cut_at(trace(net, torch.zeros(2, 3)), "2")
>>> print(diagram(before=cut.traced.graph, shared=cut.shared, rest=cut.rest))
before                   shared                   rest
input0 = input           input0 = input
net_0 = net.0(input0)    net_0 = net.0(input0)
net_1 = net.1(net_0)     net_1 = net.1(net_0)
net_2 = net.2(net_1)                              net_2 = net.2(net_1)
return net_2
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from torch import Tensor, fx
from torch.utils._pytree import tree_leaves

from kdplan.diagnostics.report import listing, nearest
from kdplan.graph.fake import storages
from kdplan.graph.taps import Call, Tap
from kdplan.graph.trace import Traced
from kdplan.graph.tracer import ROOT
from kdplan.ir.outputs import OUTPUT

TRACEABLE = "Store state in buffers, draw from torch's generator, and compute with torch's functions to have it traced."


class BranchError(ValueError):
    """A network cannot be branched so. `code` and `values` are those of the error that a plan gets."""

    def __init__(self, code: str, **values: str) -> None:
        super().__init__("; ".join(f"{k}: {v}" for k, v in values.items() if v))
        self.code = code
        self.values = values


@dataclass
class Cut:
    """A traced network cut in two at one value.

    Attributes
    ----------
    shared, rest
        The nodes before the cut and those that depend on it, in order; what is only for the latter is among them.
    point
        The value at the cut.
    logits
        The node of `rest` that gives the network's logits, and the way into its structure.
    kept
        Nodes of `shared` that are read after it ends.
    copied
        Whether `rest` writes into the value at the cut.
    calls
        Calls of modules that were traced through, by the node after which they are done.
    """

    traced: Traced
    shared: list[fx.Node]
    rest: list[fx.Node]
    point: fx.Node
    logits: Tap
    kept: list[fx.Node] = field(default_factory=list)
    copied: bool = False
    calls: dict[fx.Node, list[Call]] = field(default_factory=dict)


def cut_at(traced: Traced, at: str) -> Cut:
    """Cut a traced network where its module `at` begins, or at the value that goes by that name (`inputs`: its input).

    Raises
    ------
    BranchError
        KD0501 if there is no such module or tap, KD0516 if the network does not fall into two parts there.
    """
    graph, taps = traced.graph, traced.taps
    for path, reason in traced.leaves.items():
        if not path or at.startswith(f"{path}."):
            why = f"`{path}` is called whole: {reason}" if path else f"it is called whole, since {reason}"
            raise BranchError("KD0516", point=at, why=why, help=TRACEABLE)
    if "logits" not in taps:
        raise _unfit(at, "the output of the network is not a tensor")
    point = _point(traced, at)
    fed = _fed(graph)
    after = _after(graph, point)
    end = taps["logits"].node
    if end not in after:
        raise _unfit(at, "the output of the network does not depend on it")
    wanted = {end, *_behind(end)}  # what else a network gives in training (of heads on the way, say) is not
    for node in graph.nodes:
        for other in node.all_input_nodes if node in after & wanted else ():
            if other in fed and other not in after and other is not point:
                raise _unfit(at, f"`{_name_of(traced, other)}` reaches `{_name_of(traced, node)}` without it")
    rest = after | _only_for(graph, after, fed)
    order = [n for n in graph.nodes if n.op != "output"]
    cut = Cut(traced, [n for n in order if n not in rest], [n for n in order if n in rest], point, taps["logits"])
    both = _weights(cut, cut.shared).keys() & _weights(cut, cut.rest).keys()
    if both:
        raise _unfit(at, f"`{sorted(both)[0]}` is used before it too")
    spot = storages(point)
    cut.copied = any(spot & storages(m) for n in cut.rest for m in n.meta.get("mutates", ()))
    position = {n: i for i, n in enumerate(order)}
    for call in traced.calls:
        outputs = [n for n in tree_leaves(call.output) if isinstance(n, fx.Node)]
        if not call.leaf and call.path and outputs:
            cut.calls.setdefault(max(outputs, key=position.__getitem__), []).append(call)
    read = {m for n in cut.rest for m in n.all_input_nodes}
    read |= {m for n in cut.rest for c in cut.calls.get(n, ()) for m in _nodes(c)}
    cut.kept = [n for n in cut.shared if n in read or n is point]
    return cut


def _unfit(at: str, why: str) -> BranchError:
    return BranchError("KD0516", point=at, why=why)


def _point(traced: Traced, at: str) -> fx.Node:
    """The value where the part from `at` on begins."""
    if at == "inputs":
        return traced.first
    call = next((c for c in traced.calls if c.path == at), None)
    if call is None:
        tap = traced.taps.get(at)
        if tap is None or tap.index or tap.inner is not None:
            top = [t for t in traced.taps if "." not in t and "#" not in t and t not in OUTPUT]
            near = nearest(at, [t for t in traced.taps if t.count(".") == at.count(".")])
            help = f"Did you mean `{near}`?" if near else f"Choose from {listing([*top, 'inputs'], 20)}."
            raise BranchError("KD0501", tap=at, help=help)
        return tap.node
    given = {n for n in tree_leaves(call.inputs) if isinstance(n, fx.Node) and isinstance(n.meta.get("val"), Tensor)}
    if len(given) != 1:
        raise _unfit(at, f"it takes {len(given)} values")
    return given.pop()


def _fed(graph: fx.Graph) -> set[fx.Node]:
    """The nodes whose numbers, not only their shapes, come from the network's input."""
    fed: set[fx.Node] = set()
    for node in graph.nodes:
        holds = any(isinstance(v, Tensor) for v in tree_leaves(node.meta.get("val")))
        if holds and (node.op == "placeholder" or any(n in fed for n in node.all_input_nodes)):
            fed.add(node)
    return fed


def _after(graph: fx.Graph, point: fx.Node) -> set[fx.Node]:
    after: set[fx.Node] = set()
    for node in graph.nodes:
        if any(n is point or n in after for n in node.all_input_nodes):
            after.add(node)
    return after


def _only_for(graph: fx.Graph, after: set[fx.Node], fed: set[fx.Node]) -> set[fx.Node]:
    """Nodes that depend on no input and are read behind the cut alone: weights, and what is made of them."""
    only: set[fx.Node] = set()
    for node in reversed(graph.nodes):
        users = set(node.users)
        free = node not in fed and node.op != "placeholder" and not any(n.op == "placeholder" for n in _behind(node))
        if node.op != "output" and node not in after and free and users and users <= after | only:
            only.add(node)
    return only


def _behind(node: fx.Node) -> set[fx.Node]:
    seen: set[fx.Node] = set()
    todo = [node]
    while todo:
        for n in todo.pop().all_input_nodes:
            if n not in seen:
                seen.add(n)
                todo.append(n)
    return seen


def _nodes(call: Call) -> list[fx.Node]:
    return [n for n in tree_leaves((call.inputs, call.output)) if isinstance(n, fx.Node)]


def _weights(cut: Cut, nodes: Iterable[fx.Node]) -> dict[str, str]:
    """Names of the parameters and buffers that nodes use -> the node's target in the network."""
    targets = {}
    for node in nodes:
        target = str(node.target).removeprefix(f"{ROOT}.")
        if node.op == "get_attr" and str(node.target).startswith(f"{ROOT}."):
            targets[target] = target
        elif node.op == "call_module":
            module = cut.traced.root.get_submodule(str(node.target))
            held = [*module.named_parameters(), *module.named_buffers()]
            targets |= {f"{target}.{n}": target for n, _ in held}
    return targets


def _name_of(traced: Traced, node: fx.Node) -> str:
    """What a reader calls a node: its tap, or the module that it is in."""
    names = [name for name, tap in traced.taps.items() if tap.node is node and "#" not in name and tap.inner is None]
    return min(names, key=len, default="") or str(node.meta.get("path") or node.name)
