"""Small functions of a plan's expressions, which combine signals.

Functions here carry the names of the language, so some hide Python's own (`sum`, `abs`, `min`, `max`); the module is
meant to be used through `FUNCTIONS`.
"""

from __future__ import annotations

import builtins
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from kdplan.nn import losses
from kdplan.nn.losses import wide

Value = Tensor | float


def mean(x: Tensor) -> Tensor:
    """Mean over all entries; ``[...] -> []``.

    Examples
    --------
    >>> mean(torch.tensor([1.0, 3.0])).item()
    2.0
    """
    return wide(x).mean()


def sum(first: Tensor, *more: Value) -> Tensor:
    """Of one signal, the sum over all entries, ``[...] -> []``; of several, their sum, shapes broadcast.

    Examples
    --------
    >>> sum(torch.tensor([1.0, 3.0])).item()
    4.0
    >>> sum(torch.tensor([1.0, 3.0]), 1.0)
    tensor([2., 4.])
    """
    if not more:
        return wide(first).sum()
    total = first
    for term in more:
        total = total + term
    return total


def exp(x: Value) -> Value:
    """Exponential of a number or of each entry; shape kept.

    Examples
    --------
    >>> exp(0.0)
    1.0
    """
    return x.exp() if isinstance(x, Tensor) else math.exp(x)


def log(x: Value) -> Value:
    """Natural logarithm of a number or of each entry; shape kept.

    Examples
    --------
    >>> log(torch.ones(2))
    tensor([0., 0.])
    """
    return x.log() if isinstance(x, Tensor) else math.log(x)


def sqrt(x: Value) -> Value:
    """Square root of a number or of each entry; shape kept.

    Examples
    --------
    >>> sqrt(4.0)
    2.0
    """
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def abs(x: Value) -> Value:
    """Absolute value of a number or of each entry; shape kept.

    Examples
    --------
    >>> abs(-2.0)
    2.0
    """
    return x.abs() if isinstance(x, Tensor) else builtins.abs(x)


def min(first: Value, *more: Value) -> Value:
    """Of one signal, its smallest entry, ``[...] -> []``; of several, the smallest entry by entry, shapes broadcast.

    Examples
    --------
    >>> min(torch.tensor([1.0, 3.0]), 2.0)
    tensor([1., 2.])
    >>> min(torch.tensor([1.0, 3.0])).item()
    1.0
    """
    if not more:
        return first.min() if isinstance(first, Tensor) else first
    return functools.reduce(_min, more, first)


def max(first: Value, *more: Value) -> Value:
    """Of one signal, its largest entry, ``[...] -> []``; of several, the largest entry by entry, shapes broadcast.

    Examples
    --------
    >>> max(0.5, 1.0)
    1.0
    >>> max(torch.tensor([1.0, 3.0])).item()
    3.0
    """
    if not more:
        return first.max() if isinstance(first, Tensor) else first
    return functools.reduce(_max, more, first)


def _min(a: Value, b: Value) -> Value:
    if isinstance(a, Tensor):
        return torch.minimum(a, b) if isinstance(b, Tensor) else a.clamp(max=b)
    return b.clamp(max=a) if isinstance(b, Tensor) else builtins.min(a, b)


def _max(a: Value, b: Value) -> Value:
    if isinstance(a, Tensor):
        return torch.maximum(a, b) if isinstance(b, Tensor) else a.clamp(min=b)
    return b.clamp(min=a) if isinstance(b, Tensor) else builtins.max(a, b)


def clamp(x: Value, low: float, high: float) -> Value:
    """`x` cut to the range `low` to `high`; shape kept.

    Examples
    --------
    >>> clamp(torch.tensor([-1.0, 0.5, 2.0]), 0.0, 1.0)
    tensor([0.0000, 0.5000, 1.0000])
    """
    return min(max(x, low), high)


def mix(first: Value, second: Value, weight: float) -> Value:
    """`weight` times `first` and the rest of `second`; shapes as in a sum.

    Examples
    --------
    >>> mix(torch.tensor(1.0), torch.tensor(3.0), weight=0.75)
    tensor(1.5000)
    """
    return weight * first + (1 - weight) * second


