"""Graph modules that share the original networks, and copies of their graphs."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import fx, nn

from kdplan.graph.law import check_graph


def make(root: nn.Module, graph: fx.Graph) -> fx.GraphModule:
    """A GraphModule over `graph` whose sub-modules are those of `root` themselves, also what the graph does not use.

    So parameter names stay those of `root`, and moving a network to a device takes effect here too.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(2, 2))
    >>> gm = make(net, fx.symbolic_trace(net).graph)
    >>> gm.get_submodule("0") is net[0]
    True
    """
    gm = fx.GraphModule(root, graph)
    # torch's own prints the generated code and drops the traceback when a node raises.
    type(gm)._wrapped_call = _Call()  # type: ignore[attr-defined]
    for name, child in root.named_children():
        gm._modules[name] = child
    return gm


class _Call:
    """Calls a graph module like any module."""

    def __call__(self, gm: nn.Module, *args: Any, **kwargs: Any) -> Any:
        return nn.Module.__call__(gm, *args, **kwargs)


def copy_of(gm: fx.GraphModule) -> fx.GraphModule:
    """The same modules under a copied graph; node names and metadata are kept."""
    graph = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        mapped[node] = graph.node_copy(node, mapped.__getitem__)
    remap_meta(mapped)
    return make(gm, graph)


def origin(node: fx.Node) -> dict[str, Any]:
    """The metadata that say where a node comes from, for one that a pass adds to it."""
    return {key: node.meta[key] for key in ("owner", "path", "call") if key in node.meta}


def remap_meta(mapped: dict[fx.Node, fx.Node]) -> None:
    """Let metadata of copied nodes speak of the copies."""
    for new in mapped.values():
        if "mutates" in new.meta:
            new.meta["mutates"] = tuple(mapped[n] for n in new.meta["mutates"] if n in mapped)


def subset(
    gm: fx.GraphModule,
    keep: Iterable[fx.Node],
    inputs: Iterable[fx.Node] = (),
    outputs: dict[str, fx.Node] | None = None,
    names: Callable[[fx.Node], str] = lambda n: n.name,
) -> fx.GraphModule:
    """The graph of the nodes `keep`, new placeholders for `inputs`, and a dict of `outputs` (default: as before)."""
    kept, fresh = set(keep), set(inputs)
    graph = fx.Graph()
    mapped: dict[fx.Node, fx.Node] = {}
    for node in gm.graph.nodes:
        if node.op == "placeholder" and node in kept:
            mapped[node] = graph.node_copy(node)
    for node in gm.graph.nodes:
        if node in fresh:
            mapped[node] = graph.placeholder(names(node))
            mapped[node].meta = {"val": node.meta["val"], "mutates": (), "buffers": False, "random": False}
    for node in gm.graph.nodes:
        if node in kept and node not in mapped and node.op != "output":
            mapped[node] = graph.node_copy(node, mapped.__getitem__)
    remap_meta(mapped)
    if outputs is None:
        old = output_of(gm)
        result: Any = fx.map_arg(old.args[0], mapped.__getitem__)
    else:
        result = {name: mapped[n] for name, n in outputs.items()}
    out = graph.output(result)
    out.meta["val"] = fx.map_arg(out.args[0], lambda n: n.meta["val"])
    part = make(gm, graph)
    check_graph(graph, part, before=gm.graph)
    return part


def without_unused_inputs(gm: fx.GraphModule) -> fx.GraphModule:
    """The same graph without placeholders that nothing reads: nobody needs to make them."""
    lean = copy_of(gm)
    for node in list(lean.graph.nodes):
        if node.op == "placeholder" and not node.users:
            lean.graph.erase_node(node)
    lean.recompile()
    check_graph(lean.graph, lean, before=gm.graph)
    return lean


def output_of(gm: fx.GraphModule) -> fx.Node:
    """The output node."""
    output: fx.Node = next(n for n in reversed(gm.graph.nodes) if n.op == "output")
    return output


def outputs_of(gm: fx.GraphModule) -> dict[str, fx.Node]:
    """The named outputs of a joined phase."""
    outputs = output_of(gm).args[0]
    assert isinstance(outputs, dict), "the graph's output is a dict"
    return {str(k): v for k, v in outputs.items() if isinstance(v, fx.Node)}
