"""What a user's code keeps between calls outside of its networks: globals, closures, attributes of functions.

A phase neither stores nor resumes such values. They are put back after every run that is no step of training, so that
looking at a phase changes nothing.
"""

from __future__ import annotations

import sys
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import lru_cache
from types import CellType, FunctionType, MethodType, ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import _disable_current_modes

from kdplan.diagnostics.boundary import is_users
from kdplan.graph.state import LARGEST, Attributes, same

_HIDDEN = ("__builtins__", "__warningregistry__", "__annotations__")
_CacheType: Any = type(lru_cache(len))
"""Of what `lru_cache` and `cache` make: the next call computes again, as the first of a run does."""
_COMPILED = ("__compiled_fn_", "__resume_at_", "__import_", "__builtins_dict__")
"""What torch.compile puts into a module's globals, and its code reads there."""


def user_module(value: object) -> ModuleType | None:
    """The module of a user's file that a function, a class or an object's class is written in; None for others."""
    name = getattr(value, "__module__", None) or getattr(type(value), "__module__", None)
    module = value if isinstance(value, ModuleType) else sys.modules.get(name) if isinstance(name, str) else None
    file = getattr(module, "__file__", None)
    return module if module is not None and file is not None and is_users(file) else None


def is_object(value: object) -> bool:
    """Whether a value is an object of a user's class, or a namespace, with attributes of its own."""
    return isinstance(value, SimpleNamespace) or (user_module(type(value)) is not None and hasattr(value, "__dict__"))


@dataclass
class _Held:
    """What holds values by name: how to read and how to write it, with the values of before."""

    where: str
    names: dict[Any, Any]
    read: Callable[[], dict[Any, Any]]
    write: Callable[[dict[Any, Any]], None]


class Kept:
    """The values that functions, and all code of the user's that they can reach, keep; to see changes and undo them.

    Examples
    --------
    >>> def count(x, seen=[]):
    ...     seen.append(x)
    >>> before = Kept(count)
    >>> count(1)
    >>> before.changed()
    ['a default of count']
    >>> before.restore()
    >>> count.__defaults__
    ([],)
    """

    def __init__(self, *roots: object) -> None:
        self._roots = roots
        self._held: list[_Held] = []
        self._tensors: list[tuple[str, Tensor, Tensor]] = []
        self._arrays: list[tuple[str, Any, Any]] = []
        self._modules: list[tuple[str, Attributes]] = []
        self._caches: list[Any] = []
        self._parameters: list[tuple[str, nn.Parameter, Tensor | None]] = []
        self._seen: dict[int, object] = {}
        todo = [("", root) for root in roots]
        while todo:
            where, value = todo.pop()
            if id(value) not in self._seen:
                self._seen[id(value)] = value
                todo += self._visit(where, value)

    def changed(self) -> list[str]:
        """What holds other values than before, as words."""
        names = [
            f"{h.where}{name}" if isinstance(name, str) else h.where.rstrip(".")
            for h in self._held
            for name in _differing(h.names, h.read())
        ]
        with _disable_current_modes():  # these tensors are real
            names += [where for where, tensor, old in self._tensors if not _equal(tensor, old)]
        names += [where for where, array, old in self._arrays if not np.array_equal(array, old)]
        for where, attributes in self._modules:
            names += [f"{where}.{name}" for name in (*attributes.changed(), *attributes.rebound())]
        return list(dict.fromkeys(n for n in names if n))

    def graded(self) -> list[str]:
        """The parameters that have a gradient which they had not before."""
        return [where for where, p, before in self._parameters if before is None and p.grad is not None]

    def restore(self) -> None:
        """Give everything the values of before."""
        for held in self._held:
            if any(True for _ in _differing(held.names, held.read())):
                held.write(held.names)
        for _, attributes in self._modules:
            attributes.restore()
        with torch.no_grad(), _disable_current_modes():
            for _, tensor, old in self._tensors:
                if not _equal(tensor, old):
                    tensor.copy_(old)
        for _, array, old in self._arrays:
            array[...] = old
        for cache in self._caches:
            cache.cache_clear()
        for _, parameter, gradient in self._parameters:
            parameter.grad = gradient

    # ---- what there is

    def _visit(self, where: str, value: Any) -> Iterator[tuple[str, Any]]:
        if isinstance(value, _CacheType):
            self._caches.append(value)
            yield where, value.__wrapped__
        elif isinstance(value, FunctionType | MethodType):
            function: Any = value.__func__ if isinstance(value, MethodType) else value
            yield from self._function(function)
        elif isinstance(value, Tensor):
            if isinstance(value, nn.Parameter) and not value.is_meta:
                self._parameters.append((where, value, value.grad))
            real = not value.is_meta and not isinstance(value, FakeTensor) and value.layout is torch.strided
            if real and value.numel() * value.element_size() <= LARGEST:
                with _disable_current_modes():
                    self._tensors.append((where, value, value.detach().clone()))
        elif isinstance(value, np.ndarray):
            if value.nbytes <= LARGEST and value.flags.writeable and value.dtype != object:
                self._arrays.append((where, value, value.copy()))
        elif isinstance(value, list | set | deque | dict | tuple):
            yield from self._container(where, value)
        elif isinstance(value, nn.Module):
            self._modules.append((where, Attributes(value)))
            yield from ((f"{where}.{n}", b) for n, b in value.named_buffers())
            self._parameters += [(f"{where}.{n}", p, p.grad) for n, p in value.named_parameters()]
        elif isinstance(value, type | ModuleType):
            if user_module(value) is not None:
                yield from self._namespace("" if isinstance(value, ModuleType) else f"{value.__name__}.", value)
        elif is_object(value):
            yield from self._namespace(f"{where}.", value)

    def _function(self, function: FunctionType) -> Iterator[tuple[str, Any]]:
        module = user_module(function)
        users = module is not None or is_users(function.__code__.co_filename)
        if not users and not any(function is root for root in self._roots):
            return
        name = function.__name__
        for cell, variable in zip(function.__closure__ or (), function.__code__.co_freevars, strict=True):
            yield from self._cell(variable, cell)
        for value in (*(function.__defaults__ or ()), *(function.__kwdefaults__ or {}).values()):
            yield f"a default of {name}", value
        yield from self._dict(f"{name}.", vars(function))
        if module is not None:
            yield "", module
        elif users:
            yield from self._dict("", function.__globals__)

    def _cell(self, name: str, cell: CellType) -> Iterator[tuple[str, Any]]:
        def read() -> dict[str, Any]:
            try:
                return {name: cell.cell_contents}
            except ValueError:  # not bound yet
                return {}

        def write(names: dict[str, Any]) -> None:
            if names:
                cell.cell_contents = names[name]

        self._held.append(_Held("", read(), read, write))
        yield from read().items()

    def _namespace(self, where: str, owner: Any) -> Iterator[tuple[str, Any]]:
        if not isinstance(owner, type):
            yield from self._dict(where, vars(owner))
            return

        def read() -> dict[str, Any]:
            return {n: v for n, v in vars(owner).items() if not n.startswith("__")}

        def write(names: dict[str, Any]) -> None:
            for name in read().keys() - names.keys():
                delattr(owner, name)
            for name, value in names.items():
                if vars(owner).get(name) is not value:
                    setattr(owner, name, value)

        self._held.append(_Held(where, read(), read, write))
        yield from ((f"{where}{n}", v) for n, v in read().items())

    def _dict(self, where: str, names: dict[str, Any]) -> Iterator[tuple[str, Any]]:
        if id(names) in self._seen:
            return
        self._seen[id(names)] = names

        def read() -> dict[str, Any]:
            return {n: v for n, v in names.items() if n not in _HIDDEN and not str(n).startswith(_COMPILED)}

        before = read()

        def write(values: dict[str, Any]) -> None:
            for name in read().keys() - values.keys():
                del names[name]
            names.update(values)

        self._held.append(_Held(where, before, read, write))
        yield from ((f"{where}{n}", v) for n, v in before.items())

    def _container(self, where: str, value: Any) -> Iterator[tuple[str, Any]]:
        items = list(value.values() if isinstance(value, dict) else value)
        if not isinstance(value, tuple):
            kept = value.copy()

            def write(_: object) -> None:
                value.clear()
                value.extend(kept) if isinstance(value, list | deque) else value.update(kept)

            self._held.append(_Held(f"{where}.", {0: kept}, lambda: {0: value}, write))
        yield from ((where, item) for item in items)


