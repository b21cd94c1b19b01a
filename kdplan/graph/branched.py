"""One network as several that share their first layers: the rest of its graph is there several times.

>>> from kdplan.graph.diagram import diagram
>>> def plain():
...     return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
>>> net = Branched([plain(), plain()], "2", ("mean", {}), [3])
>>> print(diagram(plain=trace(plain(), torch.zeros(1, 3)).graph))
plain
input0 = input
net_0 = net.0(input0)
net_1 = net.1(net_0)
net_2 = net.2(net_1)
return net_2
>>> print(diagram(branched=trace(net, torch.zeros(1, 3)).graph))
branched
input0 = input
net_0 = net.0(input0)
net_1 = net.1(net_0)
net_2 = net.2(net_1)
net_branch_1_2 = net.branch.1.2(net_1)
getattr_1 = getattr(net_1, shape)
getitem = getitem(getattr_1, 0)
new_full = new_full(net_1, [getitem, 2], 0.5)
stack = stack([net_2, net_branch_1_2], dim=1)
getattr_2 = getattr(new_full, shape)
getitem_1 = getitem(getattr_2, 0)
getitem_2 = getitem(getattr_2, 1)
reshape = reshape(new_full, getitem_1, getitem_2, 1)
mul = mul(stack, reshape)
sum_1 = sum(mul, dim=1)
return sum_1
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn

from kdplan.graph.fork import BranchError, Cut, cut_at
from kdplan.graph.taps import Call, Tap
from kdplan.graph.trace import Traced, TraceError, trace, value_at
from kdplan.graph.tracer import MAKERS, ROOT
from kdplan.ir.branches import BRANCH, GATE, GATED
from kdplan.ir.outputs import OUTPUT
from kdplan.nn.gates import Gate, Mean
from kdplan.nn.models import create

_CALLED = {getattr(torch, name): name for name in MAKERS}
"""What makes tensors must be looked up when it runs: a trace records it only then."""


class Part(nn.Module):
    """What a module of the plain network held, under the same names.

    Its graph runs in place of its code, so it is called only to give a value that module's name: with the module's
    inputs and, last, with what came out, which it returns.
    """

    def forward(self, *values: Any, named: bool = False) -> Any:
        """The last of `values`.

        Raises
        ------
        RuntimeError
            If it is called by anything but the graph (`named`).
        """
        if not named:
            raise RuntimeError("a part of a network with branches does not run by itself")
        return values[-1]


@dataclass
class Traces:
    """A plain network without memory, and where its graph is cut, by training modes and shape."""

    plain: nn.Module
    cuts: dict[Hashable, Cut] = field(default_factory=dict)
    fresh: Callable[[], nn.Module] | None = None
    """Makes the plain network anew, with weights."""


_TRACES: dict[str, Traces] = {}
_MOST = 16
"""How many architectures' graphs are kept."""


# ---- the network


