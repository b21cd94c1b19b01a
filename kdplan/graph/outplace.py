"""In-place operations behind a tap become out-of-place.

>>> from kdplan.graph.build import Builder
>>> from kdplan.graph.diagram import diagram
>>> b = Builder()
>>> x = b.input("inputs_0", torch.zeros(2, 3))
>>> b.network("a", nn.Sequential(nn.BatchNorm1d(3), nn.ReLU(inplace=True)))
>>> loss = b.call(F.mse_loss, b.apply("a", (x,), "0"), b.apply("a", (x,)))
>>> gm = b.closed({"loss": loss})
>>> after = outplace(gm, b.context)
>>> print(diagram(before=gm.graph, after=after.graph))
before                           after
inputs_0 = input                 inputs_0 = input
a_0 = nets.a.0(inputs_0)         a_0 = nets.a.0(inputs_0)
a_1 = nets.a.1(a_0)              a_1 = inside.a_1(a_0)
mse_loss = mse_loss(a_0, a_1)    mse_loss = mse_loss(a_0, a_1)
return loss=mse_loss             return loss=mse_loss
>>> gm.get_submodule("nets.a.1"), after.get_submodule("inside.a_1")
(ReLU(inplace=True), ReLU())

A tap is the value that a module returned. Where a later operation of the same network writes into that value, whoever
reads the tap would see the later one (and autograd would refuse). The same holds for what a network or function is
given: images, labels and other networks' values stay as they are, for whoever reads them. Only such writes are
replaced; others save memory.
"""

from __future__ import annotations

import copy
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kdplan.graph.fake import FakeContext, storages
from kdplan.graph.law import check_graph
from kdplan.graph.module import copy_of, output_of
from kdplan.graph.prune import state_memory
from kdplan.graph.state import is_write


def outplace(gm: fx.GraphModule, context: FakeContext) -> fx.GraphModule:
    """Replace in-place operations whose target is read from outside the network that they are in, or made there.

    Examples
    --------
    >>> from kdplan.graph.build import Builder
    >>> b = Builder()
    >>> x = b.input("x", torch.zeros(2, 3))
    >>> b.network("a", nn.Sequential(nn.Linear(3, 3), nn.ReLU(inplace=True)))
    >>> behind = b.apply("a", (x,), "0")        # a ReLU in place follows
    >>> gm = b.finish({"loss": b.call(torch.sum, behind), "out": b.apply("a", (x,), "1")}).graph_module
    >>> sorted(str(n.target) for n in gm.graph.nodes if n.op == "call_module")
    ['inside.a_1', 'nets.a.0']
    """
    check_graph(gm.graph, gm)
    if not _violations(gm):
        return gm
    before, gm = gm, copy_of(gm)
    # A rewritten node gives a new storage, which may end or show other conflicts: look again until there is none.
    rounds = 0
    while bad := _violations(gm):
        rounds += 1
        assert rounds <= len(before.graph.nodes) + 1, f"a write stays where it is: {bad[0].writer}"
        for conflict in bad:
            _rewrite(gm, conflict)
        for node in gm.graph.nodes:
            if node.op != "placeholder":
                context.annotate(node, gm)
    gm.recompile()
    check_graph(gm.graph, gm, before=before.graph)
    return gm


@dataclass
class _Conflict:
    """A write into values that are read from outside the writer's call, or into what the call is given."""

    writer: fx.Node
    target: fx.Node
    given: bool
    """Whether the target lives in memory from outside the call: of images, or of another network's value."""
    outside: list[tuple[fx.Node, list[fx.Node]]]
    """Values in the same storage, with their readers outside."""
    inside: bool
    """Whether the network itself reads one of them after the write."""


