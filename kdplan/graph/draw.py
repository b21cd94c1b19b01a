"""A phase's graph as a drawing: one cluster a network, one box a module, tensor shapes on the edges.

>>> import torch
>>> from torch import nn
>>> from kdplan.graph.build import Builder
>>> from kdplan.graph.diagram import diagram
>>> b = Builder()
>>> x = b.input("inputs_0", torch.zeros(2, 3))
>>> b.network("small", nn.Sequential(nn.Sequential(nn.Linear(3, 4), nn.ReLU()), nn.Linear(4, 5)))
>>> gm = b.finish({"loss": b.call(torch.sum, b.apply("small", (x,)))}).graph_module
>>> print(diagram(graph=gm.graph))
graph
inputs_0 = input
small_0_0 = nets.small.0.0(inputs_0)
small_0_1 = nets.small.0.1(small_0_0)
small_1 = nets.small.1(small_0_1)
sum_1 = sum(small_1)
return loss=sum_1
>>> drawn = drawing(gm, {"nets.small.1.weight"}, depth=1)
>>> for box in drawn.boxes.values():
...     print(f"{box.label:9} {box.kind:9} {box.cluster}".rstrip())
inputs_0  input
0         frozen    small
1         trainable small
sum       loss
loss      output
"""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field

from torch import Tensor, fx

from kdplan.graph.freeze import classify
from kdplan.graph.lines import NodeError
from kdplan.graph.module import outputs_of
from kdplan.graph.replay import Replay, context_for, example_inputs
from kdplan.graph.structure import tensors

_FILL = {
    "trainable": "#cfe8cf",
    "frozen": "#d9e2f0",
    "adapter": "#fde3b4",
    "loss": "#f6cfcf",
    "input": "#eeeeee",
    "output": "#e6d5ee",
}


@dataclass
class Box:
    """One box: `cluster` is the network that it is in, `kind` its colour."""

    label: str
    kind: str
    cluster: str = ""
    whole: str = ""
    """Why the part is called whole; "" where it is traced."""

    @property
    def text(self) -> str:
        """The label, and what is called whole with the reason in short."""
        reason = self.whole if len(self.whole) <= 50 else f"{self.whole[:49]}…"
        return f"{self.label}\nwhole: {reason}" if reason else self.label


@dataclass
class Drawing:
    """Boxes and labelled edges, before any drawing language."""

    boxes: dict[str, Box] = field(default_factory=dict)
    edges: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def clusters(self) -> list[str]:
        """The clusters' names, in order."""
        return list(dict.fromkeys(b.cluster for b in self.boxes.values() if b.cluster))


def drawing(gm: fx.GraphModule, trainable: Collection[str] = (), depth: int | None = None, limit: int = 14) -> Drawing:
    """Collapse a joined graph to boxes.

    Parameters
    ----------
    gm
        A joined phase.
    trainable
        Names of the trainable parameters.
    depth
        How many levels of module names a box keeps; by default as many as give at most `limit` boxes a network.
    limit
        See `depth`.

    Examples
    --------
    >>> import torch
    >>> from torch import nn
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(2, 3))
    >>> b.network("a", nn.Sequential(nn.Linear(3, 4), nn.ReLU()))
    >>> gm = b.finish({"loss": b.call(torch.sum, b.apply("a", (x,)))}).graph_module
    >>> p = drawing(gm, {"nets.a.0.weight"})
    >>> [(b.label, b.kind) for b in p.boxes.values()]
    [('x', 'input'), ('0', 'trainable'), ('1', 'trainable'), ('sum', 'loss'), ('loss', 'output')]
    """
    trainable_graph, _ = classify(gm, trainable)
    result, shapes = Drawing(), _shapes(gm)
    home: dict[fx.Node, str | None] = {}
    depths = {call: depth or _depth(gm, call, limit) for call in _calls(gm)}
    names = _cluster_names(gm)
    for node in gm.graph.nodes:
        if node.op == "output":
            continue
        home[node] = _box(result, node, depths, names, node in trainable_graph)
    for node in gm.graph.nodes:
        target = home.get(node)
        if target is None:
            continue
        for source, value in _sources(node, home):
            _connect(result, home[source], target, shapes.get(value, ""))
    for name, node in outputs_of(gm).items():
        key = f"out_{name}"
        result.boxes[key] = Box(name, "output")
        for source, value in [(node, node.name)] if home.get(node) else _sources(node, home):
            _connect(result, home[source], key, shapes.get(value, ""))
    return result


def _calls(gm: fx.GraphModule) -> list[int]:
    return list(dict.fromkeys(n.meta.get("call") for n in gm.graph.nodes if _owner(n).startswith("net ")))