class Branched(nn.Module):
    """A network whose part from one point on is there `count` times, and a gate; ``[B, ...] -> [B, classes]``.

    It gives the sum of its branches' logits, each times what the gate gives for it. The first branch and what all share
    have the plain network's own names; the weights of the others are below `branch.1`, `branch.2` …, those of the gate
    below `gate`. Layers that depend on the mode (dropout, say) take their branch's, also where branches differ.

    Parameters
    ----------
    nets
        The plain network, once for each branch; of all but the first only the part that is branched is kept.
    at
        Where it begins, see `cut_at`.
    gate
        As the name of a gate or of a factory, and settings.
    shape
        Of a sample, for tracing.
    like
        A network of the same architecture, cut at the same point: it is not traced again.

    Raises
    ------
    BranchError
        KD0501, KD0516 as `cut_at`; KD0517 for a gate that does not fit.

    Examples
    --------
    >>> def plain():
    ...     return nn.Sequential(nn.Linear(3, 4), nn.ReLU(), nn.Linear(4, 2))
    >>> net = Branched([plain(), plain()], "2", ("mean", {}), [3])
    >>> sorted(net.state_dict())
    ['0.bias', '0.weight', '2.bias', '2.weight', 'branch.1.2.bias', 'branch.1.2.weight']
    >>> x = torch.ones(5, 3)
    >>> torch.equal(net(x), torch.stack(net.outputs(x)).mean(dim=0))
    True
    """

    def __init__(
        self,
        nets: Sequence[nn.Module],
        at: str,
        gate: tuple[str, Mapping[str, object]],
        shape: Sequence[int],
        like: Traces | None = None,
    ) -> None:
        super().__init__()
        base = nets[0]
        self.count = len(nets)
        self.at = at
        self.shape = list(shape)
        self.__dict__["traces"] = like or Traces(deepcopy(base).to("meta"))  # no part of the network itself
        cuts = [self._cut(mode) for mode in (True, False)]
        taken = [n for n in (BRANCH, GATE, GATED) if n in dict(base.named_children())]
        if taken:
            raise BranchError("KD0516", point=at, why=f"the network already has a part called `{taken[0]}`")
        _check_ties(base, at)
        leaves = {n for c in cuts for n in _called(c.shared + c.rest)}
        inner = {call.path for c in cuts for call in c.traced.calls if not call.leaf}
        _hold(self, base, "", leaves, inner, {})
        self.add_module(BRANCH, Part())
        holder = self.get_submodule(BRANCH)
        holder.add_module("0", Part())  # names what the first branch gives
        for i, net in enumerate(nets[1:], 1):
            holder.add_module(str(i), Part())
            for c in cuts:
                _take(self.get_submodule(f"{BRANCH}.{i}"), net, c)
        self.add_module(GATE, _gate(gate, cuts[0].point.meta["val"], self.count))

    def __deepcopy__(self, memo: dict[int, object]) -> Branched:
        twin = type(self).__new__(type(self))
        memo[id(self)] = twin
        twin.__dict__.update(deepcopy({k: v for k, v in self.__dict__.items() if k != "traces"}, memo))
        twin.__dict__["traces"] = self.traces
        return twin

    # modes

    @property
    def traces(self) -> Traces:
        """The plain network's graphs."""
        traces: Traces = self.__dict__["traces"]
        return traces

    def _cut(self, training: bool | tuple[bool, ...], size: tuple[int, ...] | None = None) -> Cut:
        """The cut for training modes: the same for all modules, or one for each of the plain network's in order."""
        plain, known = self.traces.plain, self.traces.cuts
        modules = list(plain.modules())
        modes = (training,) * len(modules) if isinstance(training, bool) else training
        if (modes, size) not in known:
            for module, mode in zip(modules, modes, strict=True):
                module.training = mode
            try:
                with torch.device("cpu"):
                    traced = trace(plain, torch.zeros(size or (2, *self.shape)))
            except TraceError as problem:
                shown = "×".join(map(str, self.shape))
                raise BranchError("KD0516", point=self.at, why=f"on images {shown} it fails: {problem}") from problem
            known[modes, size] = cut_at(traced, self.at)
        return known[modes, size]

    def _cut_of(self, index: int, x: Tensor) -> Cut:
        """The cut as a branch's modules are now in training or not."""
        plain = self.traces.plain
        own = self.get_submodule(f"{BRANCH}.{index}")
        mine = dict(own.named_modules()) if index else {}
        theirs = dict(self.named_modules())
        modes = tuple((mine.get(path) or theirs[path]).training for path, _ in plain.named_modules())
        cut = self._cut(modes[0] if len(set(modes)) == 1 else modes)
        if cut.traced.guards:  # control flow asked for shapes: the graph is that of these shapes alone
            size = tuple(int(n) for n in x.shape)
            if size != (2, *self.shape):
                cut = self._cut(modes, size)
        return cut

    # running

    def forward(self, x: Tensor) -> Tensor:
        """The logits [B, classes]: those of the branches, weighted by the gate and summed."""
        logits, point = self._run(x)
        weights = self.get_submodule(GATE)(point)
        together = torch.stack(logits, dim=1)
        total: Tensor = (together * weights.reshape(*weights.shape, *[1] * (together.dim() - 2))).sum(dim=1)
        return total

    def outputs(self, x: Tensor) -> list[Tensor]:
        """The logits of each branch."""
        return self._run(x)[0]

    def _run(self, x: Tensor) -> tuple[list[Tensor], Tensor]:
        cut = self._cut_of(0, x)
        values: dict[fx.Node, Any] = {cut.traced.first: x}
        self._nodes(cut, cut.shared, values, "", {*cut.kept})
        kept = [values[n] for n in cut.kept]
        outputs = []
        for i in range(self.count):
            own = self._cut_of(i, x) if i else cut
            values = dict(zip(own.kept, kept, strict=True))
            if own.copied:
                values[own.point] = values[own.point].clone()
            self._nodes(own, own.rest, values, f"{BRANCH}.{i}." if i else "", {own.logits.node})
            logits = value_at(values[own.logits.node], own.logits.index)
            outputs.append(self.get_submodule(f"{BRANCH}.{i}")(logits, named=True))
        return outputs, kept[cut.kept.index(cut.point)]

    def _nodes(
        self, cut: Cut, nodes: Sequence[fx.Node], values: dict[fx.Node, Any], prefix: str, keep: set[fx.Node]
    ) -> None:
        """Run nodes one after another; values that nothing reads any more are let go."""
        named = any(isinstance(v, fx.Proxy) for v in values.values())
        last = {} if named else {m: n for n in nodes for m in n.all_input_nodes}
        ends: dict[fx.Node, list[fx.Node]] = {}
        for m, n in last.items():
            ends.setdefault(n, []).append(m)
        for node in nodes:
            if node.op != "placeholder":
                values[node] = self._node(cut, node, values, prefix)
            for m in ends.get(node, ()):
                if m not in keep:
                    del values[m]
            for call in cut.calls.get(node, ()) if named else ():
                args = fx.map_arg((*call.inputs, call.output), values.__getitem__)
                self.get_submodule(prefix + call.path)(*args, named=True)

    def _node(self, cut: Cut, node: fx.Node, values: Mapping[fx.Node, Any], prefix: str) -> Any:
        target = str(node.target)
        if node.op == "get_attr" and not target.startswith(f"{ROOT}."):
            return cut.traced.constants[target].to(self.device)
        if node.op == "get_attr":
            return operator.attrgetter(prefix + target.removeprefix(f"{ROOT}."))(self)
        args, kwargs = fx.map_arg((node.args, node.kwargs), values.__getitem__)
        if node.op == "call_module":
            return self.get_submodule(prefix + target.removeprefix(f"{ROOT}."))(*args, **kwargs)
        if node.op == "call_method":
            return getattr(args[0], target)(*args[1:], **kwargs)
        assert callable(node.target)
        function = getattr(torch, _CALLED[node.target]) if node.target in _CALLED else node.target
        return function(*args, **kwargs)

    @property
    def device(self) -> torch.device:
        """Where its weights are."""
        return next((p.device for p in self.parameters()), torch.device("cpu"))

    # names

    def more_taps(self, calls: Sequence[Call], taps: Mapping[str, Tap]) -> dict[str, Tap]:
        """Names of its values beside those of its modules: `gated`, and in each branch those of the plain network."""
        names = {name: taps["output"] for name in (GATED, *(f"{GATED}.{end}" for end in OUTPUT))}
        own = {t: tap for t, tap in taps.items() if t.partition(".")[0] not in (BRANCH, GATE, *OUTPUT)}
        traced = self._cut(False).traced
        modules = {c.path for c in traced.calls}
        special = {n: _taker(traced, traced.taps[n].node) for n in ("features", "stem") if n in traced.taps}
        special = {n: path for n, path in special.items() if n not in modules}
        for i in range(self.count):
            prefix = f"{BRANCH}.{i}"
            names |= {f"{prefix}.{end}": taps[prefix] for end in OUTPUT}
            names |= {f"{prefix}.{t}": taps.get(f"{prefix}.{t}", tap) for t, tap in own.items()}
            for name, path in special.items():
                paths = [f"{prefix}.{path}", path] if i else [path]
                given = [c.inputs[0] for p in paths for c in calls if c.path == p and path]
                names.pop(f"{prefix}.{name}", None)
                if given and isinstance(given[0], fx.Node):
                    names[f"{prefix}.{name}"] = Tap(given[0])
        return names


