"""The part of a graph from one value to another."""

from __future__ import annotations

from torch import fx


def between(graph: fx.Graph, start: fx.Node, end: fx.Node) -> list[fx.Node] | None:
    """What `end` depends on, without `start` and what only that needs, in order; None where inputs are among it."""
    inner: set[fx.Node] = set()
    reached = end is start
    todo = [end]
    while todo:
        node = todo.pop()
        if node is start:
            reached = True
        elif node.op == "placeholder":
            return None
        elif node not in inner:
            inner.add(node)
            todo += node.all_input_nodes
    return [n for n in graph.nodes if n in inner] if reached else None
