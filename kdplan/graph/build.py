"""Joins networks, adapters and losses into one graph, step by step.

>>> from kdplan.graph.diagram import diagram
>>> b = Builder()
>>> x = b.input("inputs_0", torch.zeros(2, 3))
>>> b.network("big", nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 5)))
>>> b.network("small", nn.Sequential(nn.Linear(3, 5)))
>>> loss = b.call(nn.functional.mse_loss, b.apply("small", (x,)), b.apply("big", (x,)))
>>> joined = b.finish({"loss": loss}).graph_module.graph
>>> big, small = (trace(net, torch.zeros(2, 3)).graph for net in b.networks.values())
>>> print(diagram(big=big))
big
input0 = input
net_0 = net.0(input0)
net_1 = net.1(net_0)
return net_1
>>> print(diagram(small=small))
small
input0 = input
net_0 = net.0(input0)
return net_0
>>> print(diagram(joined=joined))
joined
inputs_0 = input
small_0 = nets.small.0(inputs_0)
big_0 = nets.big.0(inputs_0)
big_1 = nets.big.1(big_0)
mse_loss = mse_loss(small_0, big_1)
return loss=mse_loss
"""

from __future__ import annotations

import keyword
import operator
import re
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.utils._pytree import tree_flatten

from kdplan.diagnostics.boundary import ForeignError, is_foreign
from kdplan.graph.application import Application
from kdplan.graph.between import between
from kdplan.graph.fake import EFFECTS, FakeContext
from kdplan.graph.joined import JoinedPhase
from kdplan.graph.module import make, origin
from kdplan.graph.outplace import outplace
from kdplan.graph.params import learns
from kdplan.graph.taps import LeafTaps, Tap, TapError
from kdplan.graph.trace import Traced, trace, value_at
from kdplan.graph.tracer import ROOT
from kdplan.nn.whose import is_user_code


class BuildError(RuntimeError, ForeignError):
    """A call in a phase's graph does not work on what it is given; its cause is the operator's own exception."""


class PastError(RuntimeError):
    """A value of a network does not depend on another one alone."""


class ShapeError(RuntimeError):
    """A signal has another shape (`given`) than the value that it replaces (`wanted`)."""

    def __init__(self, wanted: tuple[int, ...], given: tuple[int, ...]) -> None:
        super().__init__(f"{given} instead of {wanted}")
        self.wanted, self.given = wanted, given


@dataclass
class _Inlined:
    """One network inlined once: its taps, and the joined graph's node for each of its nodes."""

    traced: Traced
    mapped: dict[fx.Node, fx.Node]
    prefix: str
    parts: dict[Tap, fx.Node] = field(default_factory=dict)
    given: Any = None
    """Arguments and keyword arguments; None for a part of a network that is entered at a tap."""
    call: int = 0


