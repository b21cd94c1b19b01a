"""What a network gives, where it is more than one tensor: one rule says which part are its scores."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from typing import Any, cast

from torch import Tensor, nn

Index = tuple[int | str, ...]
"""The way to a part of a structure: keys of mappings, names of fields, positions."""

NAMES = ("logits", "out")
"""What networks call their scores."""


def children(value: object) -> list[tuple[int | str, object]] | None:
    """The parts of a mapping, tuple, list or dataclass with their keys; None for anything else.

    >>> children({"logits": 1, "aux": 2}), children((3, 4)), children(5)
    ([('logits', 1), ('aux', 2)], [(0, 3), (1, 4)], None)
    """
    if (parts := named_parts(value)) is not None:
        return list(parts.items())
    if isinstance(value, tuple | list):
        keys: Iterable[Any] = getattr(type(value), "_fields", None) or range(len(value))
        return list(zip(keys, value, strict=True))
    return None


def named_parts(value: object) -> dict[str, Any] | None:
    """The parts of a mapping or a dataclass by name; None for anything else.

    >>> named_parts({"logits": 1}), named_parts([1])
    ({'logits': 1}, None)
    """
    if isinstance(value, Mapping):
        return {str(k): v for k, v in value.items()}
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: getattr(value, f.name) for f in fields(value)}
    return None


def leaves(value: object, index: Index = ()) -> list[tuple[Index, object]]:
    """Everything in a structure that is no container, with the way to it; None is nothing."""
    inner = children(value)
    if inner is None:
        return [] if value is None else [(index, value)]
    return [leaf for key, child in inner for leaf in leaves(child, (*index, key))]


def scores_index(indices: Iterable[Index]) -> Index:
    """Which of several tensors are the scores: the first that is called `logits` or `out`, or else the first.

    >>> scores_index([("aux",), ("logits",)]), scores_index([(0,), (1,)]), scores_index([()])
    (('logits',), (0,), ())
    """
    known = list(indices)
    return next((i for i in known if i and i[-1] in NAMES), known[0])


def scores(value: object) -> Tensor:
    """The scores among what a network gives.

    Raises
    ------
    TypeError
        If it gives nothing.

    Examples
    --------
    >>> import torch
    >>> scores({"features": torch.ones(2, 8), "logits": torch.zeros(2, 3)}).shape
    torch.Size([2, 3])
    """
    parts = dict(leaves(value))
    if not parts:
        raise TypeError("the network gives no tensor")
    return cast(Tensor, parts[scores_index(parts)])


class Scores(nn.Module):
    """A network that gives its scores only; its parameters keep their names behind `net.`."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, *inputs: Tensor) -> Tensor:
        """The network's inputs -> scores [B, C]."""
        return scores(self.net(*inputs))
