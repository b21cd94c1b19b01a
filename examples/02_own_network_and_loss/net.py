"""A network and a loss of one's own: plain PyTorch, nothing of kdplan."""

import torch
from torch import Tensor, nn


class TwoRoads(nn.Module):
    """Digits [B, 1, 8, 8] to logits [B, classes], along a wide and a deep road; a plan can tap both."""

    def __init__(self, width: int = 8, classes: int = 10) -> None:
        super().__init__()
        self.wide = nn.Sequential(nn.Conv2d(1, width, 5, padding=2), nn.ReLU())
        self.deep = nn.Sequential(
            nn.Conv2d(1, width, 3, padding=1), nn.ReLU(), nn.Conv2d(width, width, 3, padding=1), nn.ReLU()
        )
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.wide(x), self.deep(x)], dim=1)
        return self.fc(both.mean(dim=(2, 3)))


def net(width: int = 8, classes: int = 10) -> nn.Module:
    """What a plan calls where it wants a network."""
    return TwoRoads(width, classes)


def same_places(a: Tensor, b: Tensor) -> Tensor:
    """How much two maps [B, C, H, W] and [B, D, H, W] differ in *where* they are active: a scalar."""
    where_a = a.pow(2).mean(dim=1).flatten(1)
    where_b = b.pow(2).mean(dim=1).flatten(1)
    return (nn.functional.normalize(where_a) - nn.functional.normalize(where_b)).pow(2).mean()
