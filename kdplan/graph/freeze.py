"""Splits a phase into the part that never changes and the part that trains.

>>> from kdplan.graph.build import Builder
>>> from kdplan.graph.diagram import diagram
>>> b = Builder()
>>> x = b.input("inputs_0", torch.zeros(2, 3))
>>> b.network("big", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
>>> b.network("small", nn.Sequential(nn.Linear(3, 5)))
>>> loss = b.call(nn.functional.mse_loss, b.apply("small", (x,)), b.apply("big", (x,)))
>>> gm = b.finish({"loss": loss}).graph_module
>>> cut = split(gm, {"nets.small.0.weight", "nets.small.0.bias"})
>>> print(diagram(before=gm.graph))
before
inputs_0 = input
small_0 = nets.small.0(inputs_0)
big_0 = nets.big.0(inputs_0)
big_1 = nets.big.1(big_0)
mse_loss = mse_loss(small_0, big_1)
return loss=mse_loss
>>> print(diagram(frozen=cut.frozen.graph, trainable=cut.trainable_graph.graph))
frozen                          trainable
inputs_0 = input                inputs_0 = input
big_0 = nets.big.0(inputs_0)
big_1 = nets.big.1(big_0)       big_1 = input
                                small_0 = nets.small.0(inputs_0)
                                mse_loss = mse_loss(small_0, big_1)
return big_1=big_1              return loss=mse_loss

The frozen graph depends on no trainable parameter: it runs under `no_grad`, and its outputs can be stored.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass

import torch
from torch import Tensor, fx, nn

from kdplan.graph.fake import storages, whole
from kdplan.graph.law import check_graph
from kdplan.graph.module import copy_of, origin, output_of, outputs_of, subset
from kdplan.graph.prune import needed, state_memory, writers
from kdplan.graph.state import is_write, written_buffer


@dataclass(frozen=True)
class Split:
    """Two graphs that together are one.

    Attributes
    ----------
    frozen
        Inputs -> dict of boundary values; None if nothing is frozen.
    trainable_graph
        Inputs and boundary values by name -> the outputs of the whole.
    boundary
        Names of the values that cross.
    cacheable
        Whether the frozen graph gives the same for the same inputs (nothing random, no running statistics).
    """

    frozen: fx.GraphModule | None
    trainable_graph: fx.GraphModule
    boundary: tuple[str, ...]
    cacheable: bool

    def __call__(self, **inputs: Tensor) -> dict[str, Tensor]:
        """Run both parts."""
        if self.frozen is None:
            result: dict[str, Tensor] = self.trainable_graph(**inputs)
            return result
        with torch.no_grad():
            crossing = self.frozen(**inputs)
        result = self.trainable_graph(**inputs, **crossing)
        return result


def split(gm: fx.GraphModule, trainable: Collection[str]) -> Split:
    """Cut the graph where it begins to depend on the parameters named in `trainable`.

    What depends on no parameter at all (labels, masks) is computed in the trainable part. Cheap last steps of the
    frozen part are computed in the trainable part where then no more bytes cross: a teacher's logits cross, not what
    a loss makes of them.

    Examples
    --------
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(2, 3))
    >>> b.network("big", nn.Linear(3, 3))
    >>> b.network("small", nn.Linear(3, 3))
    >>> t, s = b.apply("big", (x,)), b.apply("small", (x,))
    >>> joined = b.finish({"loss": b.call(nn.functional.mse_loss, b.call(torch.softmax, t, 1), s)})
    >>> cut = split(joined.graph_module, {"nets.small.weight", "nets.small.bias"})
    >>> cut.boundary, bool(cut(x=torch.ones(5, 3))["loss"].requires_grad)
    (('big_net',), True)
    """
    return _split(gm, trainable, frozenset())


def _split(gm: fx.GraphModule, trainable: Collection[str], once: frozenset[str]) -> Split:
    """`split`, where the draws of these names belong to the frozen part, whatever they depend on."""
    check_graph(gm.graph, gm)
    trainable_graph, stateful = classify(gm, trainable, once)
    writes = _writes(gm, trainable_graph)
    core = {
        n
        for n in gm.graph.nodes
        if n in stateful and n not in trainable_graph and n.op != "output" and (n.op != "get_attr" or writes.get(n))
    }
    if early := _early_reads(gm, core, writes):
        return _split(_kept_before(gm, early), trainable, once)
    crossing = _frontier(gm, core, writes)
    if not crossing:
        return Split(None, gm, (), True)
    kept = needed(gm, crossing, without=trainable_graph)
    frozen = subset(gm, kept, outputs={n.name: n for n in crossing})
    rest = _back_from(gm, crossing, kept)
    if twice := {n.name for n in kept & rest if n.meta.get("random")} - once:
        return _split(gm, trainable, once | twice)
    result = subset(gm, rest, inputs=crossing)
    for part in (frozen, result):
        check_graph(part.graph, part, before=gm.graph, pruned=True)
    effects = any(n.meta.get("random") or n.meta.get("buffers") for n in frozen.graph.nodes)
    effects |= bool(writers(frozen.graph))
    return Split(frozen, result, tuple(n.name for n in crossing), not effects)


def classify(
    gm: fx.GraphModule, trainable: Collection[str], once: Collection[str] = ()
) -> tuple[set[fx.Node], set[fx.Node]]:
    """Nodes that depend on a trainable parameter, and nodes that depend on any parameter, buffer or draw of `once`."""
    names = parameter_names(gm)
    wanted = set(trainable)
    trainable_graph = {n for n in gm.graph.nodes if n.op == "output"}
    stateful: set[fx.Node] = set()
    for node in gm.graph.nodes:
        own = own_state(gm, node)
        if any(names.get(id(p)) in wanted for p in own):
            trainable_graph.add(node)
        if own or node.name in once:
            stateful.add(node)
    # A trained network draws its random numbers in the order of its own `forward`.
    owners = {n.meta.get("owner") for n in trainable_graph if n.op != "output"}
    trainable_graph.update(n for n in gm.graph.nodes if n.meta.get("random") and n.meta.get("owner") in owners)
    for nodes in (trainable_graph, stateful):
        _spread(gm, nodes)
    _with_state(gm, wanted, trainable_graph)
    return trainable_graph, stateful


def _spread(gm: fx.GraphModule, nodes: set[fx.Node]) -> None:
    """Add what depends on `nodes`, and values that one of them writes into."""
    held = {n: storages(n) for n in gm.graph.nodes if n.op not in ("placeholder", "get_attr", "output")}
    size = -1
    while size != len(nodes):
        size = len(nodes)
        nodes.update(n for n in gm.graph.nodes if not nodes.isdisjoint(n.all_input_nodes))
        written = frozenset().union(*(storages(t) for n in nodes for t in n.meta.get("mutates", ())))
        nodes.update(n for n, memory in held.items() if memory & written)


def _with_state(gm: fx.GraphModule, trainable: set[str], trainable_graph: set[fx.Node]) -> None:
    """Add what reads or writes a buffer that a trained network, or what depends on one, writes into."""
    boxes = {_network(name) for name in trainable}
    buffers = [n for n in gm.graph.nodes if n.op == "get_attr"]
    memory = state_memory(gm.graph)
    written = writers(gm.graph)
    size = -1
    while size != len(trainable_graph):
        size = len(trainable_graph)
        own = [n for n in written if n in trainable_graph or any(_network(t) in boxes for t in _targets(n, memory))]
        targets = {t for n in own for t in _targets(n, memory)}
        trainable_graph.update(own, (n for n in buffers if n.target in targets))
        if own:
            _spread(gm, trainable_graph)


def _network(path: str) -> str:
    return ".".join(path.split(".")[:2])


def _targets(writer: fx.Node, memory: dict[int, set[str]]) -> set[str]:
    """The paths of the buffers that a node writes into or binds anew."""
    if is_write(writer):
        return {written_buffer(writer)}
    written = frozenset().union(*map(storages, writer.meta["mutates"]))
    return set().union(*(memory.get(m, set()) for m in written))


def parameter_names(gm: nn.Module) -> dict[int, str]:
    """Identity of each parameter -> its first name."""
    return {id(p): name for name, p in gm.named_parameters()}


def own_state(gm: fx.GraphModule, node: fx.Node) -> list[Tensor]:
    """The parameters and buffers that the node itself reads."""
    if node.op == "call_module":
        module = whole(gm.get_submodule(str(node.target)))
        return [*module.parameters(), *module.buffers()]
    if node.op == "get_attr" and not str(node.target).startswith("constants."):
        box, _, leaf = str(node.target).rpartition(".")
        value = getattr(gm.get_submodule(box), leaf)
        return [value] if isinstance(value, Tensor) else []
    return []


def _bytes(node: fx.Node) -> int:
    value = node.meta["val"]
    return value.numel() * value.element_size() if isinstance(value, Tensor) else 1 << 40


_HEAVY = ("conv", "linear", "matmul", "bmm", "attention", "einsum", "addmm", "_norm", "mm")


def _writes(gm: fx.GraphModule, trainable_graph: set[fx.Node]) -> dict[fx.Node, list[fx.Node]]:
    """The frozen part's writes into the memory of each value, in order."""
    sharing: dict[object, list[fx.Node]] = {}
    for node in gm.graph.nodes:
        for memory in (*storages(node), *([node.target] if node.op == "get_attr" else [])):
            sharing.setdefault(memory, []).append(node)
    states = state_memory(gm.graph)
    writes: dict[fx.Node, dict[fx.Node, None]] = {}
    for writer in gm.graph.nodes:
        if writer in trainable_graph:
            continue
        written: set[object] = {m for t in writer.meta.get("mutates", ()) for m in storages(t)}
        # A write into a buffer may be one into whatever an earlier call of the step bound it to.
        paths = {path for m, known in states.items() if m in written for path in known}
        written |= {m for m, known in states.items() if known & paths}
        for memory in written | ({written_buffer(writer)} if is_write(writer) else set()):
            for node in sharing.get(memory, ()):
                writes.setdefault(node, {})[writer] = None
    return {node: list(writers_of) for node, writers_of in writes.items()}