def concat(first: Tensor, *more: Tensor) -> Tensor:
    """Signals side by side on the class or channel dimension; ``[B, C_i, ...] -> [B, sum C_i, ...]``.

    Examples
    --------
    >>> concat(torch.zeros(2, 3), torch.zeros(2, 4)).shape
    torch.Size([2, 7])
    """
    return torch.cat((first, *more), dim=1)


def columns(x: Tensor, at: Sequence[int]) -> Tensor:
    """Some channels or classes, in the order of `at`; ``[B, C, ...] -> [B, len(at), ...]``.

    Examples
    --------
    >>> columns(torch.tensor([[1.0, 2.0, 3.0]]), [2, 0])
    tensor([[3., 1.]])
    """
    return x[:, torch.tensor(list(at), device=x.device)]


def detach(x: Tensor) -> Tensor:
    """The same values, through which no gradient flows; shape kept.

    Examples
    --------
    >>> detach(torch.ones(1, requires_grad=True)).requires_grad
    False
    """
    return x.detach()


class _Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: float) -> Tensor:
        """`x` as it is."""
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None]:
        """The gradient times `-weight`."""
        return -ctx.weight * gradient, None


def reverse(x: Tensor, weight: float = 1.0) -> Tensor:
    """The same values; on the way back the gradient is multiplied by ``-weight``; shape kept.

    What lies before it then learns to raise the loss that what lies after it learns to lower.

    References
    ----------
    Ganin and Lempitsky: Unsupervised domain adaptation by backpropagation (2015).

    Examples
    --------
    >>> x = torch.ones(2, requires_grad=True)
    >>> reverse(x, 0.5).sum().backward()
    >>> x.grad
    tensor([-0.5000, -0.5000])
    """
    out: Tensor = _Reverse.apply(x, weight)
    return out


def normalize(x: Tensor) -> Tensor:
    """Each vector along dimension 1 divided by its Euclidean length; ``[B, C, ...]``, shape kept.

    Examples
    --------
    >>> normalize(torch.tensor([[3.0, 4.0]]))
    tensor([[0.6000, 0.8000]])
    """
    return F.normalize(wide(x), dim=1)


def pool(x: Tensor) -> Tensor:
    """Mean over all positions; ``[B, C, H, W] -> [B, C]`` (or any number of spatial dimensions).

    Examples
    --------
    >>> pool(torch.ones(2, 3, 8, 8)).shape
    torch.Size([2, 3])
    """
    return x if x.dim() == 2 else x.flatten(2).mean(dim=2)


def resize(x: Tensor, size: int) -> Tensor:
    """Maps of another height and width, bilinear, corners not aligned; ``[B, C, H, W] -> [B, C, size, size]``.

    Examples
    --------
    >>> resize(torch.ones(2, 3, 8, 8), size=4).shape
    torch.Size([2, 3, 4, 4])
    """
    if x.shape[2:] == (size, size):
        return x
    return F.interpolate(wide(x), size=(size, size), mode="bilinear", align_corners=False)


def flatten(x: Tensor) -> Tensor:
    """Each sample as one vector; ``[B, ...] -> [B, N]``.

    Examples
    --------
    >>> flatten(torch.ones(2, 3, 4)).shape
    torch.Size([2, 12])
    """
    return x.flatten(1)


def sigmoid(x: Tensor) -> Tensor:
    """Logistic function of each entry, ``1 / (1 + exp(-x))``; shape kept.

    Examples
    --------
    >>> sigmoid(torch.zeros(2))
    tensor([0.5000, 0.5000])
    """
    return wide(x).sigmoid()


def onehot(labels: Tensor, classes: int) -> Tensor:
    """Class numbers as rows with a single one; ``[B] -> [B, classes]``, float32.

    Examples
    --------
    >>> onehot(torch.tensor([1]), 3)
    tensor([[0., 1., 0.]])
    """
    return F.one_hot(labels.long(), classes).float()


FUNCTIONS: dict[str, Callable[..., Any]] = {
    f.__name__: f
    for f in (
        losses.softmax,
        losses.log_softmax,
        losses.uniform,
        sigmoid,
        onehot,
        mean,
        sum,
        exp,
        log,
        sqrt,
        abs,
        min,
        max,
        clamp,
        mix,
        concat,
        columns,
        detach,
        reverse,
        normalize,
        pool,
        resize,
        flatten,
    )
}
"""Name in a plan -> function, for rows that name no `implementation`. Parameters are those of the Python function."""