def _violations(gm: fx.GraphModule) -> list[_Conflict]:
    order = {n: i for i, n in enumerate(gm.graph.nodes)}
    held = {n: storages(n) for n in gm.graph.nodes}
    state = state_memory(gm.graph).keys()
    end = output_of(gm)
    arguments = _arguments(gm)
    conflicts: list[_Conflict] = []
    taken: set[fx.Node] = set()
    for writer in gm.graph.nodes:
        # A buffer that is bound to what the call is given may be written into by a later call.
        bound = [writer.args[2]] if is_write(writer) else []
        for target in (*writer.meta.get("mutates", ()), *bound):
            if target.op == "get_attr":
                continue
            mine = writer.meta.get("call")
            given = any(held[n] & held[target] for n in arguments[mine])
            conflict = _Conflict(writer, target, given, [], False)
            for value in gm.graph.nodes:
                if order[value] >= order[writer] or not held[value] & held[target]:
                    continue
                readers = [u for u in value.users if u is end or u.meta.get("call") != mine]
                if held[target] & state:  # an earlier call of the network has read its buffer, and sees no later write
                    readers = [u for u in readers if order[u] > order[writer]]
                conflict.inside |= any(order[u] > order[writer] for u in value.users if u not in readers)
                if readers and value not in taken:
                    conflict.outside.append((value, readers))
            if conflict.outside or conflict.given:
                taken.update(v for v, _ in conflict.outside)
                conflicts.append(conflict)
    return conflicts


def _arguments(gm: fx.GraphModule) -> dict[int | None, list[fx.Node]]:
    """What each call reads that is made outside of it, buffers aside."""
    arguments: dict[int | None, list[fx.Node]] = {}
    for node in gm.graph.nodes:
        read = arguments.setdefault(node.meta.get("call"), [])
        read += [n for n in node.all_input_nodes if n.op != "get_attr" and n.meta.get("call") != node.meta.get("call")]
    return arguments


def _rewrite(gm: fx.GraphModule, conflict: _Conflict) -> None:
    writer = conflict.writer
    if writer.meta.get("mutates") == (conflict.target,) and not conflict.inside and _twin(gm, writer):
        return
    if conflict.given:
        _copy_given(gm, conflict)
        return
    # The network itself goes on to read what was written: the readers outside get a copy from before.
    for value, readers in conflict.outside:
        with gm.graph.inserting_after(value):
            kept = gm.graph.call_method("clone", (value,))
        kept.meta = {k: v for k, v in value.meta.items() if k in ("owner", "path")}
        # The copy reads the value before the write, as the writer's own network may.
        kept.meta["call"] = writer.meta.get("call")
        for reader in readers:
            reader.replace_input_with(value, kept)


def _copy_given(gm: fx.GraphModule, conflict: _Conflict) -> None:
    """The writer's call gets copies of its arguments in the memory that it writes into.

    The value itself may live longer than a step, and the frozen part would write before the trainable one reads.
    """
    written, mine = storages(conflict.target), conflict.writer.meta.get("call")
    copies: dict[fx.Node, fx.Node] = {}
    for reader in list(gm.graph.nodes):
        if reader.op == "output" or reader.meta.get("call") != mine:
            continue
        for value in reader.all_input_nodes:
            if value.op == "get_attr" or value.meta.get("call") == mine or not storages(value) & written:
                continue
            if value not in copies:
                with gm.graph.inserting_before(reader):
                    copies[value] = gm.graph.call_method("clone", (value,))
                copies[value].meta = {"owner": reader.meta["owner"], "path": reader.meta["path"], "call": mine}
            reader.replace_input_with(value, copies[value])


_FUNCTIONS: dict[Any, Callable[..., Any]] = {
    operator.iadd: operator.add,
    operator.isub: operator.sub,
    operator.imul: operator.mul,
    operator.itruediv: operator.truediv,
}


def _twin(gm: fx.GraphModule, node: fx.Node) -> bool:
    """Turn the node into its out-of-place form, if it has one."""
    if node.op == "call_method":
        name = str(node.target).removesuffix("_")
        if name == node.target or not callable(getattr(Tensor, name, None)):
            return False
        node.target = name
        return True
    if node.op == "call_function":
        if node.kwargs.get("inplace"):
            node.kwargs = node.kwargs | {"inplace": False}
            return True
        name = getattr(node.target, "__name__", "")
        twin = _FUNCTIONS.get(node.target)
        if twin is None and name.endswith("_") and not name.endswith("__"):
            twin = getattr(F, name[:-1], None) or getattr(torch, name[:-1], None)
        if twin is not None:
            node.target = twin
        return twin is not None
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        if not getattr(module, "inplace", False) or next(module.parameters(), None) is not None:
            return False
        plain = copy.copy(module)
        plain.__dict__["inplace"] = False
        path = f"inside.{node.name}"
        if not hasattr(gm, "inside"):
            gm.add_module("inside", nn.Module())
        gm.add_submodule(path, plain)
        node.target = path
        return True
    return False
