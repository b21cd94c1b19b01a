"""Which samples of a step each process computes, where several train one phase in any order of sums (`parallel.py`).

A step's batch is cut as on one process: into parts of `batch` samples, one after another, and each part into shards.
Without `shards` in the recipe there is one for each process.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdplan.ir.plan import Recipe


@dataclass(frozen=True)
class Slot:
    """One forward and backward of a process.

    Attributes
    ----------
    number
        Of the shard in its step: what its draws follow from.
    part
        Number of the part that the shard is of.
    rows
        Of each stream the samples, by their numbers in the step's batch.
    share, share_of_part
        Part of the step's and of the part's samples; 0 where another process counts them.
    """

    number: int
    part: int
    rows: tuple[range, ...]
    share: float
    share_of_part: float


@dataclass(frozen=True)
class Division:
    """How the steps of a phase are divided among processes.

    Attributes
    ----------
    sizes, batches
        Of each stream the samples in all, and those of a step.
    part
        Samples of the first stream that are computed at once, by all processes together.
    shards
        Into which a part is cut, or fewer where it has fewer samples.
    rank, ranks
        This process, and how many there are.
    drop_last
        Whether an incomplete last batch is left out.

    Examples
    --------
    >>> [Division((10,), (6,), 6, 2, rank, 2).slots(1)[0].rows for rank in (0, 1)]
    [(range(0, 2),), (range(2, 4),)]
    """

    sizes: tuple[int, ...]
    batches: tuple[int, ...]
    part: int
    shards: int
    rank: int
    ranks: int
    drop_last: bool = False

    @staticmethod
    def of(recipe: Recipe, sizes: Sequence[int], rank: int, ranks: int) -> Division:
        """The division of a phase whose streams have so many samples."""
        batches = tuple(recipe.batch_of(n) * recipe.accumulate for n in range(len(sizes)))
        shards = recipe.shards if recipe.shards > 1 else ranks
        return Division(tuple(sizes), batches, recipe.batch_of(), shards, rank, ranks, recipe.drop_last)

    def samples(self, step: int) -> tuple[int, ...]:
        """Samples of each stream in a step, counted from the phase's first.

        >>> Division((10, 9), (4, 4), 4, 2, 0, 2).samples(5)
        (2, 1)
        """
        steps = [
            max(1, n // b if self.drop_last else -(-n // b)) for n, b in zip(self.sizes, self.batches, strict=True)
        ]
        return tuple(min(b, n - step % s * b) for n, b, s in zip(self.sizes, self.batches, steps, strict=True))

    def slots(self, step: int) -> list[Slot]:
        """What this process computes in a step: as many slots as every other, some of which count nothing.

        >>> [(s.rows[0], s.share) for s in Division((3,), (3,), 3, 4, 2, 3).slots(0)]
        [(range(2, 3), 0.0), (range(2, 3), 0.0)]
        >>> [s.rows[0] for s in Division((8,), (8,), 4, 2, 1, 2).slots(0)]
        [range(2, 4), range(6, 8)]
        """
        whole = self.samples(step)
        count = -(-whole[0] // self.part)
        first = [range(at, min(at + self.part, whole[0])) for at in range(0, whole[0], self.part)]
        others = [list(_even(range(n), count)) for n in whole[1:]]
        own = list(_even(range(self.shards), self.ranks))[self.rank]
        slots = []
        for part, rows in enumerate(zip(first, *others, strict=True)):
            shards = min(self.shards, len(rows[0]))
            pieces = list(zip(*(_even(r, shards) for r in rows), strict=True))
            for at in range(-(-self.shards // self.ranks)):
                counts = at < len(own) and own[at] < shards
                shard = own[at] if counts else shards - 1
                size = len(pieces[shard][0]) if counts else 0
                number = part * self.shards + shard
                slots.append(Slot(number, part, pieces[shard], size / whole[0], size / len(rows[0])))
        return slots

    def rows(self, stream: int, step: int) -> Tensor:
        """The samples of a stream that this process reads for a step, int64 [n], in the order of its slots."""
        rows = [torch.arange(s.rows[stream].start, s.rows[stream].stop) for s in self.slots(step)]
        return torch.cat(rows)


def _even(rows: range, count: int) -> Iterator[range]:
    """A range in `count` pieces, the first of which may be longer by one.

    >>> list(_even(range(2, 7), 2))
    [range(2, 5), range(5, 7)]
    """
    least, more = divmod(len(rows), count)
    at = rows.start
    for number in range(count):
        size = least + (number < more)
        yield range(at, at + size)
        at += size
