"""Which samples of a step a rank reads: those of its own shards. Others are not decoded, and are zeros in its batch."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from kdplan.ir.lengths import steps_per_epoch
from kdplan.ir.plan import Recipe
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.shards import cut
from kdplan.runtime.streams import samples, split


@dataclass(frozen=True)
class OwnRows:
    """The rows of one stream's batches that a rank's shards read.

    Attributes
    ----------
    recipe
    sizes
        Samples of each stream.
    stream
        The number of the stream.
    rank, ranks
        This process and the number of all.

    Examples
    --------
    >>> from kdplan.ir.plan import Item
    >>> recipe = Recipe(Item("sgd"), batch=6, accumulate=2, shards=4)
    >>> [OwnRows(recipe, (15,), 0, rank, 2)(step=0).tolist() for rank in range(2)]
    [[0, 1, 2, 3, 6, 7, 8, 9], [4, 5, 10, 11]]
    >>> OwnRows(recipe, (15,), 0, 1, 2)(step=1).tolist()  # three samples, which are fewer than shards
    [0, 1, 2]
    """

    recipe: Recipe
    sizes: tuple[int, ...]
    stream: int
    rank: int
    ranks: int

    def __call__(self, step: int) -> Tensor:
        """Rows of the batch of a step, counted from the first of the phase; int64 [n], in ascending order."""
        lengths = [self._samples(stream, step) for stream in range(len(self.sizes))]
        batch = {f"inputs_{stream}": torch.arange(length) for stream, length in enumerate(lengths)}
        mine = Ranks(self.rank, self.ranks).shards_of(self.recipe.shards)
        rows = []
        for part in split(batch, self.recipe.batch_of()):
            few = samples(part) < self.recipe.shards  # then a rank may compute all shards
            pieces = [part] if few else cut(part, self.recipe.shards)[mine.start : mine.stop]
            rows += [piece[f"inputs_{self.stream}"] for piece in pieces]
        own = torch.cat(rows)
        return own if len(own) else batch[f"inputs_{self.stream}"]

    def _samples(self, stream: int, step: int) -> int:
        """Samples of a stream's batch in a step."""
        full = self.recipe.batch_of(stream) * self.recipe.accumulate
        at = step % max(1, steps_per_epoch(self.recipe, self.sizes[stream], stream))
        return min(full, self.sizes[stream] - at * full)
