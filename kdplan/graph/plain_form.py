"""A phase's graph in plain form: the users' networks are called as they are, and all else is the same nodes.

Both forms must give the same on a batch. A network's own `forward` runs in place of the first of its nodes, and hooks
give the values that others read.

>>> from kdplan.graph.build import Builder
>>> from kdplan.graph.diagram import diagram
>>> class Net(nn.Module):
...     def __init__(self):
...         super().__init__()
...         self.body, self.head = nn.Linear(3, 4), nn.Linear(4, 5)
...     def forward(self, x):
...         return self.head(torch.relu(self.body(x)))
>>> b = Builder()
>>> x = b.input("inputs_0", torch.zeros(2, 3))
>>> b.network("small", Net())
>>> body, out = b.apply("small", (x,), "body"), b.apply("small", (x,))
>>> joined = b.finish({"loss": b.call(torch.add, b.call(torch.mean, body), b.call(torch.sum, out))})
>>> form = plain_form(joined.graph_module, joined.applications)
>>> print(diagram(graph=joined.graph_module.graph, plain=form.graph))
graph                                       plain
inputs_0 = input                            inputs_0 = input
                                            plain = plain(inputs_0)
                                            getitem = getitem(plain, 0)
                                            getitem_1 = getitem(plain, 1)
small_body = nets.small.body(inputs_0)
small_relu = relu(small_body)
small_head = nets.small.head(small_relu)
mean = mean(small_body)                     mean = mean(getitem_1)
sum_1 = sum(small_head)                     sum_1 = sum(getitem)
add = add(mean, sum_1)                      add = add(mean, sum_1)
return loss=add                             return loss=add
>>> all(torch.equal(joined.graph_module(x)["loss"], form(inputs_0=x)["loss"]) for x in torch.randn(3, 2, 3))
True
"""

from __future__ import annotations

import operator
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdplan.graph.application import Application, Caller
from kdplan.graph.module import output_of
from kdplan.graph.structure import as_written, tensors
from kdplan.nn.whose import is_users_own

_SAME = (operator.getitem, getattr)
_SAME_METHODS = ("clone", "detach")
"""What a pass adds to read a value of a network: also these are nodes of the network's call."""


@dataclass
class PlainForm:
    """A graph in plain form.

    Attributes
    ----------
    root
        Has the graph's targets.
    networks
        The networks that are called as they are, by the builder's names.
    others
        Names of those that have no plain form here: only the graph has a value that is read, or the phase reads other
        things than their inputs, such as stored values.
    frozen
        Names of nodes that run without gradients.
    crossing
        Whether the values of the phase's frozen graph are inputs here.
    seen
        What each call of the user's code gave in the last run, by node.
    """

    root: fx.GraphModule
    graph: fx.Graph
    networks: dict[str, nn.Module]
    others: list[str]
    frozen: Collection[str]
    crossing: bool = False
    seen: dict[str, list[Tensor]] = field(default_factory=dict)

    @property
    def functions(self) -> list[fx.Node]:
        """The calls of the user's functions."""
        return [n for n in self.graph.nodes if n.op == "call_function" and is_users_own(n.target)]

    def name_of(self, node: str) -> str:
        """What a node calls: a network by the builder's name, or a function by its own."""
        target = next(n.target for n in self.graph.nodes if n.name == node)
        networks = [name for name, module in self.networks.items() if getattr(target, "module", None) is module]
        return networks[0] if networks else getattr(target, "__name__", str(target))

    def __call__(self, **values: Any) -> dict[str, Any]:
        """What the graph returns, for its inputs by name."""
        runner = _Runner(self.root, graph=self.graph)
        runner.extra_traceback, runner.frozen, runner.seen = False, self.frozen, {}
        runner.watched = {n.name for n in self.graph.nodes if isinstance(n.target, Caller)}
        runner.watched |= {n.name for n in self.functions}
        names = [n.name for n in self.graph.nodes if n.op == "placeholder"]
        result: dict[str, Any] = runner.run(*(values[name] for name in names))
        self.seen = runner.seen
        return result


class _Runner(fx.Interpreter):
    frozen: Collection[str] = ()
    watched: Collection[str] = ()
    seen: dict[str, list[Tensor]]

    def call_function(self, target: Any, args: Any, kwargs: Any) -> Any:
        """A function's value."""
        return super().call_function(target, *as_written((args, kwargs)))

    def run_node(self, n: fx.Node) -> Any:
        """The node's value, of a frozen node without gradients."""
        with torch.set_grad_enabled(torch.is_grad_enabled() and n.name not in self.frozen):
            value = super().run_node(n)
        if n.name in self.watched:
            self.seen[n.name] = [v.detach().clone() for v in tensors(value)]
        return value


