"""Several phases with one graph and other numbers, as one function of stacked state (torch.func).

>>> from kdplan.graph.build import Builder
>>> from kdplan.graph.diagram import diagram
>>> def phase(weight):
...     b = Builder()
...     x = b.input("inputs_0", torch.zeros(2, 3))
...     b.network("small", nn.Linear(3, 5))
...     loss = b.call(operator.mul, weight, b.call(torch.mean, b.apply("small", (x,))))
...     return b.finish({"loss": loss}).graph_module
>>> phases = [phase(0.5), phase(0.25)]
>>> print(diagram(before=phases[0].graph))
before
inputs_0 = input
small_net = nets.small(inputs_0)
mean = mean(small_net)
mul = mul(0.5, mean)
return loss=mul
>>> numbers = differing(phases)
>>> numbers
['3#0']
>>> stacked = StackedGraph(phases[0], numbers)
>>> print(diagram(after=stacked.graph_module.graph))
after
number_0 = input
inputs_0 = input
small_net = nets.small(inputs_0)
mean = mean(small_net)
mul = mul(number_0, mean)
return loss=mul

The state has a row for each phase, and so has the result. Numbers that differ between phases are rows, too:

>>> state = {n: torch.stack([p.state_dict()[n] for p in phases]) for n in stacked.names}
>>> rows = {"3#0": torch.tensor([0.5, 0.25])}
>>> got = stacked(state, rows, {}, {"inputs_0": torch.ones(4, 3)})["loss"]
>>> torch.allclose(got, torch.stack([p(inputs_0=torch.ones(4, 3))["loss"] for p in phases]))
True

What draws random numbers draws for each phase from a generator of its own, in the order of the graph: see `Draws`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn
from torch.func import functional_call, vmap
from torch.utils import _pytree as pytree

from kdplan.graph.law import check_graph
from kdplan.graph.module import copy_of
from kdplan.graph.phase_graph import input_names
from kdplan.nn.whose import is_users, is_users_own


class NotStackable(Exception):
    """Graphs that do not stack; the message is the reason, as the end of a sentence."""


# ---- whether graphs are one


STREAMS = 64
"""Streams of a phase at most, of which the inputs are known."""
INPUTS = input_names(STREAMS)
"""Names of inputs that mean the same in every phase."""


def differing(graphs: Sequence[fx.GraphModule]) -> list[str]:
    """The numbers in which graphs differ, as `n#m`: argument m of node n. Names of nodes may differ, too.

    Raises
    ------
    NotStackable
        If they differ in anything else.
    """
    numbers: dict[str, None] = {}
    first = graphs[0]
    for other in graphs[1:]:
        if len(first.graph.nodes) != len(other.graph.nodes):
            raise NotStackable("their graphs have different numbers of nodes")
        pairs = dict(zip(first.graph.nodes, other.graph.nodes, strict=True))
        for number, (one, two) in enumerate(pairs.items()):
            numbers.update(dict.fromkeys(f"{number}#{at}" for at in _differing(first, other, one, two, pairs)))
        if _sharing(first) != _sharing(other):
            raise NotStackable("their networks share parameters in different ways")
    return list(numbers)


def _differing(
    first: nn.Module, other: nn.Module, one: fx.Node, two: fx.Node, pairs: Mapping[fx.Node, fx.Node]
) -> list[int]:
    if one.op != two.op or not _same_target(first, other, one, two):
        raise NotStackable(f"their graphs differ in `{one.name}`")
    mine, form = _leaves(one)
    others, other_form = _leaves(two)
    if form != other_form:
        raise NotStackable(f"the arguments of `{one.name}` have different forms")
    numbers = []
    for position, (a, b) in enumerate(zip(mine, others, strict=True)):
        if isinstance(a, fx.Node):
            if pairs.get(a) is not b:
                raise NotStackable(f"`{one.name}` reads other values")
        elif _is_number(a) and _is_number(b):
            if a != b:
                numbers.append(position)
        elif type(a) is not type(b) or a != b:
            raise NotStackable(f"`{one.name}` has other arguments: {a} and {b}")
    return numbers


def _sharing(gm: fx.GraphModule) -> list[int]:
    """For each tensor that a graph reads, the position of its first name."""
    first: dict[int, int] = {}
    return [first.setdefault(id(t), position) for position, t in enumerate(tensors_of(gm))]


def _leaves(node: fx.Node) -> tuple[list[Any], pytree.TreeSpec]:
    return pytree.tree_flatten((node.args, node.kwargs))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _same_target(first: nn.Module, other: nn.Module, one: fx.Node, two: fx.Node) -> bool:
    if one.op in ("call_module", "get_attr"):
        a, b = (operator.attrgetter(str(n.target))(m) for n, m in ((one, first), (two, other)))
        if isinstance(a, Tensor):
            return isinstance(b, Tensor) and (a.shape, a.dtype) == (b.shape, b.dtype)
        return type(a) is type(b) and _settings(a) == _settings(b)
    if one.op == "placeholder" and not {one.target, two.target} & INPUTS:  # values of frozen networks
        return True
    return bool(one.target == two.target)


def _settings(module: nn.Module) -> list[object]:
    tensors = [*module.named_parameters(), *module.named_buffers()]
    return [str(module), [m.training for m in module.modules()], [(n, t.shape, t.dtype) for n, t in tensors]]


# ---- what does not stack


_DROPOUTS: dict[Any, Callable[[Tensor, float], Tensor]] = {
    F.dropout: lambda x, p: F.dropout(x, p, True),
    torch.dropout: lambda x, p: F.dropout(x, p, True),
    F.dropout1d: lambda x, p: F.dropout1d(x, p, True),
    F.dropout2d: lambda x, p: F.dropout2d(x, p, True),
    F.dropout3d: lambda x, p: F.dropout3d(x, p, True),
    nn.Dropout: lambda x, p: F.dropout(x, p, True),
    nn.Dropout1d: lambda x, p: F.dropout1d(x, p, True),
    nn.Dropout2d: lambda x, p: F.dropout2d(x, p, True),
    nn.Dropout3d: lambda x, p: F.dropout3d(x, p, True),
}
"""What multiplies by noise that does not depend on its input, at a rate p."""


def _dropout(gm: nn.Module, node: fx.Node) -> tuple[fx.Node, float, Callable[[Tensor, float], Tensor]] | None:
    """The input, the rate and the kind of a node that is a dropout; None for any other."""
    if node.op == "call_module":
        module = gm.get_submodule(str(node.target))
        kind = _DROPOUTS.get(type(module))
        rate = getattr(module, "p", None)
    else:
        kind = _DROPOUTS.get(node.target)
        rate = node.args[1] if len(node.args) > 1 else node.kwargs.get("p", 0.5)
    x = node.args[0] if node.args else node.kwargs.get("input")
    if kind is None or not isinstance(x, fx.Node) or not isinstance(rate, int | float):
        return None
    return x, float(rate), kind


def why_not(gm: nn.Module) -> str | None:
    """Why a phase's trainable graph cannot be one of several in a stack, as the end of a sentence; None where it can.

    What torch.func itself cannot do is found out by the first step.
    """
    if not isinstance(gm, fx.GraphModule):
        return "it is no graph"
    for node in gm.graph.nodes:
        if node.op == "call_module" and is_users(gm.get_submodule(str(node.target))):
            return f"`{node.name}` is a module of yours that no graph holds"
        if node.op == "call_function" and is_users_own(node.target):
            return f"`{node.name}` calls a function of yours"
        if node.meta.get("random") and _dropout(gm, node) is None:
            return f"`{node.name}` draws random numbers that are no dropout"
    return None


# ---- random numbers


class Draws:
    """The state of the generator of each phase of a stack, between its draws in one step.

    Parameters
    ----------
    device
        Where layers draw.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.states: list[Tensor] = []
        """One for each row of the stack; a row without a phase has some state."""

    def load(self, state: Tensor) -> None:
        """Set the device's own generator to a state."""
        if self.device.type == "cuda":
            torch.cuda.set_rng_state(state, self.device)
        else:
            torch.set_rng_state(state)

    def state(self) -> Tensor:
        """That of the device's own generator, which a phase alone uses."""
        return torch.cuda.get_rng_state(self.device) if self.device.type == "cuda" else torch.get_rng_state()

    def rows(self, like: Tensor, kind: Callable[[Tensor], Tensor]) -> Tensor:
        """What `kind` makes of ones [...], drawn for each row: [k, ...], where `like` is [...]."""
        ones, rows = torch.ones(like.shape, dtype=like.dtype, device=like.device), []
        for number, state in enumerate(self.states):
            self.load(state)
            rows.append(kind(ones))
            self.states[number] = self.state()
        return torch.stack(rows)


