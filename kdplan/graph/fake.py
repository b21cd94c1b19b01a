"""Runs graph nodes on fake tensors: shapes, data types, aliasing and effects without any arithmetic."""

from __future__ import annotations

import copy
import logging
import operator
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch._subclasses.fake_tensor import (
    DataDependentOutputException,
    DynamicOutputShapeException,
    FakeTensor,
    FakeTensorMode,
    UnsupportedOperatorException,
)

from kdplan.diagnostics.boundary import is_foreign
from kdplan.graph.asking import detached, evaluated, lacks_gradients
from kdplan.graph.kept import code_of, is_object, undone
from kdplan.graph.state import MODULE_ATTRIBUTES, Attributes, PythonDraws, is_write
from kdplan.graph.structure import as_written, mapped, tensors, with_tensors
from kdplan.graph.uncompiled import uncompiled
from kdplan.graph.written import Writing, memory
from kdplan.nn.whose import is_user_code

# A shape that does not fit is the user's to read once, in our words, not also in a log.
logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)


def _no_memory(self: FakeTensor, *_: Any, **__: Any) -> Any:
    raise DataDependentOutputException(torch.ops.aten._local_scalar_dense.default)


FakeTensor.__dlpack__ = _no_memory  # type: ignore[assignment]  # else a null pointer
DATA_DEPENDENT = (DataDependentOutputException, DynamicOutputShapeException, UnsupportedOperatorException)


class ValueShapeError(RuntimeError):
    """A module returns other shapes for other numbers."""


EFFECTS = ("mutates", "buffers", "random")
"""Keys of a node's meta: what it does besides giving a value."""

_REAL: tuple[Callable[..., Tensor], ...] = (torch.rand, torch.randn, torch.zeros)
"""What real numbers are made with where code asks for them: a shape that all of them give does not depend on them."""


_ATEN = torch.ops.aten
_PRODUCTS = frozenset(getattr(_ATEN, name).default for name in ("mm", "addmm", "bmm", "baddbmm", "mv", "convolution"))
"""Operations on numbers of one type, of which fake tensors do not say so; autocast makes no integer a fraction."""


class _Watch(Writing):  # type: ignore[no-untyped-call]
    """Notes writes and whether an operator draws random numbers; refuses products of integers and fractions."""

    def __init__(self, watched: Iterable[Tensor] = ()) -> None:
        super().__init__(watched)
        self.seen = False

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func in _PRODUCTS:
            by_type = {v.dtype: is_differentiable(v) for v in args if isinstance(v, Tensor)}
            if len(set(by_type.values())) > 1:
                dtypes = " and ".join(str(t).removeprefix("torch.") for t in by_type)
                raise RuntimeError(f"a product's tensors must have the same dtype, but got {dtypes}")
        if not self.seen and torch.Tag.nondeterministic_seeded in func.tags:
            # Fused attention carries the tag even where it drops nothing.
            names = [a.name for a in func._schema.arguments]
            if "dropout_p" in names:
                given = dict(zip(names, args, strict=False)) | kwargs
                self.seen = bool(given.get("dropout_p", 0.0))
            else:
                self.seen = True
        return super().__torch_dispatch__(func, types, args, kwargs)


