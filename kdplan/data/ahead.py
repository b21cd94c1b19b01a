"""What is made ahead of its use: random numbers for a whole batch, and the next batches themselves."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

import torch
from torch import Tensor

from kdplan.data.augment import Numbers, Words

T = TypeVar("T")

DEPTH = 2
"""Batches that wait at most."""


class BatchNumbers(Numbers):
    """`Numbers` that are drawn for a batch at once, and then looked up for one sample after another.

    Drawing costs as much for one sample as for a hundred.

    Parameters
    ----------
    indices : Tensor
        int64 [B] on the CPU, the samples of the batch.
    seed, epoch, stream : int

    Examples
    --------
    >>> batch = BatchNumbers(torch.tensor([3, 7]), 0, 0)
    >>> [int(w) for w in batch.words(torch.tensor([7]), slot=1)]
    [774352997, 223576231, 133681510, 660800035]
    """

    def __init__(self, indices: Tensor, seed: int, epoch: int, stream: int = 0) -> None:
        super().__init__(seed, epoch, stream)
        self._indices = indices
        self._rows = {index: row for row, index in enumerate(indices.tolist())}
        self._drawn: dict[int, Tensor] = {}

    def words(self, index: Tensor, slot: int) -> Words:
        """Four 32-bit words of one sample of the batch: index int64 [1] -> int64 [1] each."""
        if slot not in self._drawn:
            self._drawn[slot] = torch.stack(super().words(self._indices, slot))
        row = self._rows[int(index)]
        a, b, c, d = self._drawn[slot][:, row : row + 1].unbind(0)
        return a, b, c, d


def ahead(makers: Iterable[Callable[[], T]]) -> Iterator[T]:
    """What each of `makers` gives, in order; a thread calls the next ones while the last result is in use.

    An exception of a maker is raised when its turn comes, and no later maker is called then. Where the iterator is
    closed, those that were not begun are not called.

    Examples
    --------
    >>> list(ahead([lambda: 1, lambda: 2]))
    [1, 2]
    """
    pool = ThreadPoolExecutor(1, "batches")
    waiting: deque[Future[T]] = deque()
    try:
        for make in makers:
            waiting.append(pool.submit(make))
            if len(waiting) > DEPTH:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(cancel_futures=True)
