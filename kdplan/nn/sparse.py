"""Losses against sparse targets: for each sample a few classes with their probabilities, and zero for all others.

With 100,000 classes a dense target is as large as the logits. None is ever made here.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdplan.nn.losses import wide

CHUNK = 1 << 20
"""How many logits are looked at at a time where an intermediate result would be as large as all of them."""


def top(scores: Tensor, k: int, numbers: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """The k largest scores of each sample and their classes, the largest first.

    Parameters
    ----------
    scores : Tensor [B, C]
    k : int
        At most C.
    numbers : Tensor, optional
        Integers [B, C] that stand for the columns; -1 for columns that are no class.

    Returns
    -------
    tuple of Tensor [B, k]
        Scores and class numbers.

    Examples
    --------
    >>> top(torch.tensor([[0.1, 0.7, 0.2]]), 2)
    (tensor([[0.7000, 0.2000]]), tensor([[1, 2]]))
    """
    values, columns = scores.topk(k, dim=1)
    return values, columns if numbers is None else numbers.gather(1, columns)


def _known(values: Tensor, ids: Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Targets without padding: where the class is -1, the value is 0 and the class 0."""
    return values.to(dtype).masked_fill(ids < 0, 0.0), ids.clamp(min=0)


class _SigmoidCrossEntropy(torch.autograd.Function):
    """Saves only the logits; what is made on the way back is the gradient itself."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, values: Tensor, ids: Tensor) -> Tensor:
        """``[B, C], [B, K], [B, K] -> []``, the sum over classes and the mean over the batch."""
        ctx.save_for_backward(x, values, ids)
        rows = max(1, CHUNK // max(1, x.shape[1]))
        total = x.new_zeros(())
        for start in range(0, x.shape[0], rows):
            total = total + F.softplus(x[start : start + rows]).sum()
        return (total - (values * x.gather(1, ids)).sum()) / x.shape[0]

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        """Gradients of logits and of target values where they are wanted."""
        x, values, ids = ctx.saved_tensors
        factor = gradient / x.shape[0]
        of_values = -x.gather(1, ids) * factor if ctx.needs_input_grad[1] else None
        of_x = None
        if ctx.needs_input_grad[0]:
            of_x = x.sigmoid()
            of_x.scatter_add_(1, ids, -values).mul_(factor)
        return of_x, of_values, None


def sigmoid_cross_entropy(logits: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    """Binary cross-entropy of every class with targets that are zero for all but a few: the sum over all classes is
    ``sum_c softplus(x_c) - sum_k z_k x_k``.

    Parameters
    ----------
    logits : Tensor [B, C]
    values : Tensor [B, K]
        Targets in [0, 1].
    ids : Tensor [B, K]
        The columns that they belong to; -1 for none.

    Returns
    -------
    Tensor []
        Summed over classes, mean over the batch.

    References
    ----------
    Gao, Li, Nevatia: Knowledge Concentration (2017), Eq. 2.

    Examples
    --------
    >>> x = torch.zeros(1, 10, requires_grad=True)
    >>> loss = sigmoid_cross_entropy(x, torch.tensor([[0.9, 0.5]]), torch.tensor([[3, 7]]))
    >>> round(loss.item(), 4)
    6.9315
    >>> loss.backward()
    >>> x.grad[0, [0, 3, 7]]
    tensor([ 0.5000, -0.4000,  0.0000])
    """
    x = wide(logits)
    values, ids = _known(values, ids, x.dtype)
    loss: Tensor = _SigmoidCrossEntropy.apply(x, values, ids)
    return loss


def cross_entropy(logits: Tensor, values: Tensor, ids: Tensor, smoothing: float = 0.0) -> Tensor:
    """Softmax cross-entropy with targets that are zero for all but a few: ``sum_k z_k (log sum_c exp(x_c) - x_k)``.

    Parameters
    ----------
    logits : Tensor [B, C]
    values, ids : Tensor [B, K]
        Targets, and the columns that they belong to; -1 for none.
    smoothing : float
        Share of the target that is spread evenly over all classes.

    Returns
    -------
    Tensor []
        Mean over the batch.

    Examples
    --------
    >>> x = torch.tensor([[0.0, 0.0, 0.0]])
    >>> round(cross_entropy(x, torch.tensor([[0.5, 0.5]]), torch.tensor([[0, 2]])).item(), 4)
    1.0986
    """
    x = wide(logits)
    values, ids = _known(values, ids, x.dtype)
    total = x.logsumexp(dim=1)
    hard = (values * (total.unsqueeze(1) - x.gather(1, ids))).sum(dim=1)
    if smoothing:
        hard = (1 - smoothing) * hard + smoothing * (total - x.mean(dim=1))
    return hard.mean()
