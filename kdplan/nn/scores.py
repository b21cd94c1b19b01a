"""How a network spreads its scores: the k-th highest score, and which class has it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from kdplan.nn.metric import Metric


def chosen(outputs: Tensor, k: int) -> Tensor:
    """The class with the `k`-th highest score of each sample; ``[B, C] -> int64 [B]``.

    Of equal scores the lower class number comes first. A score that is not a number comes last.

    Raises
    ------
    ValueError
        If there are no scores of at least `k` classes.

    Examples
    --------
    >>> chosen(torch.tensor([[0.1, 0.7, 0.2], [0.4, 0.4, 0.2]]), 2)
    tensor([2, 1])
    """
    if outputs.dim() != 2 or outputs.shape[1] < k:
        raise ValueError(f"outputs of shape {list(outputs.shape)} are no scores of {k} classes or more")
    order = outputs.nan_to_num(nan=-torch.inf, posinf=torch.inf, neginf=-torch.inf)
    return order.argsort(dim=1, descending=True, stable=True)[:, k - 1]


class Score(Metric):
    """Mean of the `k`-th highest softmax score, in percent.

    References
    ----------
    Yang et al.: Training deep neural networks in generations (2019), Tables 1 and 3.

    Examples
    --------
    >>> m = Score(2, probabilities=True)
    >>> m.update(torch.tensor([[0.5, 0.25, 0.25], [0.75, 0.25, 0.0]]), torch.tensor([1, 1]))
    >>> m.compute()
    25.0
    """

    def __init__(self, k: int = 1, probabilities: bool = False) -> None:
        super().__init__(probabilities)
        self.k = _counted(k)

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, C], [B] -> []``: the sum of the k-th highest softmax scores."""
        if outputs.dim() != 2 or outputs.shape[1] < self.k:
            raise ValueError(f"outputs of shape {list(outputs.shape)} are no scores of {self.k} classes or more")
        p = outputs.double() if self.probabilities else outputs.double().softmax(dim=1)
        return p.topk(self.k, dim=1).values[:, -1].sum()


class Confusion(Metric):
    """How often samples of each class have each class as that with the `k`-th highest score.

    With k = 1 it is the usual confusion matrix. The number is the share of samples, in percent, that are on its
    diagonal; `matrix` has all of it.

    Examples
    --------
    >>> m = Confusion(2)
    >>> m.update(torch.tensor([[0.1, 0.7, 0.2], [0.5, 0.4, 0.1]]), torch.tensor([1, 1]))
    >>> m.matrix().tolist(), m.compute()
    ([[0, 0, 0], [0, 1, 1], [0, 0, 0]], 50.0)
    """

    def __init__(self, k: int = 1, probabilities: bool = False) -> None:
        super().__init__(probabilities)
        self.k = _counted(k)

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, C], [B] -> int64 [C, C]``: label, then the class chosen."""
        classes = outputs.shape[-1]
        at = labels.long() * classes + chosen(outputs, self.k)
        return torch.bincount(at, minlength=classes * classes).reshape(classes, classes)

    def result(self, total: Tensor) -> float:
        """The share on the diagonal, in percent."""
        return 100.0 * total.diagonal().sum().item() / self.count

    def matrix(self) -> Tensor:
        """Samples of each class (first) whose `k`-th class is each (second); int64 [C, C], on the CPU."""
        assert self.total is not None
        return self.total.cpu()


class Siblings(Metric):
    """Share of samples, in percent, whose `k`-th highest score is of another class of their label's superclass.

    Parameters
    ----------
    k : int
    groups : sequence of sequences of int
        The classes of each superclass; one that stands in none has no siblings.

    Examples
    --------
    >>> m = Siblings(2, groups=[[0, 2], [1]])
    >>> m.update(torch.tensor([[0.7, 0.1, 0.2], [0.1, 0.5, 0.4]]), torch.tensor([0, 1]))
    >>> m.compute()
    50.0
    """

    def __init__(self, k: int = 2, groups: Sequence[Sequence[int]] = (), probabilities: bool = False) -> None:
        super().__init__(probabilities)
        self.k = _counted(k)
        self.groups = groups

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, C], [B] -> []``: samples whose k-th highest score is of a sibling of their label."""
        classes = chosen(outputs, self.k)
        related = torch.zeros(outputs.shape[1], outputs.shape[1], dtype=torch.bool, device=outputs.device)
        for members in self.groups:
            at = torch.tensor(list(members), device=outputs.device)
            related[at[:, None], at] = True
        return (related.fill_diagonal_(False)[labels.long(), classes]).sum()


def _counted(k: int) -> int:
    if k < 1:
        raise ValueError(f"the k-th highest score: k is at least 1, not {k}")
    return k
