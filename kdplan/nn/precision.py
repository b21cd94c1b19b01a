"""Average precision within groups of classes, exact, without ever holding all scores.

For 5 million images and 100,000 classes all scores would be 2 TB. The precision at a positive's rank only needs to know
how many images score at least as high, so the positives' scores are gathered in a first pass over the data, and in a
second one every score of every image is placed among them and counted.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdplan.nn.metric import Metric


class GroupPrecision(Metric):
    """Mean over groups of the mean average precision of a group's classes on its own images, in percent.

    Outputs are cut to the group's classes. Average precision is that of scikit-learn, ties included; classes without
    images do not count. Reads the data twice: `update` with every batch, `again`, and `update` with every batch.

    Parameters
    ----------
    groups : sequence of sequences of int
        The classes of each group, by default one of all classes. Images whose label is in none are left out.
    part : int, optional
        Only this group.

    Examples
    --------
    >>> m = GroupPrecision([[0, 1]])
    >>> x, y = torch.tensor([[0.9, 0.1], [0.8, 0.2], [0.3, 0.7]]), torch.tensor([0, 1, 1])
    >>> for _ in range(2):
    ...     m.update(x, y)
    ...     m.again()
    >>> m.compute()
    100.0
    """

    passes = 2

    def __init__(
        self, groups: Sequence[Sequence[int]] = (), part: int | None = None, probabilities: bool = False
    ) -> None:
        super().__init__(probabilities)
        if part is not None and groups and not 0 <= part < len(groups):
            raise ValueError(f"there is no group {part}; there are {len(groups)}")
        self.groups = [list(g) for i, g in enumerate(groups) if part is None or i == part]
        self._own: list[tuple[Tensor, Tensor]] = []
        self._positives: list[Tensor] | None = None
        self._counts: list[Tensor] = []
        self._group_of: Tensor | None = None

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Takes one batch ``[B, C], [B]``: own scores in the first pass, counts of others' in the second."""
        outputs, labels = outputs.detach(), labels.long()
        if self._group_of is None:
            self.groups = self.groups or [[*range(outputs.shape[1])]]
            self._group_of = torch.full((outputs.shape[1],), -1, device=outputs.device)
            for i, ids in enumerate(self.groups):
                self._group_of[torch.tensor(ids, device=outputs.device)] = i
        if self._positives is None:
            self._own.append((labels, outputs.gather(1, labels.unsqueeze(1)).squeeze(1)))
            self.count += len(outputs)
            return
        group_of = self._group_of[labels]
        for i, ids in enumerate(self.groups):
            rows = (group_of == i).nonzero().squeeze(1)
            if not len(rows):
                continue
            columns = torch.tensor(ids, device=outputs.device)
            scores = outputs[rows].index_select(1, columns).t().contiguous()
            ranks = torch.searchsorted(self._positives[i], scores, right=True)
            self._counts[i].scatter_add_(1, ranks, torch.ones_like(ranks))

    def again(self) -> None:
        """Between the passes: sorts the scores that images have for their own class."""
        if self._positives is not None or not self._own:
            return
        labels = torch.cat([y for y, _ in self._own])
        scores = torch.cat([s for _, s in self._own])
        self._own = []
        order = scores.argsort(stable=True)
        order = order[labels[order].argsort(stable=True)]
        assert self._group_of is not None
        sizes = torch.bincount(labels, minlength=len(self._group_of))
        starts = sizes.cumsum(0) - sizes
        self._positives, self._counts = [], []
        for ids in self.groups:
            columns = torch.tensor(ids, device=scores.device)
            most = int(sizes[columns].max())
            column = torch.arange(most, device=scores.device)
            at = (starts[columns].unsqueeze(1) + column).clamp(max=len(scores) - 1)
            table = scores[order[at]].masked_fill(column >= sizes[columns].unsqueeze(1), torch.inf)
            self._positives.append(table.contiguous())
            self._counts.append(torch.zeros(len(ids), most + 1, dtype=torch.long, device=scores.device))

    def merge(self, other: Metric) -> None:
        """Adds what another one has seen in the same pass."""
        assert isinstance(other, GroupPrecision)
        self._own += other._own
        self.count += other.count
        self._counts = [a + b for a, b in zip(self._counts, other._counts, strict=True)]

    def compute(self) -> float:
        """The mean over groups with images, in percent.

        Raises
        ------
        ValueError
            If there were no samples, or none of these groups.
        """
        if not self._counts or self.count == 0:
            raise ValueError("a metric of no samples has no value")
        precisions = [p for p in self.precisions() if p is not None]
        if not precisions:
            raise ValueError("no image is of a class of these groups")
        return sum(precisions) / len(precisions)

    def precisions(self) -> list[float | None]:
        """The mean average precision of each group, in percent; None for one without images."""
        assert self._positives is not None
        precisions: list[float | None] = []
        for table, counts in zip(self._positives, self._counts, strict=True):
            here = table.isfinite()
            # An image that is placed behind p positives scores at least as high as each of them.
            above = counts.flip(1).cumsum(1).flip(1)[:, 1:]
            positives = here.sum(dim=1, keepdim=True)
            first = torch.searchsorted(table, table, right=False)  # of equal scores all count
            precision = (positives - first).double() / above.clamp(min=1)
            each = (precision * here).sum(dim=1) / positives.squeeze(1).clamp(min=1)
            known = positives.squeeze(1) > 0
            precisions.append(100.0 * each[known].mean().item() if bool(known.any()) else None)
        return precisions

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """Not used: what a batch adds depends on the pass."""
        raise NotImplementedError("what a batch adds depends on the pass")