def _taker(traced: Traced, node: fx.Node) -> str:
    """The path of the last module that was called with a value."""
    return next((c.path for c in reversed(traced.calls) if c.path and c.inputs and c.inputs[0] is node), "")


def _check_ties(net: nn.Module, at: str) -> None:
    """KD0516 where a tensor goes by two names: branches have weights by name."""
    names: dict[int, str] = {}
    for name, tensor in net.state_dict(keep_vars=True).items():
        first = names.setdefault(id(tensor), name)
        if first != name:
            help = "Give each its own weights, or train several networks instead of branches."
            raise BranchError("KD0516", point=at, why=f"`{first}` and `{name}` are one tensor", help=help)


def _called(nodes: Iterable[fx.Node]) -> set[str]:
    return {str(n.target).removeprefix(f"{ROOT}.") for n in nodes if n.op == "call_module"}


def _hold(
    part: nn.Module, module: nn.Module, path: str, leaves: set[str], inner: set[str], known: dict[int, nn.Module]
) -> None:
    """Give `part` all that `module` holds; what is traced through becomes parts of it."""
    for name, p in module._parameters.items():
        part.register_parameter(name, p)
    for name, b in module._buffers.items():
        part.register_buffer(name, b, persistent=name not in module._non_persistent_buffers_set)
    for name, child in module.named_children():
        at = f"{path}.{name}" if path else name
        if id(child) not in known:
            through = at not in leaves and (at in inner or any(True for _ in child.children()))
            known[id(child)] = Part() if through else child
            if through:
                _hold(known[id(child)], child, at, leaves, inner, known)
        part.add_module(name, known[id(child)])