Early = list[tuple[fx.Node, fx.Node]]


def _early_reads(gm: fx.GraphModule, core: set[fx.Node], writes: dict[fx.Node, list[fx.Node]]) -> Early:
    """Values with readers in the trainable part, before writes of the frozen part, which runs first."""
    order = {n: i for i, n in enumerate(gm.graph.nodes)}
    early: Early = []
    for value, writers_of in writes.items():
        for reader in value.users if value in core else ():
            later = any(order[writer] > order[reader] for writer in writers_of)
            if later and reader not in core and reader not in writers_of:
                early.append((value, reader))
    return early


def _kept_before(gm: fx.GraphModule, early: Early) -> fx.GraphModule:
    """The graph with a copy of each such value, from before the write, for its reader."""
    before, names = gm, [(value.name, reader.name) for value, reader in early]
    gm = copy_of(gm)
    nodes = {n.name: n for n in gm.graph.nodes}
    for value, reader in names:
        with gm.graph.inserting_before(nodes[reader]):
            kept = gm.graph.call_method("clone", (nodes[value],))
        kept.meta = origin(nodes[value])
        kept.meta.update(val=nodes[value].meta["val"].clone(), mutates=(), buffers=False, random=False)
        nodes[reader].replace_input_with(nodes[value], kept)
    gm.recompile()
    check_graph(gm.graph, gm, before=before.graph)
    return gm


