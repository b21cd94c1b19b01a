"""What networks return: tensors in tuples, mappings and data classes, in any depth."""

from __future__ import annotations

import copy
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


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a structure, in order."""
    return [v for _, v in leaves(value) if isinstance(v, Tensor)]


def writes(tensor: Tensor) -> int:
    """How often a tensor was written into; of what inference mode computes nobody counts it."""
    return 0 if tensor.is_inference() else tensor._version
