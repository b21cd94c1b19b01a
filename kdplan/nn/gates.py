"""Gates: how much each branch of a network counts, sample by sample."""

from __future__ import annotations

from torch import Tensor, nn


class Gate(nn.Module):
    """Weights of branches from the features that they share, ``[B, channels, ...] -> [B, count]``.

    softmax(relu(bn(fc(mean of x over positions)))), as in "Knowledge distillation by on-the-fly native ensemble" (Lan,
    Zhu, Gong, NeurIPS 2018). Of tokens ``[B, T, channels]`` the mean is over tokens.

    Parameters
    ----------
    channels
        Of the features.
    count
        How many branches there are.

    Examples
    --------
    >>> import torch
    >>> Gate(16, 3)(torch.zeros(2, 16, 4, 4)).shape
    torch.Size([2, 3])
    """

    def __init__(self, channels: int, count: int) -> None:
        super().__init__()
        self.fc = nn.Linear(channels, count)
        self.bn = nn.BatchNorm1d(count)
        self.relu = nn.ReLU()
        self.softmax = nn.Softmax(dim=1)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, channels, ...] -> [B, count]``; each row sums to 1."""
        if x.dim() == 3:
            x = x.mean(dim=1)
        elif x.dim() > 3:
            x = x.flatten(2).mean(dim=2)
        weights: Tensor = self.softmax(self.relu(self.bn(self.fc(x))))
        return weights


class Mean(nn.Module):
    """The same weight for each of `count` branches, ``[B, ...] -> [B, count]``; nothing to learn.

    Examples
    --------
    >>> import torch
    >>> Mean(4)(torch.zeros(1, 8)).tolist()
    [[0.25, 0.25, 0.25, 0.25]]
    """

    def __init__(self, count: int) -> None:
        super().__init__()
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        """``[B, ...] -> [B, count]``, all equal to 1 / count."""
        return x.new_full((x.shape[0], self.count), 1 / self.count)