def _cheap(node: fx.Node, changing: Collection[fx.Node]) -> bool:
    """Whether computing the node twice, or later, costs next to nothing and gives the same."""
    if node.meta.get("random") or node.meta.get("buffers") or node.meta.get("mutates"):
        return False
    if node.op == "call_module" or any(n in changing for n in node.all_input_nodes):
        return False
    name = getattr(node.target, "__name__", str(node.target))
    return node.op in ("call_function", "call_method") and not any(h in name for h in _HEAVY)


def _frontier(gm: fx.GraphModule, core: set[fx.Node], changing: Collection[fx.Node]) -> list[fx.Node]:
    """The frozen nodes whose values cross."""
    order = {n: i for i, n in enumerate(gm.graph.nodes)}
    crossing = {n for n in core if any(u not in core for u in n.users)}
    results = set(outputs_of(gm).values()) if isinstance(output_of(gm).args[0], dict) else set()
    changed = True
    while changed:
        changed = False
        for node in sorted(crossing, key=order.__getitem__, reverse=True):
            feeding = {n for n in node.all_input_nodes if n in core}
            if not feeding or not _cheap(node, changing) or node in results:
                continue
            after = (crossing - {node}) | feeding
            if sum(map(_bytes, after)) <= sum(map(_bytes, crossing)):
                crossing = after
                changed = True
                break
    return sorted(crossing, key=order.__getitem__)


def _back_from(gm: fx.GraphModule, crossing: list[fx.Node], frozen: Collection[fx.Node]) -> set[fx.Node]:
    """What the output, and writes that the frozen part lacks, need when the crossing values are given.

    A write into state or into what crosses goes with the part that runs its module; once is enough.
    """
    given = frozenset().union(*map(storages, crossing))
    written = writers(gm.graph)
    done = {n for n in frozen if n in written or any(storages(t) & given for t in n.meta.get("mutates", ()))}
    rest = (n for n in written & needed(gm) if n not in frozen)
    return needed(gm, [output_of(gm), *rest], without={*crossing, *done})
