"""What networks return: tensors in tuples, mappings and data classes, in any depth."""

from __future__ import annotations

import copy
from collections.abc import Callable
from dataclasses import fields, is_dataclass
from typing import Any

from torch import Tensor
from torch.utils._pytree import tree_leaves, tree_map


def opened(value: Any) -> Any:
    """The structure with dicts of their fields instead of data classes, which torch takes for single values.

    >>> from dataclasses import make_dataclass
    >>> Output = make_dataclass("Output", ["logits", "more"])
    >>> opened([Output(1, Output(2, None))])
    [{'logits': 1, 'more': {'logits': 2, 'more': None}}]
    """
    return tree_map(_opened, value)


def _opened(value: Any) -> Any:
    if not _is_record(value):
        return value
    return {f.name: opened(getattr(value, f.name, None)) for f in fields(value)}


def _is_record(value: object) -> bool:
    return is_dataclass(value) and not isinstance(value, type | Tensor)


def mapped(fn: Callable[[Any], Any], value: Any) -> Any:
    """The structure with `fn` of every single value in it; data classes become others of their class.

    >>> from dataclasses import make_dataclass
    >>> mapped(lambda v: v + 1, {"a": make_dataclass("Output", ["logits"])(1)})
    {'a': Output(logits=2)}
    """

    def single(v: Any) -> Any:
        if not _is_record(v):
            return fn(v)
        new = copy.copy(v)
        for f in fields(v):
            object.__setattr__(new, f.name, mapped(fn, getattr(v, f.name, None)))  # it may be frozen
        return new

    return tree_map(single, value)


def tensors(value: Any) -> list[Tensor]:
    """The tensors in a structure, in order."""
    return [v for v in tree_leaves(opened(value)) if isinstance(v, Tensor)]


def writes(tensor: Tensor) -> int:
    """How often a tensor was written into; of what inference mode computes nobody counts it."""
    return 0 if tensor.is_inference() else tensor._version