def _take(part: nn.Module, net: nn.Module, cut: Cut) -> None:
    """Give `part` what the rest of a network's graph uses, under the network's names."""
    modules = dict(net.named_modules())
    for path in sorted(_called(cut.rest)):
        holder, name = _holder(part, path)
        if name not in dict(holder.named_children()):
            holder.add_module(name, modules[path])
    for node in cut.rest:
        target = str(node.target).removeprefix(f"{ROOT}.")
        if node.op == "get_attr" and str(node.target).startswith(f"{ROOT}."):
            holder, name = _holder(part, target)
            owner = modules[target.rpartition(".")[0]]
            if name in owner._parameters:
                holder.register_parameter(name, owner._parameters[name])
            elif name not in holder._buffers:
                holder.register_buffer(name, owner._buffers[name], name not in owner._non_persistent_buffers_set)
        for call in cut.calls.get(node, ()):
            holder, name = _holder(part, call.path)
            if name not in dict(holder.named_children()):
                holder.add_module(name, Part())


def _holder(part: nn.Module, path: str) -> tuple[nn.Module, str]:
    """The part that a path's last word is in, made with all above it where it is not there, and that word."""
    *above, name = path.split(".")
    for word in above:
        children = dict(part.named_children())
        if word not in children:
            part.add_module(word, Part())
        part = part.get_submodule(word)
    return part, name


def _gate(gate: tuple[str, Mapping[str, object]], point: Tensor, count: int) -> nn.Module:
    """A gate for the features at the cut.

    Raises
    ------
    BranchError
        KD0517 if it does not run on them, or gives something else than one number for each branch.
    """
    name, settings = gate
    if name == "mean":
        return Mean(count)
    if name == "gate":
        return Gate(point.shape[2] if point.dim() == 3 else point.shape[1], count)
    module = create(name, **settings)
    shape = "×".join(map(str, point.shape[1:]))
    try:
        with torch.device("cpu"):
            traced = trace(module, torch.zeros(tuple(point.shape), dtype=point.dtype))
    except TraceError as problem:
        raise BranchError("KD0517", why=f"does not run on features {shape}: {problem}") from problem
    output = traced.taps["output"].node.meta["val"] if "output" in traced.taps else None
    if not isinstance(output, Tensor) or tuple(output.shape) != (point.shape[0], count):
        given = f"[{', '.join(['B', *map(str, output.shape[1:])])}]" if isinstance(output, Tensor) else "no tensor"
        raise BranchError("KD0517", why=f"gives {given} of features {shape}, where [B, {count}] is expected")
    return module


def branched(base: Sequence[Any], at: str, count: int, gate: Sequence[Any], shape: Sequence[int]) -> Branched:
    """A new network with branches, from the names and settings of the plain network's factory and of the gate.

    The first branch draws the plain network's own weights, each further one the next that it would draw, then the gate:
    what a branch begins with does not depend on how many come after it.

    Examples
    --------
    >>> net = branched(["digits_net", {"width": 2}], "layer2", 3, ["gate", {}], [1, 8, 8])
    >>> [tuple(z.shape) for z in net.outputs(torch.zeros(5, 1, 8, 8))]
    [(5, 10), (5, 10), (5, 10)]
    """
    if count < 1:
        raise ValueError("a network has at least one branch")
    nets = [create(base[0], **base[1]) for _ in range(count)]
    content = repr((base[0], base[1], at, list(shape)))
    known = _TRACES.get(content) if ":" not in base[0] else None  # a user's file may have changed
    network = Branched(nets, at, (gate[0], gate[1]), shape, known)
    network.traces.fresh = partial(create, base[0], **base[1])
    if len(_TRACES) >= _MOST:
        _TRACES.clear()
    _TRACES[content] = network.traces
    return network


def branch_state(state: Mapping[str, Tensor], index: int) -> dict[str, Tensor]:
    """The plain network's weights, as one branch has them.

    Examples
    --------
    >>> net = branched(["digits_net", {"width": 2}], "fc", 2, ["mean", {}], [1, 8, 8])
    >>> plain = create("digits_net", width=2)
    >>> plain.load_state_dict(branch_state(net.state_dict(), 1))
    <All keys matched successfully>
    """
    names = [n for n in state if n.partition(".")[0] not in (BRANCH, GATE)]
    return {n: state.get(f"{BRANCH}.{index}.{n}", state[n]) for n in names}
