"""The law of a phase's graph: what holds before and after every pass, as named rules.

`check_graph` runs where tests set the environment variable `KDPLAN_CHECK_GRAPHS`, and costs nothing elsewhere.
"""

from __future__ import annotations

import operator
import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from functools import cached_property

from torch import fx, nn
from torch._subclasses.fake_tensor import FakeTensor

from kdplan.graph.fake import EFFECTS, storages
from kdplan.graph.structure import tensors

CHECKED = bool(os.environ.get("KDPLAN_CHECK_GRAPHS"))
"""Whether `check_graph` looks at all."""


class LawError(AssertionError):
    """A pass made, or was given, a graph that breaks a rule: a mistake of kdplan, not of a plan."""


@dataclass(frozen=True)
class State:
    """A graph between two passes.

    Attributes
    ----------
    graph, root
        The graph, and the module that has its targets.
    before
        The graph that the pass was given, where a rule compares the two.
    inputs
        The names that placeholders may have; None for any.
    pruned
        Whether the pass promises that every node is needed.
    """

    graph: fx.Graph
    root: nn.Module
    before: fx.Graph | None = None
    inputs: Collection[str] | None = None
    pruned: bool = False

    @cached_property
    def nodes(self) -> dict[str, fx.Node]:
        """The graph's nodes by name."""
        return {n.name: n for n in self.graph.nodes}

    @cached_property
    def earlier(self) -> dict[str, fx.Node]:
        """The nodes of the graph before the pass, by name."""
        return {n.name: n for n in self.before.nodes} if self.before is not None else {}

    def crosses(self, name: str) -> bool:
        """Whether the pass made an input of a value."""
        return self.nodes[name].op == "placeholder" and self.earlier[name].op != "placeholder"

    def read_by(self, node: fx.Node) -> set[str]:
        """Names of the values that a node reads, also through nodes that the pass added."""
        names: set[str] = set()
        todo = list(node.all_input_nodes)
        while todo:
            n = todo.pop()
            names.add(n.name)
            todo += n.all_input_nodes if n.name not in self.earlier else []
        return names


Rule = Callable[[State], Iterator[str]]


def _order(state: State) -> Iterator[str]:
    """Every node stands behind what it reads, and names are unique (torch's `lint`)."""
    try:
        state.graph.lint()
    except (RuntimeError, ValueError, AttributeError) as problem:
        yield str(problem)


def _end(state: State) -> Iterator[str]:
    """The graph ends with its only output."""
    outputs = [i for i, n in enumerate(state.graph.nodes) if n.op == "output"]
    if outputs != [len(state.graph.nodes) - 1]:
        yield f"outputs at {outputs} of {len(state.graph.nodes)} nodes"


def _inputs(state: State) -> Iterator[str]:
    """Placeholders have the names that the training loop knows them by."""
    for node in state.graph.nodes:
        if node.op == "placeholder" and state.inputs is not None and str(node.target) not in state.inputs:
            yield f"`{node.target}` is no input of a phase"


def _targets(state: State) -> Iterator[str]:
    """The root has every parameter, buffer and module that a node names."""
    for node in state.graph.nodes:
        if node.op in ("get_attr", "call_module"):
            try:
                operator.attrgetter(str(node.target))(state.root)
            except AttributeError:
                yield f"{node.name}: the root has no `{node.target}`"


def _values(state: State) -> Iterator[str]:
    """Every node knows its value on fake tensors, and its effects."""
    for node in state.graph.nodes:
        if node.op == "output":
            continue
        lacks = [key for key in ("val", *EFFECTS) if key not in node.meta]
        if lacks:
            yield f"{node.name} lacks {', '.join(lacks)}"
        if not all(isinstance(v, FakeTensor) for v in tensors(node.meta.get("val"))):
            yield f"{node.name} holds numbers, not only shapes"


def _writes(state: State) -> Iterator[str]:
    """A node that writes into a value reads it in this graph, and whoever reads what was written has the write."""
    for node in state.graph.nodes:
        for target in node.meta.get("mutates", ()):
            if target not in node.all_input_nodes:
                yield f"{node.name} writes into {target.name} of another graph"
    order = list(state.earlier)
    for i, name in enumerate(order):
        targets = [t for t in state.earlier[name].meta.get("mutates", ()) if t.op != "get_attr"]
        if not targets or name in state.nodes:
            continue
        written = frozenset().union(*map(storages, targets))
        for reader in order[i + 1 :]:
            for value in state.read_by(state.nodes[reader]) & state.earlier.keys() if reader in state.nodes else ():
                if storages(state.earlier[value]) & written and not state.crosses(value):
                    yield f"{reader} reads {value} without the write {name}"


def _draws(state: State) -> Iterator[str]:
    """A node that draws random numbers is one draw: nothing that reads it reads another node instead."""
    for name, node in state.earlier.items():
        for user in node.users if node.meta.get("random") else ():
            if user.op == "output" or user.name not in state.nodes or state.crosses(user.name):
                continue
            if name not in state.read_by(state.nodes[user.name]):
                yield f"{user.name} no longer reads the draw {name}"


def _needed(state: State) -> Iterator[str]:
    """After pruning, every call is read or has an effect."""
    for node in state.graph.nodes if state.pruned else ():
        effects = any(node.meta.get(effect) for effect in EFFECTS)
        if not node.users and not effects and node.op not in ("placeholder", "output"):
            yield f"nothing reads {node.name}"


RULES: dict[str, Rule] = {
    "order": _order,
    "end": _end,
    "inputs": _inputs,
    "targets": _targets,
    "values": _values,
    "writes": _writes,
    "draws": _draws,
    "needed": _needed,
}
"""Name -> rule; the docstring of each is the law in one line."""


def broken(state: State) -> dict[str, list[str]]:
    """The rules that a graph breaks, each with what is wrong.

    Examples
    --------
    >>> graph = fx.Graph()
    >>> x = graph.placeholder("x")
    >>> list(broken(State(graph, nn.Module())))
    ['end', 'values']
    """
    problems = {name: list(rule(state)) for name, rule in RULES.items()}
    return {name: where for name, where in problems.items() if where}


def check_graph(
    graph: fx.Graph,
    root: nn.Module,
    before: fx.Graph | None = None,
    inputs: Collection[str] | None = None,
    pruned: bool = False,
) -> None:
    """Check a graph against the law, under test only; the parameters are those of `State`.

    Raises
    ------
    LawError
        With each rule that is broken, and where.
    """
    if not CHECKED:
        return
    problems = broken(State(graph, root, before, inputs, pruned))
    if problems:
        raise LawError("; ".join(f"{name}: {', '.join(where)}" for name, where in problems.items()))
