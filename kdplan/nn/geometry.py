"""How a network lays classes and superclasses out in its feature space: angles between their mean features."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdplan.nn.metric import Metric, spatial_mean


class Means(Metric):
    """Mean features of classes, from which an angle is read; maps are averaged over positions first.

    Parameters
    ----------
    groups : sequence of sequences of int
        The classes of each superclass. Classes in none, and those without samples, count nowhere.

    References
    ----------
    Yang et al.: Training deep neural networks in generations (2019), Equation 4.
    """

    def __init__(self, groups: Sequence[Sequence[int]] = (), probabilities: bool = False) -> None:
        super().__init__(probabilities)
        self.groups = [list(members) for members in groups if len(members)]
        self.classes = 1 + max((i for members in self.groups for i in members), default=-1)

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, D, ...], [B] -> [C, D + 1]``: sums of features, and counts of samples."""
        x = spatial_mean(outputs).double()
        x = torch.cat([x, torch.ones_like(x[:, :1])], dim=1)
        labels = labels.long()
        known = labels < self.classes
        sums = torch.zeros(self.classes, x.shape[1], dtype=torch.float64, device=x.device)
        return sums.index_add_(0, labels[known], x[known])

    def means(self, total: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Means of classes [c, D], the superclass [c] of each, and means of superclasses [s, D]."""
        total = total.cpu()
        classes: list[Tensor] = []
        owners: list[int] = []
        above: list[Tensor] = []
        for members in self.groups:
            there = [i for i in members if total[i, -1] > 0]
            if there:
                owners += [len(above)] * len(there)
                classes += [total[i, :-1] / total[i, -1] for i in there]
                sums = total[there].sum(dim=0)
                above.append(sums[:-1] / sums[-1])
        if not above:
            raise ValueError("there are no samples of any superclass")
        return torch.stack(classes), torch.tensor(owners), torch.stack(above)


class ClassDistance(Means):
    """Mean angle, in radians, between a class's mean feature and its superclass's ("DistC").

    ``mean_i arccos <v_i, v_s(i)>`` of normalised means.

    Examples
    --------
    >>> m = ClassDistance([[0, 1]])
    >>> m.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    >>> round(m.compute(), 4)  # 45 degrees
    0.7854
    """

    def result(self, total: Tensor) -> float:
        """The mean angle in radians, from sums and counts of features."""
        classes, owners, above = self.means(total)
        return angles(classes, above[owners]).mean().item()


class SuperclassDistance(Means):
    """Mean angle, in radians, between a superclass's mean feature and the mean of all superclasses' ("DistS").

    Examples
    --------
    >>> m = SuperclassDistance([[0], [1]])
    >>> m.update(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 1]))
    >>> round(m.compute(), 4)
    0.7854
    """

    def result(self, total: Tensor) -> float:
        """The mean angle in radians, from sums and counts of features."""
        _, _, above = self.means(total)
        return angles(above, above.mean(dim=0, keepdim=True)).mean().item()


def angles(a: Tensor, b: Tensor) -> Tensor:
    """Angles between rows, in radians; NaN where one is zero. ``[N, D], [N or 1, D] -> [N]``

    >>> angles(torch.tensor([[1.0, 0.0], [0.0, 0.0]]), torch.tensor([[0.0, 2.0]]))
    tensor([1.5708,    nan])
    """
    cosine = (a * b).sum(dim=1) / (a.norm(dim=1) * b.norm(dim=1))
    angle: Tensor = cosine.clamp(-1.0, 1.0).arccos()
    return angle