class _Noise(torch.autograd.Function):
    """Noise of the shape of x, drawn for each row of a stack by its own generator."""

    generate_vmap_rule = False

    @staticmethod
    def forward(x: Tensor, draws: Draws, kind: Callable[[Tensor], Tensor]) -> Tensor:
        raise NotStackable("a dropout reads no value of a stack")

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Nothing is kept: noise does not depend on x."""

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[None, None, None]:
        """Noise does not depend on x."""
        return None, None, None

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, draws: Draws, kind: Callable[[Tensor], Tensor]) -> tuple[Tensor, int]:
        """The rule for stacks, which has all rows."""
        return draws.rows(x.movedim(in_dims[0], 0)[0] if in_dims[0] is not None else x, kind), 0


class OwnDropout(nn.Module):
    """x [...] times noise of each row's own generator: the numbers that a phase alone would draw."""

    def __init__(self, rate: float, kind: Callable[[Tensor, float], Tensor], draws: Draws) -> None:
        super().__init__()
        self.rate, self.kind, self.draws = rate, kind, draws

    def forward(self, x: Tensor) -> Tensor:
        """Draw, and multiply."""
        noise: Tensor = _Noise.apply(x, self.draws, lambda ones: self.kind(ones, self.rate))
        return x * noise


# ---- the stack