def _owner(node: fx.Node) -> str:
    return str(node.meta.get("owner", ""))


def _depth(gm: fx.GraphModule, call: int, limit: int) -> int:
    """The deepest level of names with at most `limit` boxes; at least one."""
    paths = [str(n.meta.get("path", "")) for n in gm.graph.nodes if n.meta.get("call") == call]
    best = 1
    for d in (2, 3, 4):
        if len({".".join(p.split(".")[:d]) for p in paths}) <= limit:
            best = d
    return best


def _cluster_names(gm: fx.GraphModule) -> dict[int, str]:
    """Call -> the cluster's name; a network that is applied twice gets numbers."""
    owners = {n.meta.get("call"): _owner(n)[4:] for n in gm.graph.nodes if _owner(n).startswith("net ")}
    count: dict[str, int] = {}
    names: dict[int, str] = {}
    for call, owner in owners.items():
        count[owner] = count.get(owner, 0) + 1
        names[call] = owner if count[owner] == 1 else f"{owner} (call {count[owner]})"
    return names


def _box(p: Drawing, node: fx.Node, depths: dict[int, int], names: dict[int, str], trainable_graph: bool) -> str | None:
    """The box that a node is in; None for bookkeeping (sizes, parts, weights) that the drawing leaves out."""
    if node.op == "placeholder":
        p.boxes[node.name] = Box(node.name, "input")
        return node.name
    function = getattr(node.target, "__name__", str(node.target))
    if node.op == "get_attr" or not _is_shown(node) or function in ("getitem", "detach"):
        return None
    owner = _owner(node)
    if owner.startswith("net "):
        call = node.meta["call"]
        path = ".".join(str(node.meta.get("path", "")).split(".")[: depths[call]])
        key = f"c{call}_{path or node.name}"
        label = path or (names[call] if node.op == "call_module" else function)
        box = p.boxes.setdefault(key, Box(label, "frozen", names[call]))
        box.whole = box.whole or str(node.meta.get("whole") or "")
        if trainable_graph:
            box.kind = "trainable"
        return key
    if owner.startswith("adapter "):
        p.boxes[node.name] = Box(owner.removeprefix("adapter "), "adapter")
    else:
        p.boxes[node.name] = Box(_written(node, function), "loss")
    return node.name


_SIGNS = {"add": "+", "sub": "−", "mul": "×", "truediv": "÷", "pow": "^", "neg": "−"}


def _written(node: fx.Node, function: str) -> str:
    """A function as a reader knows it: operators by their sign, with the numbers that they are given."""
    numbers = [f"{a:g}" for a in node.args if isinstance(a, int | float)]
    numbers += [f"{k} {v:g}" for k, v in node.kwargs.items() if isinstance(v, int | float) and not isinstance(v, bool)]
    return " ".join([_SIGNS.get(function, function), *numbers])


def _is_shown(node: fx.Node) -> bool:
    """Whether a node has a box: it gives a tensor, or is a module that gives several."""
    value = node.meta.get("val")
    return isinstance(value, Tensor) or (node.op == "call_module" and bool(tensors(value)))


def _sources(node: fx.Node, home: dict[fx.Node, str | None]) -> list[tuple[fx.Node, str]]:
    """The nodes with boxes that a node reads, through what has no box, each with the name of the value that is read.

    Sizes carry no data and are left out.
    """
    sources: list[tuple[fx.Node, str]] = []
    todo = [(n, n.name) for n in node.all_input_nodes]
    while todo:
        n, value = todo.pop()
        value = n.name if isinstance(n.meta.get("val"), Tensor) else value
        if home.get(n) is not None:
            sources.append((n, value))
        elif n.op != "get_attr" and _carries(n):
            todo += [(m, value) for m in n.all_input_nodes]
    return sources


def _carries(node: fx.Node) -> bool:
    value = node.meta.get("val")
    if isinstance(value, Tensor):
        return True
    return isinstance(value, tuple | list | dict) and not isinstance(value, type(Tensor().shape))


def _connect(p: Drawing, source: str | None, target: str, label: str) -> None:
    if source is not None and source != target:
        labels = p.edges.setdefault((source, target), [])
        if label not in labels:
            labels.append(label)


_TWO = (6, 10)
"""Batch sizes at which a graph is run to see which dimensions follow it."""