class FakeContext:
    """One FakeTensorMode, the fake twins of parameters and buffers, and a runner for single nodes.

    Real tensors are only looked at, never written; modules on the meta device are treated as if on the CPU.

    Examples
    --------
    >>> context = FakeContext()
    >>> twin = context.fake(torch.ones(2, 3))
    >>> tuple(twin.shape), context.fake(twin) is twin
    ((2, 3), True)
    """

    def __init__(self, mode: FakeTensorMode | None = None) -> None:
        self.mode = mode or FakeTensorMode(allow_non_fake_inputs=True)
        self.running = False
        self.gradients = False
        """Whether the twins of parameters ask for gradients as these do."""
        self.changed = False
        """Whether a module that ran bound a buffer or an attribute anew."""
        self.bound: list[Tensor] = []
        """What it bound its buffers to."""
        # The key holds the tensor too, so that an id is never reused.
        self._twins: dict[int, tuple[Tensor, FakeTensor]] = {}

    def fake(self, tensor: Tensor) -> FakeTensor:
        """The twin of `tensor` in this context; always the same one for the same tensor."""
        if isinstance(tensor, FakeTensor) and tensor.fake_mode is self.mode:
            return tensor
        twin = self._twins.get(id(tensor))
        if twin is None:
            twin = (tensor, self.fresh(tensor, self.gradients and tensor.requires_grad))
            self._twins[id(tensor)] = twin
        return twin[1]

    def fresh(self, tensor: Tensor, requires_grad: bool = False) -> FakeTensor:
        """A new fake tensor of the same size, stride, type and device (meta counts as CPU)."""
        device = torch.device("cpu") if tensor.device.type == "meta" else tensor.device
        strided = tensor.layout is torch.strided
        stride = tensor.stride() if strided else torch.empty(tensor.shape, device="meta").stride()
        # Faster than an empty tensor made inside the mode, and a network has hundreds.
        plain = torch.empty_strided(tensor.shape, stride, dtype=tensor.dtype, device="meta")
        fake = FakeTensor(self.mode, plain, device)
        if requires_grad:
            fake.requires_grad_()
        return fake

    @cached_property
    def asking(self) -> FakeContext:
        """A context in the same mode whose parameters ask for gradients as the real ones do."""
        context = FakeContext(self.mode)
        context.gradients = True
        return context

    def set_twin(self, tensor: Tensor, twin: FakeTensor) -> None:
        """Use `twin` for `tensor` from now on (to ask for gradients of some parameters)."""
        self._twins[id(tensor)] = (tensor, twin)

    def fake_tree(self, value: Any) -> Any:
        """`value` with every tensor in it replaced by its twin."""
        return mapped(lambda v: self.fake(v) if isinstance(v, Tensor) else v, value)

    @contextmanager
    def swapped(self, module: nn.Module) -> Iterator[list[FakeTensor]]:
        """Inside, the module's parameters and buffers are their twins; yields the buffers' twins."""
        modules = list(whole(module).modules())
        before = Attributes(whole(module))
        saved = [(m, dict(m._parameters)) for m in modules]
        buffers: list[FakeTensor] = []
        try:
            for m, parameters in saved:
                for key, p in parameters.items():
                    if p is not None:
                        m._parameters[key] = self.fake(p)  # type: ignore[assignment]
                for key, b in m._buffers.items():
                    if b is not None:
                        buffers.append(self.fake(b))
                        m._buffers[key] = buffers[-1]
                deep = is_user_code(type(m))
                for key, value in m.__dict__.items():
                    if isinstance(value, Tensor) or (deep and key not in MODULE_ATTRIBUTES):
                        m.__dict__[key] = with_tensors(value, self.fake, is_object)
            attributes = Attributes(whole(module))
            yield buffers
            now = [b for m in modules for b in m._buffers.values() if b is not None]
            self.changed |= len(now) != len(buffers) or any(a is not b for a, b in zip(now, buffers, strict=True))
            self.bound += _others(now, buffers)
            self.changed |= is_user_code(whole(module)) and bool(attributes.changed())
        finally:
            for m, parameters in saved:
                m._parameters.clear()
                m._parameters.update(parameters)
            before.restore()

    def run(self, node: fx.Node, root: nn.Module, args: Any, kwargs: Any) -> Any:
        """The node's value for these argument values; gradients are recorded as the caller's grad mode says."""
        was, self.running = self.running, True
        try:
            with self.mode:
                if is_write(node):
                    return None  # the buffer itself stays
                if node.op == "call_function":
                    assert callable(node.target)
                    args, kwargs = as_written((args, kwargs)) if is_user_code(node.target) else (args, kwargs)
                    with self._undone(node.target):
                        return node.target(*args, **kwargs)
                if node.op == "call_method":
                    return getattr(args[0], str(node.target))(*args[1:], **kwargs)
                if node.op == "get_attr":
                    value = operator.attrgetter(str(node.target))(root)
                    return self.fake(value) if isinstance(value, Tensor) else value
                assert node.op == "call_module", node.op
                module = root.get_submodule(str(node.target))
                with self.swapped(module), uncompiled(), self._undone(whole(module)):
                    # Where shapes depend on data, a module may say what it would return.
                    call = getattr(module, "fake_forward", module)
                    return call(*args, **kwargs)
        finally:
            self.running = was

    @contextmanager
    def _undone(self, code: Any) -> Iterator[None]:
        """Inside, a user's code may change what it keeps outside of networks, which is noted and undone."""
        if not is_user_code(code):
            yield
            return
        with undone(*(code_of(code) if isinstance(code, nn.Module) else [code])) as kept:
            yield
            self.changed |= bool(kept.changed())

    def annotate(self, node: fx.Node, root: nn.Module) -> None:
        """Set meta["val"], and what the node does besides: "mutates" (nodes), "buffers" and "random" (booleans).

        "by_data" says that a number or a shape in it was of made-up values: nothing may be decided by it.
        """
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: n.meta["val"])
        if node.op == "output":
            node.meta["val"] = args[0]
            return
        inputs = {n: tensors(n.meta["val"]) for n in node.all_input_nodes}
        watch = _Watch(v for values in inputs.values() for v in values)
        self.changed, self.bound = False, []
        for key in ("real", "varies", "asks"):
            node.meta.pop(key, None)
        draws = PythonDraws() if self._is_users(node, root) else None
        by_data = any(n.meta.get("by_data") for n in inputs)
        with torch.no_grad():
            try:
                with self.mode, watch:
                    value = self.run(node, root, args, kwargs)
                written = {n for n in inputs if watch.wrote_into(*inputs[n]) or self._keeps(inputs[n])}
                if _in_place(node):
                    written |= {n for n in inputs if any(v is value for v in inputs[n])}
            except BaseException as problem:
                value, written, real = self._otherwise(node, root, watch, problem)
                node.meta["asks"] = not real
                if real:
                    node.meta["real"] = by_data = True
                    node.meta["work"] = {}
        by_python = draws is not None and draws.used
        if draws is not None:
            draws.restore()
        node.meta["val"] = value
        node.meta["by_data"] = by_data
        node.meta["mutates"] = tuple(n for n in inputs if n in written)
        state = self.changed or is_write(node) or watch.wrote_into(*self._buffers(node, root))
        node.meta["buffers"] = state or _functional_batch_norm(node)
        node.meta["random"] = watch.seen or by_python
        if by_python and node.op == "call_module":
            node.meta["varies"] = True  # such draws lead Python: another one may read other parameters

    def _is_users(self, node: fx.Node, root: nn.Module) -> bool:
        """Whether the node runs a user's code, which may use Python's and NumPy's generators, or ask autograd."""
        if node.op == "call_module":
            return is_user_code(whole(root.get_submodule(str(node.target))))
        return node.op == "call_function" and is_user_code(node.target)

    def _buffers(self, node: fx.Node, root: nn.Module) -> list[Tensor]:
        if node.op != "call_module":
            return []
        return [self.fake(b) for b in whole(root.get_submodule(str(node.target))).buffers()]

    def _otherwise(
        self, node: fx.Node, root: nn.Module, watch: _Watch, problem: BaseException
    ) -> tuple[Any, set[fx.Node], bool]:
        """The value of a node that does not run on fake tensors without gradients, what it writes into, and whether
        real numbers gave it.
        """
        if self._is_users(node, root) and is_foreign(problem) and not isinstance(problem, DATA_DEPENDENT):
            was, self.running = self.running, True
            try:
                with self.mode, watch:
                    value, written = evaluated(node, root, self.asking)
                self.changed |= self.asking.changed
                return detached(value), written, False
            except BaseException as other:
                if not is_foreign(other):
                    raise
                problem = other if lacks_gradients(problem) else problem
            finally:
                self.running = was
        if not self._may_be_real(node, root, problem):
            raise problem
        return *self._run_really(node, root, watch, problem), True

    def _may_be_real(self, node: fx.Node, root: nn.Module, problem: BaseException) -> bool:
        """Whether real numbers may serve: the node asks for values, or is code of the user that may leave torch.

        A module may, and a function of frozen values, whose gradient nothing needs.
        """
        if isinstance(problem, DATA_DEPENDENT):
            return True
        users = node.op == "call_module" and is_user_code(whole(root.get_submodule(str(node.target))))
        return (users or node.meta.get("frozen", False)) and is_foreign(problem)

    def _run_really(
        self, node: fx.Node, root: nn.Module, watch: _Watch, problem: BaseException
    ) -> tuple[Any, set[fx.Node]]:
        """The value of a node that asks for numbers, from runs on real ones, and the nodes that it writes into.

        A module runs as a copy, and only with real weights. Its shapes must be those of every run.

        Raises
        ------
        ValueShapeError
            If a module returns other shapes for other numbers; at the line where fake tensors raised `problem`.
        """
        was, self.running = self.running, True
        try:
            value, written = self._once(node, root, watch, torch.rand)
            for make in _REAL[1:] if node.op == "call_module" or node.meta.get("frozen") else ():
                try:
                    other, _ = self._once(node, root, watch, make)
                except BaseException as other_problem:
                    if not is_foreign(other_problem):
                        raise
                    continue  # such numbers need not be ones that it works with
                if [v.shape for v in tensors(other)] != [v.shape for v in tensors(value)]:
                    name = getattr(node.target, "__name__", node.target)
                    raise ValueShapeError(f"the shape that {name} returns").with_traceback(problem.__traceback__)
            return self.fake_tree(value), written
        finally:
            self.running = was

    def _once(
        self, node: fx.Node, root: nn.Module, watch: _Watch, make: Callable[..., Tensor]
    ) -> tuple[Any, set[fx.Node]]:
        with torch.random.fork_rng(devices=[]):
            reals = {n: real_like(n.meta["val"], make) for n in node.all_input_nodes}
            before = {n: [v.clone() for v in tensors(real)] for n, real in reals.items()}
            args, kwargs = as_written(fx.map_arg((node.args, node.kwargs), reals.__getitem__))
            if node.op == "call_module":
                value = self.really(root.get_submodule(str(node.target)), args, kwargs, make, watch)
            elif node.op == "call_method":
                with watch:
                    value = getattr(args[0], str(node.target))(*args[1:], **kwargs)
            else:
                assert callable(node.target)
                with watch:
                    value = self.called(node.target, args, kwargs)
        # Compared by value: NumPy may have written into them.
        same = {n: all(map(torch.equal, before[n], tensors(real))) for n, real in reals.items()}
        kept = {n for n, real in reals.items() if self._keeps(tensors(real))}
        return value, kept | {n for n, real in reals.items() if watch.wrote_into(*tensors(real)) or not same[n]}

    def _keeps(self, values: Iterable[Tensor]) -> bool:
        """Whether a buffer is now in the memory of one of these: a later call may write into it."""
        bound = {memory(b) for b in self.bound} - {None}
        return any(memory(v) in bound for v in values)

    def called(self, code: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """What a function returns; what it keeps is undone."""
        with self._undone(code):
            return code(*args, **kwargs)

    def really(
        self,
        module: nn.Module,
        args: Any,
        kwargs: Any,
        make: Callable[..., Tensor] = torch.rand,
        watch: AbstractContextManager[Any] | None = None,
    ) -> Any:
        """What a copy of a module returns on real numbers; `changed` says whether it wrote into buffers.

        `watch` sees what the module does, and nothing of how its numbers are made.
        """
        if any(isinstance(t, FakeTensor) for t in [*whole(module).parameters(), *whole(module).buffers()]):
            raise RuntimeError("what it returns depends on its weights, which are not there")
        with torch.random.fork_rng(devices=[]):
            copied = _filled(copy.deepcopy(module), make)
            args, kwargs = real_like(args, make), real_like(kwargs, make)
            held = list(whole(copied).buffers())
            with watch or nullcontext(), uncompiled(), self._undone(whole(copied)), Writing() as wrote:
                value = copied(*args, **kwargs)
        now = list(whole(copied).buffers())
        self.changed |= wrote.wrote_into(*held) or list(map(id, now)) != list(map(id, held))
        self.bound += _others(now, held)
        return value


def _others(now: Iterable[Tensor], before: Iterable[Tensor]) -> list[Tensor]:
    """Those tensors that were not there before."""
    known = set(map(id, before))
    return [t for t in now if id(t) not in known]


def _filled(module: nn.Module, make: Callable[..., Tensor]) -> nn.Module:
    """The module with numbers where it has no memory: enough for shapes."""
    for m in whole(module).modules():
        for held in (m._parameters, m._buffers, m.__dict__):
            for name, tensor in held.items():
                if isinstance(tensor, Tensor) and tensor.is_meta:
                    value = real_like(tensor.detach(), make)
                    held[name] = nn.Parameter(value, tensor.requires_grad) if held is m._parameters else value
    return module


def real_like(tree: Any, make: Callable[..., Tensor]) -> Any:
    """A structure with real tensors in place of fake ones; whole numbers are zeros."""

    def real(v: Any) -> Any:
        if not isinstance(v, Tensor) or not (v.is_meta or isinstance(v, FakeTensor)):
            return v
        fill = make if is_differentiable(v) else torch.zeros
        return fill(v.shape, dtype=v.dtype, device="cpu" if v.is_meta else v.device)

    return mapped(real, tree)


def whole(module: nn.Module) -> nn.Module:
    """The module that holds the state: for a wrapper around a leaf, the leaf."""
    leaf = module.__dict__.get("leaf")
    return leaf if isinstance(leaf, nn.Module) else module


def _in_place(node: fx.Node) -> bool:
    """Whether a node's name says that it changes its input: what only changes its form counts as no write in torch."""
    name = str(node.target if node.op == "call_method" else getattr(node.target, "__name__", ""))
    return name.endswith("_") and not name.endswith("__")


def _functional_batch_norm(node: fx.Node) -> bool:
    """Whether the node is a functional batch norm that updates running statistics."""
    if node.op != "call_function" or getattr(node.target, "__name__", "") not in ("batch_norm", "instance_norm"):
        return False
    training = node.args[5] if len(node.args) > 5 else node.kwargs.get("training", node.kwargs.get("use_input_stats"))
    if isinstance(training, fx.Node):
        training = training.meta["val"]
    mean = node.args[1] if len(node.args) > 1 else node.kwargs.get("running_mean")
    return bool(training) and mean is not None


def is_differentiable(value: Tensor) -> bool:
    """Whether a tensor is of a type that has gradients.

    >>> is_differentiable(torch.zeros(2, dtype=torch.complex64)), is_differentiable(torch.arange(2))
    (True, False)
    """
    return value.is_floating_point() or value.is_complex()


def storages(node: fx.Node) -> frozenset[int]:
    """The identities of the storages that the node's value lives in (equal ids: one is a view of the other)."""
    identities = set()
    for value in tensors(node.meta.get("val")):
        if (identity := memory(value)) is not None:
            identities.add(identity)
    return frozenset(identities)
