"""Inputs to trace networks with, of the shape and type of a data set's samples."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdplan.ir.plan import Data


def example(data: Data, count: int) -> Tensor:
    """Inputs [count, ...] like those of a data set whose samples have one shape; all are zero.

    >>> from kdplan.ir.plan import Item
    >>> example(Data("words", Item("source"), shape=[5], whole=True), 2).dtype
    torch.int64
    """
    assert data.shape is not None, data.name
    return of_shape(data.shape, count, data.whole)


def of_shape(shape: Sequence[int], count: int, whole: bool) -> Tensor:
    """The same, of a shape; `whole` says whether inputs are whole numbers."""
    return torch.zeros(count, *shape, dtype=torch.long if whole else None)


def random_example(data: Data, count: int, seed: int = 0) -> Tensor:
    """The same with random numbers: normal ones, or 0 and 1 where inputs are whole numbers."""
    assert data.shape is not None, data.name
    generator = torch.Generator().manual_seed(seed)
    if data.whole:
        return torch.randint(0, 2, (count, *data.shape), generator=generator)
    return torch.randn(count, *data.shape, generator=generator)
