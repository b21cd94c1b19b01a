"""Dead-code elimination from the outputs.

>>> import torch
>>> from torch import nn
>>> from kdplan.graph.build import Builder
>>> from kdplan.graph.diagram import diagram
>>> b = Builder()
>>> x = b.input("inputs_0", torch.zeros(2, 3))
>>> b.network("big", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
>>> b.network("small", nn.Sequential(nn.Linear(3, 4)))
>>> loss = b.call(nn.functional.mse_loss, b.apply("small", (x,)), b.apply("big", (x,), "0"))
>>> gm = b.finish({"loss": loss}).graph_module
>>> print(diagram(before=gm.graph, after=prune(gm).graph_module.graph))
before                                 after
inputs_0 = input                       inputs_0 = input
small_0 = nets.small.0(inputs_0)       small_0 = nets.small.0(inputs_0)
big_0 = nets.big.0(inputs_0)           big_0 = nets.big.0(inputs_0)
big_1 = nets.big.1(big_0)
mse_loss = mse_loss(small_0, big_0)    mse_loss = mse_loss(small_0, big_0)
return loss=mse_loss                   return loss=mse_loss

A node stays if an output needs it, or if it writes into a value that a later staying node reads. A module with effects
on its own buffers (batch norm in training) or on the random stream is removed like any other when nothing reads it,
because the phase trains the network up to the tap. The result names the removed ones.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass

from torch import fx

from kdplan.graph.fake import storages
from kdplan.graph.law import check_graph
from kdplan.graph.module import output_of, subset
from kdplan.graph.state import is_write, written_buffer


@dataclass(frozen=True)
class Pruned:
    """A pruned graph, and the names of what was removed.

    Attributes
    ----------
    graph_module
        The graph with only what its outputs need.
    buffers
        Paths of removed calls that would have updated running statistics.
    random
        Paths of removed calls that would have drawn random numbers.
    removed
        How many nodes were removed.
    """

    graph_module: fx.GraphModule
    buffers: tuple[str, ...]
    random: tuple[str, ...]
    removed: int


def prune(gm: fx.GraphModule) -> Pruned:
    """Keep what the outputs need; placeholders always stay.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(2, 3))
    >>> b.network("a", nn.Sequential(nn.Linear(3, 3), nn.BatchNorm1d(3)))
    >>> joined = b.finish({"out": b.apply("a", (x,), "0")})
    >>> pruned = prune(joined.graph_module)
    >>> [n.name for n in pruned.graph_module.graph.nodes], pruned.buffers
    (['x', 'a_0', 'output'], ('nets.a.1',))
    """
    check_graph(gm.graph, gm)
    kept = needed(gm)
    gone = [n for n in gm.graph.nodes if n not in kept]
    written = writers(gm.graph)
    buffers = tuple(dict.fromkeys(_path(n) for n in gone if n.meta.get("buffers") or n in written))
    random = tuple(dict.fromkeys(_path(n) for n in gone if n.meta.get("random")))
    result = subset(gm, kept) if gone else gm
    check_graph(result.graph, result, before=gm.graph, pruned=True)
    return Pruned(result, buffers, random, len(gone))


def needed(
    gm: fx.GraphModule, roots: Iterable[fx.Node] | None = None, without: Collection[fx.Node] = ()
) -> set[fx.Node]:
    """The nodes that `roots` (default: the output) need, and the writes into buffers by modules that they run.

    Nothing of `without` is among them, nor what only that needs.
    """
    ends = list(roots if roots is not None else [output_of(gm)])
    start = [*ends, *(n for n in gm.graph.nodes if n.op == "placeholder")]
    written = writers(gm.graph).difference(without)
    kept: set[fx.Node] = set()
    while True:
        kept = _behind(gm, [*start, *kept], ends, without)
        running = {c for n in kept if n.op not in ("get_attr", "placeholder", "output") for c in _callers(n)}
        more = [n for n in written if n not in kept and _caller(n) in running]
        if not more:
            return kept
        kept.update(more)


def _behind(
    gm: fx.GraphModule, roots: Iterable[fx.Node], ends: Iterable[fx.Node], without: Collection[fx.Node]
) -> set[fx.Node]:
    """What `roots` depend on, also by writes into what is read later; `ends` are read when all has run."""
    kept = set(roots)
    read: set[int] = set().union(*map(storages, ends))
    for node in reversed(gm.graph.nodes):
        if node in without and node not in kept:
            continue
        writes = [t for t in node.meta.get("mutates", ()) if t.op != "get_attr"]
        if any(storages(t) & read for t in writes):
            kept.add(node)
        if node in kept and node.op != "placeholder":
            kept.update(n for n in node.all_input_nodes if n not in without)
            for n in node.all_input_nodes:
                read |= storages(n)
    return kept


def _caller(node: fx.Node) -> tuple[object, object, object]:
    return node.meta.get("owner"), node.meta.get("call"), node.meta.get("path")


def _callers(node: fx.Node) -> list[tuple[object, object, object]]:
    """The module that a node is in, and the modules around it, which ran too."""
    owner, call, path = _caller(node)
    words = str(path or "").split(".")
    return [(owner, call, ".".join(words[:i])) for i in range(len(words) + 1)]


def writers(graph: fx.Graph) -> set[fx.Node]:
    """The nodes that write into a buffer that was read as an attribute, or that bind one anew."""
    memory = state_memory(graph).keys()
    return {
        n
        for n in graph.nodes
        if is_write(n) or any(t.op == "get_attr" or storages(t) & memory for t in n.meta.get("mutates", ()))
    }


def state_memory(graph: fx.Graph) -> dict[int, set[str]]:
    """Identity of a storage -> the paths of the attributes that live in it, or will when a buffer is bound to it."""
    paths: dict[int, set[str]] = {}
    for node in graph.nodes:
        value, path = (node.args[2], written_buffer(node)) if is_write(node) else (node, str(node.target))
        for memory in storages(value) if node.op == "get_attr" or is_write(node) else ():
            paths.setdefault(memory, set()).add(path)
    return paths


def _path(node: fx.Node) -> str:
    if node.op == "call_module":
        return str(node.target)
    owner, path = str(node.meta.get("owner", "")), str(node.meta.get("path", ""))
    return f"nets.{owner.removeprefix('net ')}.{path}".rstrip(".") if owner.startswith("net ") else node.name
