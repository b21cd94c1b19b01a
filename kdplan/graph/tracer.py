"""The tracer: records a module's operations on fake tensors, with the path of the module that each is in."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

from kdplan.graph.fake import FakeContext, is_differentiable, storages
from kdplan.graph.guards import Guard, GuardingTracer
from kdplan.graph.impure import watched
from kdplan.graph.kept import code_of, undone
from kdplan.graph.lines import calling_line
from kdplan.graph.proxy import ValueProxy, is_plain
from kdplan.graph.state import Attributes, PythonDraws, assign_buffer, written
from kdplan.graph.structure import mapped, opened, tensors
from kdplan.graph.taps import Call
from kdplan.nn.whose import is_user_code

_MAKERS = ("zeros", "ones", "full", "empty", "arange", "linspace", "eye", "tensor", "as_tensor", "tril_indices")
_RANDOM_MAKERS = ("rand", "randn", "randint", "randperm", "normal")
MAKERS = (*_MAKERS, *_RANDOM_MAKERS)
_LIMITS = ("finfo", "iinfo")
ROOT = "net"


class Holder(nn.Module):
    """Gives the traced module a path of its own, so that it can be a leaf as a whole."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        """What the held module returns."""
        return self.net(*args, **kwargs)


class PathTracer(GuardingTracer):
    """Traces a held module on fake tensors and remembers what each sub-module returned."""

    def __init__(self, context: FakeContext, leaf_types: tuple[type, ...], leaf_paths: Collection[str]) -> None:
        super().__init__()
        self.context = context
        self.leaf_types = leaf_types
        self.leaf_paths = set(leaf_paths)
        self.stack: list[str] = []
        self.failed: list[str] | None = None
        self.calls: list[Call] = []
        self.constants: dict[str, Tensor] = {}
        self.impure: dict[str, str] = {}
        """Paths of modules whose `forward` does what no graph holds -> what it does."""
        self._constant_names: dict[int, str] = {}
        self._names: dict[int, str] = {}
        self._attributes: dict[str, ValueProxy] = {}
        self._order: dict[fx.Node, int] = {}
        self._last_write: dict[int, int] = {}
        """Identity of a storage -> the position of the last node that writes into it."""

    # what goes in

    def run(self, holder: Holder, inputs: tuple[Any, ...], kwargs: dict[str, Any]) -> fx.Graph:
        """Trace `holder`; `inputs` and `kwargs` hold fake tensors and anything else."""
        self._given = (inputs, kwargs)
        named = [*holder.named_parameters(remove_duplicate=False), *holder.named_buffers(remove_duplicate=False)]
        for name, tensor in reversed(named):
            self._names[id(tensor)] = name
        self._tensors: dict[str, Tensor] = dict(named)
        self._parameters = {id(p) for p in holder.parameters()}
        saved = Attributes(holder)
        try:
            with torch.enable_grad(), _makers_recorded(self), watched(self), undone(*code_of(holder.net)):
                graph = self.trace(holder)
                for name in saved.changed():
                    owner, _, attribute = name.rpartition(".")
                    if not any(owner == path or owner.startswith(f"{path}.") for path in self.impure):
                        self.impure[owner] = f"it changes the Python attribute `{attribute}`"
            return graph
        finally:
            # A forward that stores values on its module must not leave proxies behind.
            saved.restore()

    def create_args_for_root(self, root_fn: Callable[..., Any], is_module: bool, concrete_args: Any = None) -> Any:
        """A placeholder for every tensor among the inputs; all else goes in as it is."""
        leaves, spec = tree_flatten(self._given)
        proxies: list[Any] = []
        for leaf in leaves:
            if isinstance(leaf, Tensor):
                node = self.create_node("placeholder", f"input{len(self.graph.nodes)}", (), {})
                node.meta.update(val=leaf, mutates=(), buffers=False, random=False)
                proxies.append(ValueProxy(node, self))
            else:
                proxies.append(leaf)
        args, kwargs = tree_unflatten(proxies, spec)
        return partial(root_fn, **kwargs), [self.root, *args]

    # what a graph does not hold

    @property
    def watching(self) -> bool:
        """Whether a user's code runs on traced values now."""
        return bool(self.stack) and not self.context.running

    def mark(self, reason: str) -> None:
        """Note that the module whose `forward` runs now must be called whole, and why."""
        self.impure.setdefault(self.stack[-1], reason)

    def note(self, reason: str) -> None:
        """The same, where a user's code runs now."""
        if self.watching:
            self.mark(reason)

    def assign(self, module: nn.Module, name: str, value: fx.Proxy) -> bool:
        """Record that a buffer is bound to a traced value; False where its shape or type would be another."""
        old, new = module._buffers[name], value.node.meta["val"]
        path = self.submodule_paths.get(module) if self.submodule_paths else None
        if not isinstance(new, Tensor) or old is None or path is None:
            return False
        if (old.shape, old.dtype) != (new.shape, new.dtype):
            return False
        twin = self.context.fake(self._tensors.get(f"{path}.{name}", old))
        if _one_memory(twin, new):
            return True  # `self.buffer += …` has written already
        owner = self.create_node("get_attr", path, (), {})
        self.context.annotate(owner, self.root)
        node = self.create_node("call_function", assign_buffer, (owner, name, value.node), {})
        self.context.annotate(node, self.root)
        return True

    def _check_write(self, node: fx.Node) -> None:
        if not self.stack or self.context.running:
            return
        written = frozenset().union(*map(storages, node.meta["mutates"]))
        for name, proxy in self._attributes.items():
            if id(self._tensors[name]) in self._parameters and storages(proxy.node) & written:
                self.mark(f"it writes into the parameter `{name.removeprefix(f'{ROOT}.')}`")
        if not torch.is_grad_enabled():
            self._cut_writes(node)

    def _cut_writes(self, node: fx.Node) -> None:
        """Cut a write without gradients from what it reads and writes: `with torch.no_grad()` is not in a graph."""
        for n in node.all_input_nodes:
            if n.op != "get_attr" and _differentiable(n.meta["val"]):
                with self.graph.inserting_before(node):
                    cut = self.create_node("call_method", "detach", (n,), {})
                self.context.annotate(cut, self.root)
                node.replace_input_with(n, cut)
                node.meta["mutates"] = tuple(cut if t is n else t for t in node.meta["mutates"])

    def answer(self, node: fx.Node, kind: str, ask: Callable[[Any], Any]) -> Any:
        """The answer to what Python asks; where that is for real numbers to say, the module is called whole."""
        if node.meta.get("by_data") and self.watching:
            self.mark("the value of a tensor decides what it computes")
        return super().answer(node, kind, ask)

    def is_state(self, node: fx.Node) -> bool:
        """Whether a value lives in the memory of a parameter or buffer."""
        return any(storages(node) & storages(held.node) for held in self._attributes.values())

    # modules and their attributes

    def is_leaf(self, module: nn.Module, path: str) -> bool:
        """Library modules (not containers), given types and paths, what says that it is one (`fake_forward`), and what
        could not be traced before."""
        return (
            path in self.leaf_paths
            or hasattr(module, "fake_forward")
            or isinstance(module, self.leaf_types)
            or ((path != ROOT or not any(True for _ in module.children())) and super().is_leaf_module(module, path))
        )

    def call_module(self, m: nn.Module, forward: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """One node for a leaf, or the trace of what it does; either way the call is noted with its path."""
        if self.context.running:
            return forward(*args, **kwargs)
        path = self.submodule_paths.get(m) if self.submodule_paths else None
        if path is None:
            return forward(*args, **kwargs)
        leaf = self.is_leaf(m, path)
        draws = PythonDraws() if not leaf and is_user_code(type(m)) else None
        self.stack.append(path)
        try:
            if leaf:
                out = self.create_proxy("call_module", path, args, kwargs)
            else:
                out = self._returned(forward(*args, **kwargs))
            if draws is not None and draws.used:
                self.mark("it draws random numbers that no graph holds")
        except BaseException:
            if self.failed is None:
                self.failed = list(self.stack)
            raise
        finally:
            self.stack.pop()
            if draws is not None:
                draws.restore()
        name = path.removeprefix(ROOT).removeprefix(".")
        self.calls.append(Call(name, m, _nodes((*args, *kwargs.values())), _nodes(out), leaf))
        return out

    def _returned(self, out: Any) -> Any:
        """What a module returns, with a node of its own for each value that was written into after it was computed.

        So a tap of what computed it is the value before the write, and a tap of what returns it the value after.
        """
        if not any(map(self._is_written, tensors(out))):
            return out
        return mapped(
            lambda v: self.create_proxy("call_function", written, (v,), {}) if self._is_written(v) else v, out
        )

    def _is_written(self, value: object) -> bool:
        node = value.node if isinstance(value, fx.Proxy) else None
        return node is not None and any(self._last_write.get(m, -1) > self._order[node] for m in storages(node))

    def getattr(self, attr: str, attr_val: Any, parameter_proxy_cache: Any) -> Any:
        """A node for a parameter or buffer of the module, the same one each time; other values as they are."""
        if self.context.running or not isinstance(attr_val, Tensor):
            return attr_val
        name = self._names.get(id(attr_val))
        if name is None:
            return attr_val
        if name not in self._attributes:
            self._attributes[name] = self.create_proxy("get_attr", name, (), {})
        return self._attributes[name]

    # nodes and their values

    def create_arg(self, a: Any) -> Any:
        """An argument of a node; a tensor that the forward made becomes a constant of the graph."""
        if isinstance(a, fx.Proxy):
            return a.node
        if isinstance(a, Mapping) and not isinstance(a, fx.Node):
            a = dict(a)
        if isinstance(a, torch.Generator):
            self.mark("it draws from a generator of its own")
        if isinstance(a, FakeTensor) and id(a) not in self._names:
            self.mark("it reads what another module's hook has kept")
        if isinstance(a, Tensor):
            name = self._names.get(id(a))
            if name is None:
                name = self._constant_names.setdefault(id(a), f"constants.c{len(self.constants)}")
                self.constants[name] = a
                if not hasattr(self.root, "constants"):
                    self.root.add_module("constants", nn.Module())
                self.root.get_submodule("constants").register_buffer(name.rpartition(".")[2], a, persistent=False)
            node = self.create_node("get_attr", name, (), {})
            self.context.annotate(node, self.root)
            return node
        arg = super().create_arg(a)
        if isinstance(arg, fx.Node) and "val" not in arg.meta:
            # A named tuple or data class that is built from traced values.
            self.context.annotate(arg, self.root)
        return arg

    def create_node(self, *args: Any, **kwargs: Any) -> fx.Node:
        """A node that has the path of the module that it is in, as meta["path"]."""
        node = super().create_node(*args, **kwargs)
        self._order[node] = len(self._order)
        node.meta["line"] = calling_line(__file__)
        node.meta["path"] = self.stack[-1].removeprefix(ROOT).removeprefix(".") if self.stack else ""
        return node

    def create_proxy(self, kind: str, target: Any, args: Any, kwargs: Any, *rest: Any, **more: Any) -> Any:
        """A node with its fake value and effects, as a proxy; a plain value where the node depends on no input."""
        if target is torch._assert:
            if not bool(args[0]):
                raise AssertionError(args[1] if len(args) > 1 else "")
            return None
        name = rest[0] if rest else more.get("name")
        node = self.create_node(kind, target, self.create_arg(args), self.create_arg(kwargs), name)
        try:
            self.context.annotate(node, self.root)
        except BaseException:
            if not node.users:
                self.graph.erase_node(node)
            raise
        if node.meta.get("real") and kind != "call_module" and self.stack:
            self.mark("it asks for the values of tensors")
        if node.meta["mutates"]:
            self._check_write(node)
            self._last_write.update({m: self._order[node] for t in node.meta["mutates"] for m in storages(t)})
        if not torch.is_grad_enabled() and not self.context.running and _differentiable(node.meta["val"]):
            # `with torch.no_grad()` leaves no trace in a graph; cutting the result does the same.
            node = self.create_node("call_method", "detach", (node,), {})
            self.context.annotate(node, self.root)
        return self._exported(node)

    def _exported(self, node: fx.Node) -> Any:
        value = node.meta["val"]
        inputs = node.all_input_nodes
        fixed = node.op == "get_attr" or (bool(inputs) and all(n.meta.get("fixed") for n in inputs))
        node.meta["fixed"] = fixed
        if value is None:
            return None
        attribute = node.args[1] if node.target is getattr else None
        rank = attribute == "ndim" or (node.op == "call_method" and node.target == "dim")
        plain = is_plain(value) and not tensors(value)
        if isinstance(value, str):
            self.guards.append(Guard(node, "str", value))
            return value
        if plain and (fixed or rank) and not node.meta["by_data"]:
            self.graph.erase_node(node)
            return value
        return ValueProxy(node, self)

    def iter(self, obj: Any) -> Iterator[Any]:
        """Python's own iteration, which the proxy answers."""
        return iter(obj)

    def to_bool(self, obj: object) -> bool:
        """Python's own truth value, which the proxy answers."""
        return bool(obj)


def _nodes(tree: Any) -> Any:
    """A structure of proxies as one of nodes, in which mappings and data classes are dicts."""
    return tree_map(lambda v: v.node if isinstance(v, fx.Proxy) else v, opened(tree))


def _differentiable(value: object) -> bool:
    return isinstance(value, Tensor) and is_differentiable(value)


def _one_memory(a: Tensor, b: Tensor) -> bool:
    same = a.untyped_storage()._cdata == b.untyped_storage()._cdata
    return same and (a.stride(), a.storage_offset()) == (b.stride(), b.storage_offset())


@contextmanager
def _makers_recorded(tracer: PathTracer) -> Iterator[None]:
    """Inside, torch.zeros and its kin become nodes where a traced size goes in; random ones always do."""
    saved = {name: getattr(torch, name) for name in (*_MAKERS, *_RANDOM_MAKERS, *_LIMITS)}

    def recorded(name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def make(*args: Any, **kwargs: Any) -> Any:
            traced = any(isinstance(a, fx.Proxy) for a in _flat((args, kwargs)))
            if tracer.context.running or not (traced or name in _RANDOM_MAKERS):
                return fn(*args, **kwargs)
            if name in _LIMITS:
                return fn(args[0].node.meta["val"])
            return tracer.create_proxy("call_function", fn, args, kwargs)

        return make

    try:
        for name, fn in saved.items():
            setattr(torch, name, recorded(name, fn))
        yield
    finally:
        for name, fn in saved.items():
            setattr(torch, name, fn)


def _flat(tree: Any) -> Iterator[object]:
    if type(tree) in (tuple, list, torch.Size):
        for v in tree:
            yield from _flat(v)
    elif type(tree) is dict:
        for v in tree.values():
            yield from _flat(v)
    else:
        yield tree