class Builder:
    """Builds a phase's graph; every node is run on fake tensors as soon as it is added.

    Examples
    --------
    >>> b = Builder()
    >>> x = b.input("inputs", torch.zeros(4, 3))
    >>> y = b.input("labels", torch.zeros(4, dtype=torch.long))
    >>> b.network("small", nn.Sequential(nn.Linear(3, 8), nn.ReLU(), nn.Linear(8, 5)))
    >>> logits = b.apply("small", (x,), "logits")
    >>> tuple(logits.meta["val"].shape)
    (4, 5)
    >>> joined = b.finish({"loss": b.call(nn.functional.cross_entropy, logits, y)})
    >>> sorted(joined.graph_module(inputs=torch.ones(2, 3), labels=torch.tensor([0, 1])))
    ['loss']
    """

    def __init__(self, context: FakeContext | None = None) -> None:
        self.context = context or FakeContext()
        self.graph = fx.Graph()
        self.root = nn.Module()
        for box in ("nets", "splices", "constants", "inside"):
            self.root.add_module(box, nn.Module())
        self.networks: dict[str, nn.Module] = {}
        self.adapters: dict[str, nn.Module] = {}
        self._keys: dict[str, str] = {}
        self._inlined: dict[Any, _Inlined] = {}
        self._called: dict[Any, fx.Node] = {}
        self._traced: dict[Any, Traced] = {}
        self._leaves: dict[str, dict[str, str]] = {}
        self._calls = 0
        self._last_input: fx.Node | None = None
        self._inputs: dict[str, fx.Node] = {}

    # what goes in

    def input(self, name: str, example: Tensor) -> fx.Node:
        """A placeholder with the example's shape and type; the same name again is the same node."""
        if name in self._inputs:
            return self._inputs[name]
        # Placeholders come first, whenever they are asked for.
        first = next(iter(self.graph.nodes), None)
        with self.graph.inserting_after(self._last_input) if self._last_input else self.graph.inserting_before(first):
            node = self.graph.placeholder(name)
        node.meta.update(val=self.context.fake(example.detach()), mutates=(), buffers=False, random=False)
        node.meta.update(owner="inputs", graded=example.requires_grad)
        self._last_input = self._inputs[name] = node
        return node

    def scalar(self, name: str) -> fx.Node:
        """A number that the run supplies each step (`epoch`, `step`, `progress`), as a float tensor of shape []."""
        return self.input(name, torch.zeros(()))

    def network(self, name: str, module: nn.Module, whole: str = "") -> None:
        """Register a network under `nets.<name>`, in the mode that it is applied in; `whole`: why it is not traced."""
        assert name not in self.networks, f"network {name} is registered twice"
        self.networks[name] = module
        self._leaves[name] = {"": whole} if whole else {}
        self._keys[name] = self._register("nets", name, module)

    def _register(self, box: str, name: str, module: nn.Module) -> str:
        key = re.sub(r"\W+", "_", name).strip("_") or "_"
        holder = self.root.get_submodule(box)
        unique, k = key, 1
        while hasattr(holder, unique) or keyword.iskeyword(unique):  # a network may have the name of a module's method
            k += 1
            unique = f"{key}_{k}"
        holder.add_module(unique, module)
        return unique

    def path(self, name: str) -> str:
        """The path of network `name` in the joined module (`nets.<key>`); parameter names start with it."""
        return f"nets.{self._keys[name]}"

    # nodes

    def apply(
        self, name: str, inputs: Sequence[Any] | Mapping[str, Any], tap: str = "output", path: str = "", call: int = 0
    ) -> fx.Node:
        """Run a network (or its sub-module at `path`) on nodes and give the value of one of its taps.

        Equal calls are one call, but for other numbers `call` where random numbers are drawn. A mapping gives keyword
        arguments.

        Raises
        ------
        TapError
            If there is no such tap.
        TraceError
            If the network cannot run on such inputs.
        """
        inlined = self._inline(name, path, inputs, call)
        location = inlined.traced.taps.get(tap)
        if location is None:
            raise TapError(tap, inlined.traced.taps)
        return self._tap_node(inlined, location, tap)

    def apply_since(self, name: str, since: str, example: Tensor, value: fx.Node, tap: str, call: int = 0) -> fx.Node:
        """The value of a tap of a network, with `value` instead of what it has at the tap `since`.

        `example` has the shape of the network's inputs, which its graph depends on; `call` is that of `apply`.

        Raises
        ------
        TapError
            If there is no such tap.
        TraceError
            If the network cannot run on such inputs.
        PastError
            If the tap does not depend on `since`, or on the inputs by another way too.
        ShapeError
            If `value` has another shape than what it stands for.
        """
        module = self.networks[name]
        key = (name, tuple(m.training for m in module.modules()), tuple(example.shape))
        if key not in self._traced:
            self._traced[key] = trace(
                module, self.context.fake(example), leaves=self._leaves[name], context=self.context
            )
        traced = self._traced[key]
        for path in (since, tap):
            location = traced.taps.get(path)
            if location is None or (path == since and (location.index or location.inner is not None)):
                raise TapError(path, traced.taps)
        start, end = traced.taps[since].node, traced.taps[tap].node
        kept = between(traced.graph, start, end)
        if kept is None:
            raise PastError(f"`{tap}` does not follow on `{since}` alone")
        wanted, given = start.meta["val"].shape, value.meta["val"].shape
        if wanted[1:] != given[1:]:
            raise ShapeError(tuple(wanted), tuple(given))
        draw = call if any(n.meta.get("random") for n in kept) else 0
        at = (name, "", key, since, value, draw)
        known = self._inlined.setdefault(at, _Inlined(traced, {start: value}, self.path(name)))
        self._copy(known, name, "", [n for n in kept if n not in known.mapped])
        return self._tap_node(known, traced.taps[tap], tap)

    def apply_submodule(
        self, name: str, path: str, inputs: Sequence[Any] | Mapping[str, Any], tap: str = "output", call: int = 0
    ) -> fx.Node:
        """`apply` for the sub-module at `path`."""
        return self.apply(name, inputs, tap, path, call)

    def taps(self, name: str, inputs: Sequence[Any] | Mapping[str, Any], path: str = "") -> list[str]:
        """The taps that such a call has."""
        return sorted(self._inline(name, path, inputs).traced.taps)

    def call(self, fn: Callable[..., Any], *args: Any, **kwargs: Any) -> fx.Node:
        """A function of nodes: a loss, an operator. Equal calls are one call, unless it draws random numbers.

        Raises
        ------
        BuildError
            If the function does not work on such values.
        """
        key = _key((fn, args, kwargs))
        if key is not None and key in self._called:
            return self._called[key]
        node = self._run_new(self.graph.call_function(fn, args, kwargs), owner="loss")
        if key is not None and not any(node.meta[effect] for effect in EFFECTS):
            self._called[key] = node
        return node

    def module(self, name: str, module: nn.Module, *inputs: Any, **kwargs: Any) -> fx.Node:
        """Call an adapter, head or gate; it is registered once under `splices.<name>`, the name in checkpoints."""
        known = self.adapters.get(name)
        assert known is None or known is module, f"two modules are called {name}"
        if known is None:
            self.adapters[name] = module
            self._keys[f"adapter {name}"] = self._register("splices", name, module)
        node = self.graph.call_module(self.adapter_path(name), inputs, kwargs)
        return self._run_new(node, owner=f"adapter {name}")

    def routed(self, name: str, module: nn.Module, *inputs: Any) -> fx.Node:
        """Call a module that runs registered networks inside of it."""
        node = self.graph.call_module(f"inside.{self._register('inside', name, module)}", inputs)
        return self._run_new(node, owner=name)

    def constant(self, value: Tensor) -> fx.Node:
        """A tensor that never changes; the same object is the same node."""
        return self._run_new(self.graph.get_attr(self._constant(value)), owner="loss")

    def part(self, node: fx.Node, key: int | str) -> fx.Node:
        """A part of a node's value, which is a tuple or a mapping."""
        return self._part(node, key)

    def adapter_path(self, name: str) -> str:
        """The path of adapter `name` in the joined module."""
        return f"splices.{self._keys[f'adapter {name}']}"

    def detach(self, node: fx.Node) -> fx.Node:
        """The same value without a gradient."""
        if ("detach", node) not in self._called:
            detached = self.graph.call_method("detach", (node,))
            self._called["detach", node] = self._run_new(detached, owner=str(node.meta.get("owner", "loss")))
        return self._called["detach", node]

    def finish(self, outputs: Mapping[str, fx.Node]) -> JoinedPhase:
        """Close the graph; its output is a dict of `outputs`, and in-place operations behind taps are replaced."""
        gm = outplace(self.closed(outputs), self.context)
        # After the replacement, which may have added modules; dropout among them has a mode too.
        training = {p: m.training for p, m in gm.named_modules() if p.startswith(("nets.", "splices.", "inside."))}
        guards = [
            (inlined.mapped[g.node].name, g.kind, g.answer)
            for inlined in self._inlined.values()
            for g in inlined.traced.guards
            if g.node in inlined.mapped
        ]
        inputs = tuple(self._inputs)
        calls = [self._application(*item) for item in self._inlined.items() if item[1].given is not None]
        networks, adapters = dict(self.networks), dict(self.adapters)
        return JoinedPhase(gm, inputs, networks, adapters, training, guards, self.context, calls)

    def _application(self, key: Any, inlined: _Inlined) -> Application:
        taps = {node.name: tap for tap, node in inlined.parts.items()}
        name, module = key[0], inlined.traced.module
        own = (n for n in inlined.mapped.values() if n.meta.get("call") == inlined.call)
        random = frozenset(n.name for n in own if n.meta.get("random"))
        return Application(module, name, self.networks[name], inlined.call, inlined.given, taps, random, inlined.traced)

    def closed(self, outputs: Mapping[str, fx.Node]) -> fx.GraphModule:
        """The graph with a dict of `outputs`, before any pass."""
        self.graph.output(dict(outputs))
        self.context.annotate(next(n for n in reversed(self.graph.nodes)), self.root)
        return make(self.root, self.graph)

    # inlining

    def _run_new(self, node: fx.Node, owner: str) -> fx.Node:
        self._calls += 1
        node.meta.update(owner=owner, path="", call=self._calls)
        node.meta["frozen"] = is_user_code(node.target) and not learns(node, self.root)
        try:
            self.context.annotate(node, self.root)
        except BaseException as problem:
            self.graph.erase_node(node)
            if not is_foreign(problem):
                raise
            raise BuildError(str(problem)) from problem
        return node

    def _inline(self, name: str, path: str, inputs: Sequence[Any] | Mapping[str, Any], call: int = 0) -> _Inlined:
        args: tuple[Any, ...] = () if isinstance(inputs, Mapping) else tuple(inputs)
        kwargs = dict(inputs) if isinstance(inputs, Mapping) else {}
        module = self.networks[name].get_submodule(path)
        modes = tuple(m.training for m in module.modules())
        leaves, spec = tree_flatten((args, kwargs))
        key: tuple[Any, ...] = (
            name,
            path,
            modes,
            str(spec),
            tuple(v if isinstance(v, fx.Node) else repr(v) for v in leaves),
        )
        for at in ((*key, call), key):  # what draws random numbers is never equal content
            if at in self._inlined:
                return self._inlined[at]
        fakes = fx.map_arg((args, kwargs), lambda n: n.meta["val"])
        traced = trace(module, *fakes[0], kwargs=fakes[1], leaves=self._leaves[name], context=self.context)
        if any(n.meta.get("random") for n in traced.graph.nodes):
            key = (*key, call)
        self._inlined[key] = self._copied(name, path, traced, [v for v in leaves if isinstance(v, fx.Node)])
        self._inlined[key].given = (args, kwargs)
        return self._inlined[key]

    def _copied(self, name: str, path: str, traced: Traced, inputs: list[fx.Node]) -> _Inlined:
        prefix = self.path(name) + (f".{path}" if path else "")
        given = iter(inputs)
        mapped = {node: next(given) for node in traced.graph.nodes if node.op == "placeholder"}
        inlined = _Inlined(traced, mapped, prefix)
        self._copy(inlined, name, path, [n for n in traced.graph.nodes if n.op not in ("placeholder", "output")])
        return inlined

    def _copy(self, inlined: _Inlined, name: str, path: str, nodes: list[fx.Node]) -> None:
        """Nodes of a traced network, in order, as nodes of the joined graph."""
        self._calls += 1
        inlined.call = self._calls
        traced, mapped, prefix = inlined.traced, inlined.mapped, inlined.prefix
        for node in nodes:
            target = node.target
            if node.op == "get_attr" and str(target) in traced.constants:
                target = self._constant(traced.constants[str(target)])
            elif node.op in ("get_attr", "call_module"):
                target = prefix + str(target).removeprefix(ROOT)
            args, kwargs = fx.map_arg((node.args, node.kwargs), mapped.__getitem__)
            label = f"{self._keys[name]}_{node.name.removeprefix(ROOT + '_')}"
            new = self.graph.create_node(node.op, target, args, kwargs, name=label)
            inner = ".".join(p for p in (path, str(node.meta.get("path", ""))) if p)
            new.meta = node.meta | {"owner": f"net {name}", "path": inner, "call": self._calls}
            new.meta["mutates"] = tuple(mapped[n] for n in node.meta["mutates"] if n in mapped)
            mapped[node] = new

    def _constant(self, value: Tensor) -> str:
        box = self.root.get_submodule("constants")
        for name, known in box.named_buffers():
            if known is value:
                return f"constants.{name}"
        name = f"c{len(list(box.buffers()))}"
        box.register_buffer(name, value, persistent=False)
        return f"constants.{name}"

    def _tap_node(self, inlined: _Inlined, tap: Tap, name: str) -> fx.Node:
        """The joined graph's node for a tap; new nodes only for parts of structures and for insides of leaves."""
        if tap in inlined.parts:
            return inlined.parts[tap]
        node = inlined.mapped[tap.node]
        if tap.inner is not None:
            part = self._inside(inlined, node, tap.inner, name)
        else:
            part = node
            for key in tap.index:
                part = self._part(part, key)
        inlined.parts[tap] = part
        return part

    def _part(self, node: fx.Node, key: int | str) -> fx.Node:
        value = node.meta["val"]
        by_name = isinstance(key, str) and not isinstance(value, Mapping)
        fn: Callable[..., Any] = getattr if by_name else operator.getitem
        with self.graph.inserting_after(node):
            part = self.graph.call_function(fn, (node, key))
        part.meta = origin(node)
        part.meta.update(val=value_at(value, (key,)), mutates=(), buffers=False, random=False)
        return part

    def _inside(self, inlined: _Inlined, node: fx.Node, inner: str, name: str) -> fx.Node:
        """Let a leaf's call return an inner value too."""
        if "wrapper" not in node.meta:
            self._wrap(inlined, node)
        call = node.meta.get("wrapper", node)
        wrapped = self.root.get_submodule(str(call.target))
        assert isinstance(wrapped, LeafTaps)
        if inner not in wrapped.paths:
            wrapped.paths.append(inner)
            try:
                self.context.annotate(call, self.root)
            except TapError as problem:
                wrapped.paths.remove(inner)
                raise TapError(name, inlined.traced.taps) from problem
        return self._part(call, wrapped.paths.index(inner) + 1)

    def _wrap(self, inlined: _Inlined, node: fx.Node) -> None:
        """Replace a leaf's call by one that returns a tuple, of which the first is what the leaf returns."""
        wrapped = LeafTaps(self.root.get_submodule(str(node.target)), [])
        with self.graph.inserting_before(node):
            target = f"inside.{self._register('inside', node.name, wrapped)}"
            call = self.graph.call_module(target, node.args, node.kwargs)
        call.meta = dict(node.meta)
        self.context.annotate(call, self.root)
        # The old node now only picks the leaf's own value out of the tuple, so whoever reads it goes on reading it.
        node.op, node.target, node.args, node.kwargs = "call_function", operator.getitem, (call, 0), {}
        node.meta.update(val=call.meta["val"][0], mutates=(), buffers=False, random=False, wrapper=call)


def _key(value: object) -> Hashable:
    """Equal for equal arguments of calls; None where that cannot be said."""
    if isinstance(value, tuple | list):
        parts = [_key(v) for v in value]
        return None if None in parts else (type(value), *parts)
    if isinstance(value, dict):
        return _key([(k, v) for k, v in value.items()])
    try:
        hash(value)
    except TypeError:
        return None
    return (type(value), value)  # 1, 1.0 and true are different arguments
