"""Several networks as one: the mean of what they give, or all of it side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.ir.origins import Joined
from kdplan.nn.adapted import Entries
from kdplan.nn.models import create
from kdplan.nn.outputs import scores
from kdplan.nn.whose import may_write

MEMBERS = "members"
"""Where in an ensemble its members are."""


class Ensemble(nn.Module):
    """The mean of several networks' outputs, as logits ``[B, C]``.

    Parameters
    ----------
    members
        Networks that take the same inputs and give logits ``[B, C]``.
    mean
        `probabilities`: the logarithm of the mean of their softmax, so that its softmax is that mean. `logits`: the
        mean of their logits. `stacked`: no mean, but their logits side by side.
    orders
        For each member the column of its logits that each class of the ensemble is; None where they are in order. Of
        stacked ones for each class its columns, of which the largest counts.

    Examples
    --------
    >>> net = Ensemble([nn.Linear(3, 2), nn.Linear(3, 2)])
    >>> x = torch.ones(1, 3)
    >>> by_hand = torch.stack([m(x).softmax(dim=1) for m in net.members]).mean(dim=0)
    >>> torch.allclose(net(x).softmax(dim=1), by_hand)
    True
    """

    def __init__(
        self,
        members: Sequence[nn.Module],
        mean: Joined = "probabilities",
        orders: Sequence[Sequence[int] | None] | None = None,
    ) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.copies = [may_write(member) for member in members]
        self.mean = mean
        if mean == "stacked":
            of = {i: k for k, columns in enumerate(orders or []) for i in columns or []}
            self.entries = Entries([of[i] for i in range(len(of))])
            return
        self.orders = list(orders) if orders is not None else [None] * len(members)
        for i, order in enumerate(self.orders):
            if order is not None:
                self.register_buffer(f"order{i}", torch.tensor(list(order)), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, classes]``; every member sees the same inputs."""
        every = [scores(m(x.clone() if copy else x)) for m, copy in zip(self.members, self.copies, strict=True)]
        if self.mean == "stacked":
            stacked: Tensor = self.entries(torch.cat(every, dim=1))
            return stacked
        outputs = []
        for i, logits in enumerate(every):
            outputs.append(logits if self.orders[i] is None else logits.index_select(1, getattr(self, f"order{i}")))
        if self.mean == "logits":
            return torch.stack(outputs).mean(dim=0)
        chances = torch.stack([logits.log_softmax(dim=1) for logits in outputs])
        return chances.logsumexp(dim=0) - math.log(len(outputs))


def ensemble(
    members: Sequence[tuple[str, Mapping[str, Any]]],
    mean: Joined = "probabilities",
    orders: Sequence[Sequence[int] | None] | None = None,
) -> Ensemble:
    """An ensemble of new networks, each as the name of its factory and its settings.

    Examples
    --------
    >>> net = ensemble([("digits_net", {"width": 2}), ("mlp", {"inputs": 64})])
    >>> net(torch.zeros(5, 1, 8, 8)).shape
    torch.Size([5, 10])
    """
    return Ensemble([create(factory, **settings) for factory, settings in members], mean, orders)