def _shapes(gm: fx.GraphModule) -> dict[str, str]:
    """The shape of each node's tensor, with B for the size of a batch: `B×10`, and `5` of a running mean."""
    tensors = {n.name: n.meta["val"] for n in gm.graph.nodes if isinstance(n.meta.get("val"), Tensor)}
    context = context_for(gm, ())
    seen: list[dict[str, Tensor]] = []
    try:
        for batch in _TWO:
            replay = Replay(gm, context, keep=tensors)
            replay.run(*example_inputs(gm, context, batch))
            seen.append(replay.seen)
    except (NodeError, RuntimeError):  # code for one size of batches: its first dimension says which
        sizes = {v.shape[0] for n, v in tensors.items() if n.startswith("inputs") and v.dim()}
        return {
            n: _dims(["B" if i == 0 and d in sizes else d for i, d in enumerate(v.shape)]) for n, v in tensors.items()
        }
    first, second = seen
    return {
        n: _dims([_dimension(*d) for d in zip(first[n].shape, second[n].shape, v.shape, strict=True)])
        for n, v in tensors.items()
        if n in first and first[n].dim() == v.dim()
    }


def _dimension(first: int, second: int, own: int) -> str | int:
    """A dimension that is so long for each of two batch sizes, and for the phase's.

    >>> _dimension(6, 10, 64), _dimension(12, 20, 128), _dimension(5, 5, 5)
    ('B', '2B', 5)
    """
    times, rest = divmod(first, _TWO[0])
    if first == second or rest or second != times * _TWO[1]:
        return own
    return "B" if times == 1 else f"{times}B"


def _dims(sizes: Sequence[str | int]) -> str:
    return "×".join(map(str, sizes))


def to_dot(p: Drawing, title: str = "") -> str:
    """Graphviz source.

    Examples
    --------
    >>> print(to_dot(Drawing({"x": Box("x", "input")}), "t").splitlines()[0])
    digraph "t" {
    """
    names = {key: f"n{i}" for i, key in enumerate(p.boxes)}

    def box(key: str) -> str:
        b = p.boxes[key]
        shape = {"input": "ellipse", "output": "ellipse", "loss": "hexagon"}.get(b.kind, "box")
        return f'{names[key]} [label="{_quoted(b.text)}", shape={shape}, fillcolor="{_FILL[b.kind]}"];'

    lines = [
        f'digraph "{_quoted(title)}" {{',
        f'  label="{_quoted(title)}"; labelloc=t; rankdir=LR; fontname="Helvetica"; nodesep=0.25; ranksep=0.45;',
        '  node [style="filled,rounded", fontname="Helvetica", fontsize=11, margin="0.12,0.05"];',
        '  edge [fontname="Helvetica", fontsize=9, color="#555555"];',
    ]
    for i, cluster in enumerate(p.clusters()):
        inside = [k for k, b in p.boxes.items() if b.cluster == cluster]
        kinds = {p.boxes[k].kind for k in inside}
        state = "trainable" if "trainable" in kinds else "frozen"
        label = _quoted(f"{cluster} ({state})")
        lines.append(f'  subgraph cluster_{i} {{ label="{label}"; style="rounded"; color="#888888";')
        lines += [f"    {box(k)}" for k in inside]
        lines.append("  }")
    lines += [f"  {box(k)}" for k, b in p.boxes.items() if not b.cluster]
    for (a, b), labels in p.edges.items():
        text = "\\n".join(_quoted(t) for t in labels if t)
        lines.append(f'  {names[a]} -> {names[b]} [label="{text}"];')
    return "\n".join([*lines, "}", ""])


def to_mermaid(p: Drawing) -> str:
    """Mermaid source.

    Examples
    --------
    >>> print(to_mermaid(Drawing({"x": Box("x", "input")})).splitlines()[0])
    flowchart LR
    """
    names = {key: f"n{i}" for i, key in enumerate(p.boxes)}
    lines = ["flowchart LR"]
    for i, cluster in enumerate(p.clusters()):
        lines.append(f'  subgraph g{i}["{_plain(cluster)}"]')
        lines += [f'    {names[k]}["{_plain(b.text)}"]' for k, b in p.boxes.items() if b.cluster == cluster]
        lines.append("  end")
    lines += [f'  {names[k]}(["{_plain(b.label)}"])' for k, b in p.boxes.items() if not b.cluster]
    for (a, b), labels in p.edges.items():
        text = ", ".join(t for t in labels if t)
        lines.append(f"  {names[a]} -->|{text}| {names[b]}" if text else f"  {names[a]} --> {names[b]}")
    for kind, colour in _FILL.items():
        members = ",".join(names[k] for k, b in p.boxes.items() if b.kind == kind)
        if members:
            lines += [f"  classDef {kind} fill:{colour},stroke:#888;", f"  class {members} {kind};"]
    return "\n".join([*lines, ""])


def _quoted(text: str) -> str:
    return text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")


def _plain(text: str) -> str:
    return text.replace('"', "'").replace("\n", "<br/>")
