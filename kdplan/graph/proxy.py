"""Proxies that know their fake value and answer Python's questions from it."""

from __future__ import annotations

import operator
import sys
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.proxy import Attribute

from kdplan.graph.callers import check_caller
from kdplan.graph.guards import GuardingTracer
from kdplan.graph.impure import HOOKS


class ValueProxy(fx.Proxy):
    """A value during tracing: operations on it are recorded; questions about it are answered, and the answer guarded.

    `if`, `len`, `int`, `in`, unpacking and `isinstance` see the fake value; arithmetic on sizes stays in the graph, so
    that a graph traced at one batch size holds at another.
    """

    tracer: GuardingTracer

    @property
    def __class__(self) -> type:
        value = self.node.meta["val"]
        if not isinstance(value, Tensor):
            return type(value)
        check_caller(sys._getframe(1))
        return Tensor

    @__class__.setter
    def __class__(self, _: type) -> None:
        raise TypeError("the class of a traced value cannot be set")

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        value = self.node.meta["val"]
        if not (hasattr(type(value), name) or hasattr(value, name)):
            raise AttributeError(f"{type(value).__name__} has no attribute {name}")
        if isinstance(value, Tensor) and name in HOOKS:
            self.tracer.note(HOOKS[name])
        if isinstance(value, dict) and name in ("items", "values", "keys"):
            return lambda: _dict_view(self, name)
        attribute = ValueAttribute(self, name)
        # Methods stay lazy (they become call_method nodes); plain attributes are looked up now, which lets the
        # tracer give constants (a rank, a parameter's shape) as they are.
        kind = getattr(type(value), name, None)
        return attribute if callable(kind) else self.tracer.create_proxy("call_function", getattr, (self, name), {})

    def __copy__(self) -> Any:
        raise TypeError("`copy` cannot copy a traced value")  # so that its module is called whole

    def __deepcopy__(self, memo: dict[int, Any]) -> Any:
        raise TypeError("`copy.deepcopy` cannot copy a traced value")

    def __hash__(self) -> int:
        value = self.node.meta["val"]
        return id(self) if isinstance(value, Tensor) else hash(value)

    def __bool__(self) -> bool:
        return bool(self.tracer.answer(self.node, "bool", bool))

    def __int__(self) -> int:
        return int(self.tracer.answer(self.node, "int", int))

    def __index__(self) -> int:
        return int(self.tracer.answer(self.node, "int", int))

    def __float__(self) -> float:
        return float(self.tracer.answer(self.node, "float", float))

    def __len__(self) -> int:
        return int(self.tracer.answer(self.node, "len", len))

    def __iter__(self) -> Iterator[Any]:
        if isinstance(self.node.meta["val"], dict):
            return iter(list(self.node.meta["val"]))
        return iter([self[i] for i in range(len(self))])

    def __contains__(self, item: object) -> bool:
        if isinstance(self.node.meta["val"], dict):
            return item in self.node.meta["val"]
        return any(bool(item == self[i]) for i in range(len(self)))

    def __getitem__(self, index: Any) -> Any:
        return self.tracer.create_proxy("call_function", operator.getitem, (self, index), {})

    def __round__(self, digits: int | None = None) -> Any:
        args = (self,) if digits is None else (self, digits)
        return self.tracer.create_proxy("call_function", round, args, {})

    def __divmod__(self, other: Any) -> tuple[Any, Any]:
        return self // other, self % other

    def __setitem__(self, index: Any, value: Any) -> None:
        self.tracer.create_proxy("call_function", operator.setitem, (self, index, value), {})

    def _in_place(self, op: Callable[[Any, Any], Any], plain: Callable[[Any, Any], Any], other: Any) -> Any:
        # `self.buffer += …` writes into the buffer; elsewhere a new value is as good, and lets taps stay as they are.
        if isinstance(self.node.meta["val"], Tensor) and self.tracer.is_state(self.node):
            return self.tracer.create_proxy("call_function", op, (self, other), {})
        return plain(self, other)

    def __iadd__(self, other: Any) -> Any:
        return self._in_place(operator.iadd, operator.add, other)

    def __isub__(self, other: Any) -> Any:
        return self._in_place(operator.isub, operator.sub, other)

    def __imul__(self, other: Any) -> Any:
        return self._in_place(operator.imul, operator.mul, other)

    def __itruediv__(self, other: Any) -> Any:
        return self._in_place(operator.itruediv, operator.truediv, other)

    def keys(self) -> Any:
        """The keys of a traced dict, as Python values."""
        return _dict_view(self, "keys")


class ValueAttribute(Attribute, ValueProxy):
    """A method of a traced value that is not called yet."""

    def __repr__(self) -> str:
        return f"{self.root!r}.{self.attr}"


def _dict_view(proxy: ValueProxy, name: str) -> list[Any]:
    keys = list(proxy.node.meta["val"])
    if name == "keys":
        return keys
    return [(k, proxy[k]) if name == "items" else proxy[k] for k in keys]


def is_plain(value: object) -> bool:
    """Whether a value that depends on no input may leave the graph (a device or type must follow the network)."""
    return isinstance(value, int | float | str | bool | torch.Size | tuple) and not isinstance(value, torch.dtype)
