"""Batch norm over several parts of a batch at once: common statistics, and in backward the common sums.

Each part is summed up on its own; what they give is joined in the order of the fixed tree (`tree.py`), whichever rank
has which part. Means and squared deviations are joined by the formulas of Chan, Golub and LeVeque, "Updating Formulae
and a Pairwise Algorithm for Computing Sample Variances" (1979).
"""

from __future__ import annotations

import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from kdplan.runtime.ranks import Ranks
from kdplan.runtime.tree import Node, tree_sum

NORM, END, FAILED = 0, 1, 2
"""What a rank says when it meets the others: it is at a batch norm, at its end, or has run into an error."""

ACROSS_SAMPLES = "Expected more than 1 value per channel when training"


@dataclass(slots=True)
class Call:
    """What one part gives to `torch.nn.functional.batch_norm`, by its names there."""

    input: Tensor
    running_mean: Tensor | None
    running_var: Tensor | None
    weight: Tensor | None = None
    bias: Tensor | None = None
    training: bool = False
    momentum: float = 0.1
    eps: float = 1e-5
    name: str = ""
    """The module that called it."""


class Parted(Exception):
    """The ranks are no longer at the same batch norm.

    Attributes
    ----------
    mine
        The name of what this rank is at; "" for the end.
    others
        The rows of all ranks, as `Exchange` sends them.
    """

    def __init__(self, mine: str, others: list[list[int]]) -> None:
        super().__init__(mine)
        self.mine, self.others = mine, others

    @property
    def failed(self) -> bool:
        """Whether that is because of an error on one of them."""
        return any(row[0] == FAILED for row in self.others)


class Exchange:
    """Sums over all parts of a batch, each rank giving those of its own.

    Parameters
    ----------
    count : int
        V, the number of parts.
    first : int
        The number of this rank's first part.
    ranks : Ranks
        Those that give parts; one alone gives all that there are.
    nodes : list
        The nodes of the tree that each rank has.
    whole : bool
        Whether these are all parts of a batch: then one value a channel is an error.

    Examples
    --------
    >>> exchange = Exchange(4, 0, Ranks(), [[(0, 4)]])
    >>> exchange.total("norm", [torch.tensor([float(n)]) for n in range(3)], torch.add)
    tensor([3.])
    """

    def __init__(self, count: int, first: int, ranks: Ranks, nodes: list[list[Node]], whole: bool = True) -> None:
        self.count, self.first, self.ranks, self.nodes, self.whole = count, first, ranks, nodes, whole
        self.met = 0
        """How often the ranks have met."""
        self.complete = False
        """Whether all parts have gone forward."""
        self.parted = False

    def total(self, name: str, rows: Sequence[Tensor], add: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """The sum of the rows of all parts; `add` changes no argument.

        Raises
        ------
        Parted
            If another rank does not come here as well.
        """

        def own(part: int) -> Tensor | None:
            number = part - self.first
            return rows[number] if 0 <= number < len(rows) else None

        self.meet(NORM, name, len(rows[0]))
        if self.ranks.size == 1:
            total = tree_sum((0, self.count), own, add, {})
        else:
            most = max(map(len, self.nodes))
            mine = [tree_sum(node, own, add, {}) for node in self.nodes[self.ranks.rank]]
            sums = [rows[0].new_zeros(rows[0].shape) if row is None else row for row in mine]
            sums += [rows[0].new_zeros(rows[0].shape)] * (most - len(sums))
            known: dict[Node, Tensor] = {}
            for nodes, row in zip(self.nodes, self.ranks.gather(torch.cat(sums)), strict=True):
                known |= dict(zip(nodes, row.view(most, -1), strict=False))
            total = tree_sum((0, self.count), lambda _: None, add, known)
        assert total is not None
        return total

    def meet(self, what: int, name: str = "", width: int = 0) -> None:
        """Meet the other ranks, all of which must say the same.

        Raises
        ------
        Parted
            If they do not; they do not meet again then.
        """
        self.met += 1
        rows = self.ranks.gather_numbers([what, self.met, mark(name), width, self.complete])
        if any(row != rows[0] for row in rows) or (what == FAILED and self.ranks.size > 1):
            self.parted = True
            raise Parted(name, rows)


def mark(name: str) -> int:
    """A number for a name, the same in every process."""
    return zlib.crc32(name.encode())


def normalised(calls: Sequence[Call], exchange: Exchange) -> list[Tensor]:
    """Batch norm of all parts of this rank by statistics over those of all ranks; updates each call's running ones.

    Examples
    --------
    >>> x = torch.randn(6, 3, 4, dtype=torch.float64)
    >>> parts = [Call(part, None, None, training=True) for part in x.tensor_split(4)]
    >>> y = normalised(parts, Exchange(4, 0, Ranks(), [[(0, 4)]]))
    >>> torch.allclose(torch.cat(y), F.batch_norm(x, None, None, training=True))
    True

    Raises
    ------
    Parted
        If another rank is not at this batch norm.
    ValueError
        For one value a channel, as torch does.
    """
    tensors = [t for call in calls for t in (call.input, call.weight, call.bias)]
    return list(_Norm.apply(calls, exchange, *tensors))


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, calls: Sequence[Call], exchange: Exchange, *tensors: Tensor | None) -> tuple[Tensor, ...]:
        first = calls[0]
        with torch.autocast(first.input.device.type, enabled=False):
            rows = [_moments(call.input) for call in calls]
            count, mean, squares = _pieces(exchange.total(first.name, rows, _joined), rows[0])
            alone = all(call.input.numel() == call.input.shape[1] for call in calls)
            if alone and exchange.whole and float(count) <= 1:  # a look at `count` waits for the device
                raise ValueError(f"{ACROSS_SAMPLES}, got input size {list(first.input.shape)}")
            exact = _exact(first.input.dtype)
            variance, unbiased = squares / count, squares / (count - 1).clamp(min=1)
            for call in calls:
                _update(call.running_mean, mean, call.momentum)
                _update(call.running_var, unbiased, call.momentum)
            common = mean.to(exact), variance.to(exact)
            outputs = []
            for call in calls:
                weight, bias = (t.to(exact) if t is not None else None for t in (call.weight, call.bias))
                outputs.append(F.batch_norm(call.input, *common, weight, bias, False, 0.0, call.eps))
        ctx.exchange, ctx.name = exchange, first.name
        ctx.save_for_backward(common[0], (variance + first.eps).rsqrt().to(exact), count, *tensors)
        return tuple(outputs)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:
        if not ctx.exchange.complete:
            raise RuntimeError(f"the gradient of {ctx.name} is asked for before all shards have gone forward")
        mean, inverse, count, *tensors = ctx.saved_tensors
        needed = ctx.needs_input_grad[2:]
        inputs, weights = tensors[::3], tensors[1::3]
        results: list[Tensor | None] = []
        with torch.autocast(mean.device.type, enabled=False):
            rows = [_products(g, x, mean) for g, x in zip(gradients, inputs, strict=True)]
            total = None
            if any(needed[::3]):
                wide = [row.to(_wide(row)) for row in rows]
                total = (ctx.exchange.total(ctx.name, wide, torch.add) / count).to(mean.dtype)
            for number, (row, x, weight, g) in enumerate(zip(rows, inputs, weights, gradients, strict=True)):
                of_input, of_weight, of_bias = needed[3 * number : 3 * number + 3]
                plain, product = row.tensor_split(2)
                gradient = None
                if of_input and total is not None:
                    size = (1, -1, *(1 for _ in x.shape[2:]))
                    by_mean, by_spread = total.tensor_split(2)
                    scale = inverse if weight is None else inverse * weight.to(inverse.dtype)
                    gradient = x - mean.view(size)
                    gradient.mul_((-by_spread * inverse * inverse).view(size)).add_(g).sub_(by_mean.view(size))
                    gradient = gradient.mul_(scale.view(size)).to(x.dtype)
                results.append(gradient)
                results.append((product * inverse).to(weight.dtype) if of_weight and weight is not None else None)
                results.append(plain if of_bias else None)
        return (None, None, *results)


