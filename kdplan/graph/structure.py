"""What networks return: tensors in tuples, mappings and data classes, in any depth."""

from __future__ import annotations

import copy
from collections import deque
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, fx
from torch.utils._pytree import tree_map

from kdplan.nn.outputs import leaves, named_parts


def opened(value: Any) -> Any:
    """The structure with dicts instead of mappings and data classes, which torch takes for single values.

    >>> from dataclasses import make_dataclass
    >>> Output = make_dataclass("Output", ["logits", "more"])
    >>> opened([Output(1, Output(2, None))])
    [{'logits': 1, 'more': {'logits': 2, 'more': None}}]
    """
    if (parts := _parts(value)) is not None:
        return {name: opened(part) for name, part in parts.items()}
    return tree_map(lambda v: opened(v) if _parts(v) is not None else v, value)


def _parts(value: object) -> dict[str, Any] | None:
    return None if isinstance(value, fx.Proxy | Tensor | fx.Node) else named_parts(value)


def mapped(fn: Callable[[Any], Any], value: Any) -> Any:
    """The structure with `fn` of every single value in it; data classes become others of their class.

    >>> from dataclasses import make_dataclass
    >>> mapped(lambda v: v + 1, {"a": make_dataclass("Output", ["logits"])(1)})
    {'a': Output(logits=2)}
    """

    def single(v: Any) -> Any:
        parts = _parts(v)
        if parts is None:
            return fn(v)
        new = copy.copy(v)
        for name, part in parts.items():
            if isinstance(new, Mapping):
                new[name] = mapped(fn, part)  # type: ignore[index]
            else:
                object.__setattr__(new, name, mapped(fn, part))  # it may be frozen
        return new

    return tree_map(single, value)


def with_tensors(value: Any, fn: Callable[[Tensor], Any], opens: Callable[[object], bool]) -> Any:
    """The value with `fn` of every tensor that it holds, in copies of what holds them; else the value itself.

    Tensors are looked for in lists, tuples, dictionaries and queues, and in objects that `opens` allows.

    >>> import torch
    >>> kept = {"a": [torch.ones(2)], "b": [1]}
    >>> new = with_tensors(kept, lambda t: t.sum().item(), lambda _: False)
    >>> new, kept["a"][0].sum().item(), new["b"] is kept["b"]
    ({'a': [2.0], 'b': [1]}, 2.0, True)
    """
    done: dict[int, Any] = {}

    def of(v: Any) -> Any:
        if isinstance(v, Tensor):
            return fn(v)
        if not (type(v) in (list, tuple, dict, deque) or opens(v)):
            return v
        if id(v) in done:
            return done[id(v)]
        done[id(v)] = v  # of a circle the rest stays
        parts = v if isinstance(v, dict) else vars(v) if opens(v) else dict(enumerate(v))
        new = {key: of(part) for key, part in parts.items()}
        if any(new[key] is not part for key, part in parts.items()):
            done[id(v)] = _rebuilt(v, new)
        return done[id(v)]

    return of(value)


def _rebuilt(value: Any, parts: dict[Any, Any]) -> Any:
    if type(value) in (list, tuple, deque):
        return type(value)(parts.values())
    if type(value) is dict:
        return parts
    new = copy.copy(value)
    vars(new).update(parts)
    return new


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a structure, in order."""
    return [v for _, v in leaves(value) if isinstance(v, Tensor)]


def writes(tensor: Tensor) -> int:
    """How often a tensor was written into; of what inference mode computes nobody counts it."""
    return 0 if tensor.is_inference() else tensor._version


def as_written(arguments: Any) -> Any:
    """Arguments of a node with lists and dictionaries as Python code has them: those of a graph cannot be changed.

    >>> kept = fx.Graph().call_function(sum, ([1, 2],)).args
    >>> type(kept[0]).__name__, type(as_written(kept)[0]).__name__
    ('immutable_list', 'list')
    """
    if isinstance(arguments, list):
        return [as_written(a) for a in arguments]
    if isinstance(arguments, dict):
        return {k: as_written(a) for k, a in arguments.items()}
    return tuple(map(as_written, arguments)) if type(arguments) is tuple else arguments
