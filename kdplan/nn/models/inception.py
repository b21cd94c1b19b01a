"""Inception-V2 (BN-Inception): GoogLeNet with batch norm, and with two 3 x 3 convolutions in place of a 5 x 5 one."""

from __future__ import annotations

from collections import OrderedDict

import torch
from torch import Tensor, nn

from kdplan.nn.models.parts import initialise_convolutions

BLOCKS: dict[str, tuple[int, tuple[int, int], tuple[int, int], str, int]] = {
    "mixed3b": (64, (64, 64), (64, 96), "mean", 32),
    "mixed3c": (64, (64, 96), (64, 96), "mean", 64),
    "mixed4a": (0, (128, 160), (64, 96), "max", 0),
    "mixed4b": (224, (64, 96), (96, 128), "mean", 128),
    "mixed4c": (192, (96, 128), (96, 128), "mean", 128),
    "mixed4d": (160, (128, 160), (128, 160), "mean", 96),
    "mixed4e": (96, (128, 192), (160, 192), "mean", 96),
    "mixed5a": (0, (128, 192), (192, 256), "max", 0),
    "mixed5b": (352, (192, 320), (160, 224), "mean", 128),
    "mixed5c": (352, (192, 320), (192, 224), "max", 128),
}
"""Channels of the 1 x 1 branch, the 3 x 3 branch, the double 3 x 3 branch, and the kind and channels of the pooled one;
with 0 first, a block halves height and width."""


def _conv(inputs: int, outputs: int, kernel: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, kernel, stride=stride, padding=kernel // 2, bias=False),
        nn.BatchNorm2d(outputs, eps=1e-3),
        nn.ReLU(inplace=True),
    )


class Mixed(nn.Module):
    """Four branches side by side; ``[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]``."""

    def __init__(
        self, inputs: int, one: int, three: tuple[int, int], double: tuple[int, int], pool: str, last: int
    ) -> None:
        super().__init__()
        stride = 1 if one else 2
        self.one = _conv(inputs, one, 1) if one else None
        self.three = nn.Sequential(_conv(inputs, three[0], 1), _conv(three[0], three[1], 3, stride))
        self.twice = nn.Sequential(
            _conv(inputs, double[0], 1), _conv(double[0], double[1], 3), _conv(double[1], double[1], 3, stride)
        )
        kind = nn.MaxPool2d if pool == "max" else nn.AvgPool2d
        pooled: list[nn.Module] = [kind(3, stride=stride, padding=1)]
        self.pool = nn.Sequential(*pooled, *([_conv(inputs, last, 1)] if last else []))
        self.outputs = one + three[1] + double[1] + (last or inputs)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, outputs, H / stride, W / stride]``, the paths side by side."""
        paths = [self.three(x), self.twice(x), self.pool(x)]
        return torch.cat(paths if self.one is None else [self.one(x), *paths], dim=1)


def bn_inception(classes: int = 10, base: str = "mixed5c", pool: int = 1, channels: int = 3) -> nn.Module:
    """Inception-V2; ``[B, channels, H, W] -> [B, classes]``, for images of about 224 x 224.

    Modules: `stem`, `mixed3b`, `mixed3c` (28 x 28), `mixed4a` … `mixed4e` (14 x 14), `mixed5a` … `mixed5c` (7 x 7),
    `avgpool`, `flatten`, `fc`. Channels are those of the slim version, in which all of `mixed4` have 576.

    Parameters
    ----------
    classes, channels : int
        Outputs, and channels of the images.
    base : str
        The last block; what follows is left out. `mixed3b` has 256 channels, `mixed5c` 1024.
    pool : int
        Height and width to which its maps are averaged: 3 makes 9216 features of `mixed5c`.

    Raises
    ------
    ValueError
        If there is no such block.

    References
    ----------
    Ioffe and Szegedy: Batch Normalization (2015).

    Examples
    --------
    >>> net = bn_inception(classes=5, pool=3)
    >>> net.fc.in_features, net(torch.zeros(2, 3, 64, 64)).shape
    (9216, torch.Size([2, 5]))
    >>> bn_inception(base="mixed3b").fc.in_features
    256
    """
    if base not in BLOCKS:
        raise ValueError(f"bn_inception has no block `{base}`; it has {', '.join(BLOCKS)}")
    if pool < 1:
        raise ValueError("bn_inception averages its maps to a height and width of at least 1")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    parts["stem"] = nn.Sequential(
        _conv(channels, 64, 7, stride=2),
        nn.MaxPool2d(3, stride=2, padding=1),
        _conv(64, 64, 1),
        _conv(64, 192, 3),
        nn.MaxPool2d(3, stride=2, padding=1),
    )
    width = 192
    for name, block in BLOCKS.items():
        mixed = Mixed(width, *block)
        parts[name], width = mixed, mixed.outputs
        if name == base:
            break
    parts["avgpool"] = nn.AdaptiveAvgPool2d(pool)
    parts["flatten"] = nn.Flatten()
    parts["fc"] = nn.Linear(width * pool * pool, classes)
    net = nn.Sequential(parts)
    initialise_convolutions(net)
    return net