def _exact(dtype: torch.dtype) -> torch.dtype:
    """The type in which values of `dtype` are normalised."""
    return torch.float32 if dtype in (torch.float16, torch.bfloat16) else dtype


def _wide(tensor: Tensor) -> torch.dtype:
    """The type in which sums over parts are made."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def _dimensions(tensor: Tensor) -> list[int]:
    return [0, *range(2, tensor.dim())]


def _moments(x: Tensor) -> Tensor:
    """Number of values a channel, means and sums of squared deviations of one part, [1 + 2 channels]."""
    variance, mean = torch.var_mean(x.to(_exact(x.dtype)), _dimensions(x), correction=0)
    number = torch.full((1,), x.numel() / max(x.shape[1], 1), dtype=_wide(x), device=x.device)
    return torch.cat([number, mean.to(number.dtype), variance.to(number.dtype) * number])


def _pieces(row: Tensor, like: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    channels = (len(like) - 1) // 2
    return row[0], row[1 : 1 + channels], row[1 + channels :]


def _joined(one: Tensor, other: Tensor) -> Tensor:
    """The moments of two parts together."""
    (n, mean, squares), (m, mean_2, squares_2) = _pieces(one, one), _pieces(other, other)
    apart = mean_2 - mean
    joined = mean + apart * (m / (n + m)), squares + squares_2 + apart * apart * (n * m / (n + m))
    return torch.cat([(n + m).reshape(1), *joined])


def _update(running: Tensor | None, value: Tensor, momentum: float) -> None:
    if running is not None:
        running.mul_(1 - momentum).add_(value.to(running.dtype), alpha=momentum)


def _products(g: Tensor, x: Tensor, mean: Tensor) -> Tensor:
    """Σ g and Σ g (x - mean) of one part, [2 channels]."""
    g = g.to(mean.dtype)
    deviation = x - mean.view(1, -1, *(1 for _ in x.shape[2:]))
    return torch.cat([g.sum(_dimensions(x)), deviation.mul_(g).sum(_dimensions(x))])