OWN = "own_draws"
"""The module of a stacked graph that has its dropouts."""


class StackedGraph:
    """The graph of k phases: called with a row of state for each.

    Parameters
    ----------
    gm
        The trainable graph of one of the phases; its modules lend their code, and no tensor of theirs is read.
    numbers
        `differing` graphs' numbers, which become inputs.
    device
        Where layers draw; by default the CPU.

    Attributes
    ----------
    names
        The parameters and buffers that the graph reads, by their names in `gm`; a name or a tensor may be there twice.
    draws
        The members' generators.
    is_random
        Whether the graph draws anything.
    """

    def __init__(self, gm: fx.GraphModule, numbers: Sequence[str] = (), device: torch.device | None = None) -> None:
        if (reason := why_not(gm)) is not None:
            raise NotStackable(reason)
        self.numbers = list(numbers)
        self.names = read(gm)
        self.draws = Draws(device or torch.device("cpu"))
        self.graph_module = _with_inputs(gm, self.numbers)
        dropouts = [n for n in self.graph_module.graph.nodes if n.meta.get("random")]
        self.is_random = bool(dropouts)
        if dropouts:
            self._draw_apart(dropouts)

    def _draw_apart(self, nodes: list[fx.Node]) -> None:
        """Let dropouts draw from the generators of `draws`."""
        gm, own = self.graph_module, nn.ModuleDict()
        gm.add_module(OWN, own)
        for node in nodes:
            dropout = _dropout(gm, node)
            assert dropout is not None
            x, rate, kind = dropout
            own[node.name] = OwnDropout(rate, kind, self.draws)
            node.op, node.target, node.args, node.kwargs = "call_module", f"{OWN}.{node.name}", (x,), {}
        before = gm.graph
        gm.recompile()
        check_graph(gm.graph, gm, before=before)

    def __call__(
        self,
        state: Mapping[str, Tensor],
        numbers: Mapping[str, Tensor],
        rows: Mapping[str, Tensor],
        shared: Mapping[str, Tensor],
    ) -> dict[str, Tensor]:
        """The outputs [k] of every phase.

        Parameters
        ----------
        state
            Name -> tensor [k, ...], for `names`. Buffers are written in place.
        numbers
            Name -> [k], for `numbers`.
        rows
            Inputs [k, ...], of which each phase reads its row.
        shared
            Inputs that all phases read.
        """
        named = {f"number_{i}": numbers[name] for i, name in enumerate(self.numbers)}

        def one(state: dict[str, Tensor], own: dict[str, Tensor], shared: dict[str, Tensor]) -> dict[str, Tensor]:
            result: dict[str, Tensor] = functional_call(
                self.graph_module, state, (), {**own, **shared}, tie_weights=False
            )
            return result

        run = vmap(one, in_dims=(0, 0, None), randomness="error")
        result: dict[str, Tensor] = run(dict(state), {**rows, **named}, dict(shared))
        return result


def read(gm: fx.GraphModule) -> list[str]:
    """The parameters and buffers that the nodes of a graph read, by name and in the order of the nodes.

    Graphs of one structure have them in one order, whatever their networks are called.
    """
    names: list[str] = []
    for node in gm.graph.nodes:
        if node.op == "call_module":
            module = gm.get_submodule(str(node.target))
            inner = [*module.named_parameters(remove_duplicate=False), *module.named_buffers(remove_duplicate=False)]
            names += [f"{node.target}.{name}" for name, _ in inner]
        elif node.op == "get_attr" and isinstance(operator.attrgetter(str(node.target))(gm), Tensor):
            names.append(str(node.target))
    return names


def tensors_of(gm: fx.GraphModule) -> list[Tensor]:
    """The tensors of `read`, in its order."""
    return [operator.attrgetter(name)(gm) for name in read(gm)]


def _with_inputs(gm: fx.GraphModule, numbers: Sequence[str]) -> fx.GraphModule:
    """The same modules under a copy of the graph in which `numbers` are inputs."""
    new = copy_of(gm)
    nodes = list(new.graph.nodes)
    like = next((n.meta["val"] for n in new.graph.nodes if isinstance(n.meta.get("val"), Tensor)), None)
    for i, number in enumerate(numbers):
        node, position = map(int, number.split("#"))
        with new.graph.inserting_before(nodes[0]):
            placeholder = new.graph.placeholder(f"number_{i}")
        value = like.new_zeros((), dtype=torch.float32) if like is not None else None
        placeholder.meta = {"val": value, "mutates": (), "buffers": False, "random": False}
        leaves, form = _leaves(nodes[node])
        leaves[position] = placeholder
        nodes[node].args, nodes[node].kwargs = pytree.tree_unflatten(leaves, form)
    new.recompile()
    check_graph(new.graph, new, before=gm.graph)
    return new


def number_of(gm: fx.GraphModule, number: str) -> float:
    """The value of one of `differing` graphs' numbers in a graph."""
    node, position = map(int, number.split("#"))
    return float(_leaves(list(gm.graph.nodes)[node])[0][position])