def plain_form(
    gm: fx.GraphModule,
    applications: Iterable[Application],
    frozen: Collection[str] = (),
    stored: Collection[str] = (),
    kept: Collection[str] | None = None,
) -> PlainForm | None:
    """The plain form of a graph; None where it calls no function of the user and none of these applications as a graph.

    Parameters
    ----------
    gm
        The graph of a phase, pruned.
    applications
        Those of the users' networks.
    frozen
        Names of nodes that the phase runs without gradients, and before all others.
    stored
        Names of values that come from the store.
    kept
        Names of the nodes that the phase runs; None for all.
    """
    nodes = [n for n in gm.graph.nodes if n.op != "output" and (kept is None or n.name in kept or n.name in stored)]
    present = {n.name: n for n in nodes}
    chosen: dict[int, _Substitute] = {}
    others: list[str] = []
    for application in applications:
        own = [n for n in gm.graph.nodes if n.meta.get("call") == application.call]
        if not own or application.is_whole:
            continue
        mine = [n for n in own if n.name in present and n.name not in stored]
        substitute = _substitute(gm, application, mine, present) if mine else None
        if substitute is None:
            others.append(application.network)
        else:
            chosen[application.call] = substitute
    calls = any(n.op == "call_function" and is_users_own(n.target) for n in nodes)
    if not chosen and not others and not calls:
        return None
    draws = [n.name in frozen for n in nodes if n.meta.get("random")]
    if any(draws) and not all(draws):  # the phase runs all that is frozen first
        nodes.sort(key=lambda n: n.op != "placeholder" and n.name not in frozen)
    graph, still = _graph(gm, nodes, chosen, frozen, stored)
    networks = {c.application.network: c.application.owner for c in chosen.values()}
    return PlainForm(gm, graph, networks, list(dict.fromkeys(others)), still)


@dataclass
class _Substitute:
    """An application that is replaced: the names of its values, and its nodes that only pick a part of one."""

    application: Application
    values: list[str]
    nodes: list[fx.Node]
    picks: set[str]


def _substitute(
    gm: fx.GraphModule, application: Application, mine: list[fx.Node], present: Mapping[str, fx.Node]
) -> _Substitute | None:
    """How the module itself takes the place of its nodes; None where it cannot."""
    own = set(mine)
    inputs: list[fx.Node] = []
    fx.map_arg(application.arguments, inputs.append)
    names = {n.name for n in gm.graph.nodes}
    if not all(n.name in present for n in inputs) or not application.random <= names:
        return None  # what nothing reads is pruned, also where it draws
    values: list[str] = []
    picks: set[str] = set()
    todo = [n for n in mine if any(u not in own for u in n.users)]
    while todo:
        node = todo.pop()
        if node.name in application.given:
            values.append(node.name)
        elif node.target in _SAME or (node.op == "call_method" and node.target in _SAME_METHODS):
            picks.add(node.name)
            todo += [n for n in node.all_input_nodes if n in own]
        else:
            return None
    return _Substitute(application, list(dict.fromkeys(values)), mine, picks)


def _graph(
    gm: fx.GraphModule,
    nodes: list[fx.Node],
    chosen: Mapping[int, _Substitute],
    frozen: Collection[str],
    stored: Collection[str],
) -> tuple[fx.Graph, set[str]]:
    """The graph, and the names of its nodes that run without gradients."""
    graph = fx.Graph()
    mapped: dict[str, fx.Node] = {}
    still: set[str] = set()

    def copy(node: fx.Node) -> None:
        mapped[node.name] = graph.node_copy(node, lambda n: mapped[n.name])

    for node in nodes:
        if node.op == "placeholder" or node.name in stored:
            mapped[node.name] = graph.placeholder(node.name)
    for node in nodes:
        if node.name in mapped:
            continue
        substitute = chosen.get(node.meta.get("call", 0))
        if substitute is None:
            copy(node)
        elif node is substitute.nodes[0]:
            caller = Caller(substitute.application.module, [substitute.application.given[v] for v in substitute.values])
            args, kwargs = fx.map_arg(substitute.application.arguments, lambda n: mapped[n.name])
            call = graph.call_function(caller, args, kwargs)
            for position, name in enumerate(substitute.values):
                mapped[name] = graph.call_function(operator.getitem, (call, position))
            if all(n.name in frozen for n in substitute.nodes):
                still.add(call.name)
        if node.name not in mapped and substitute is not None and node.name in substitute.picks:
            copy(node)
        if node.name in mapped and node.name in frozen:
            still.add(mapped[node.name].name)
    graph.output(fx.map_arg(output_of(gm).args[0], lambda n: mapped[n.name]))
    for node in reversed(graph.nodes):
        if node.op == "placeholder" and not node.users:
            graph.erase_node(node)  # a phase whose values are stored has no images
    return graph, still
