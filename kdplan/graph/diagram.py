"""Graphs as text, side by side: the diagrams in the docstrings of the passes, which tests run.

>>> import torch
>>> from torch import nn
>>> from kdplan.graph.trace import trace
>>> print(diagram(net=trace(nn.Sequential(nn.Linear(3, 2), nn.ReLU()), torch.zeros(1, 3)).graph))
net
input0 = input
net_0 = net.0(input0)
net_1 = net.1(net_0)
return net_1
"""

from __future__ import annotations

from collections.abc import Iterable

from torch import fx


def line(node: fx.Node) -> str:
    """One node as a line: `name = what it calls(what it reads)`."""
    if node.op == "placeholder":
        return f"{node.name} = input"
    if node.op == "output":
        return f"return {_written(node.args[0])}"
    if node.op == "get_attr":
        return f"{node.name} = {node.target}"
    target = node.target if isinstance(node.target, str) else getattr(node.target, "__name__", str(node.target))
    values = [*map(_written, node.args), *(f"{key}={_written(value)}" for key, value in node.kwargs.items())]
    return f"{node.name} = {target}({', '.join(values)})"


def _written(value: object) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{key}={_written(part)}" for key, part in value.items())
    if isinstance(value, tuple | list):
        return f"[{', '.join(map(_written, value))}]"
    return str(value)


def diagram(**columns: Iterable[fx.Node] | fx.Graph) -> str:
    """Graphs in columns, one node a line, nodes of the same name in the same line."""
    lists = {title: [*(c.nodes if isinstance(c, fx.Graph) else c)] for title, c in columns.items()}
    rows: list[str] = []
    for nodes in lists.values():
        at = 0
        for node in nodes:
            if node.name in rows:
                at = rows.index(node.name) + 1
            else:
                rows.insert(at, node.name)
                at += 1
    parts = []
    for title, nodes in lists.items():
        lines = {n.name: line(n) for n in nodes}
        parts.append([title, *(lines.get(name, "") for name in rows)])
    widths = [max(map(len, part)) + 4 for part in parts]
    return "\n".join(
        "".join(t.ljust(w) for t, w in zip(row, widths, strict=True)).rstrip() for row in zip(*parts, strict=True)
    )