def _equal(a: Tensor, b: Tensor) -> bool:
    """Whether two tensors of one shape hold the same numbers; batch norm writes without a new version."""
    return torch.equal(a, b) or (a.is_floating_point() and torch.allclose(a, b, rtol=0, atol=0, equal_nan=True))


def _differing(before: dict[Any, Any], now: dict[Any, Any]) -> Iterator[Any]:
    """The names of values that are others; what was imported or defined in the meantime is no value."""
    for name, old in before.items():
        if name not in now or not (now[name] is old or same(now[name], old)):
            yield name
    for name in now.keys() - before.keys():
        if not isinstance(now[name], ModuleType | FunctionType | type):
            yield name


def functions_of(module: nn.Module) -> list[object]:
    """What a user wrote of a network: its classes, those that they extend, and functions that it holds."""
    parts = [m for m in module.modules() if user_module(type(m)) is not None]
    classes = [c for m in parts for c in type(m).__mro__ if user_module(c) is not None]
    given = [v for m in parts for v in vars(m).values() if isinstance(v, FunctionType)]
    return [*dict.fromkeys([*(type(m).forward for m in parts), *classes, *given])]


def code_of(module: nn.Module) -> list[object]:
    """What to undo around a call that is no step of training: a network's functions, and the objects that it keeps.

    Attributes that are plain values, tensors or modules are `Attributes`' to see.
    """
    parts = [m for m in module.modules() if user_module(type(m)) is not None]
    held = [v for m in parts for n, v in vars(m).items() if not n.startswith("_")]
    return [*functions_of(module), *(v for v in held if not isinstance(v, Tensor | nn.Module | FunctionType))]


@contextmanager
def undone(*roots: object) -> Iterator[Kept]:
    """Inside, the code may change what it keeps; afterwards that is as before."""
    before = Kept(*roots)
    try:
        yield before
    finally:
        before.restore()
