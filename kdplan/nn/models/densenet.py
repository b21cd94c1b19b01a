"""Densely connected networks for small images: every layer reads all that come before it in its block."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.nn.models.parts import check_layers, conv3x3, initialise_convolutions, nearest_depth


class DenseLayer(nn.Module):
    """Its input with `growth` new channels behind it; ``[B, C, H, W] -> [B, C + growth, H, W]``."""

    def __init__(self, inputs: int, growth: int, bottleneck: bool, dropout: float) -> None:
        super().__init__()
        self.bottleneck = bottleneck
        self.dropout = dropout
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        if bottleneck:
            self.conv1 = nn.Conv2d(inputs, 4 * growth, 1, bias=False)
            self.bn2 = nn.BatchNorm2d(4 * growth)
            self.relu2 = nn.ReLU()
            self.conv2 = conv3x3(4 * growth, growth)
        else:
            self.conv1 = conv3x3(inputs, growth)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, C + growth, H, W]``."""
        y = self.conv1(self.relu1(self.bn1(x)))
        if self.bottleneck:
            y = self.conv2(self.relu2(self.bn2(y)))
        if self.dropout:
            y = F.dropout(y, self.dropout, self.training)
        return torch.cat((x, y), dim=1)


def _transition(inputs: int, outputs: int) -> nn.Sequential:
    """Fewer channels at half the height and width."""
    shrink = nn.Conv2d(inputs, outputs, 1, bias=False)
    return nn.Sequential(nn.BatchNorm2d(inputs), nn.ReLU(), shrink, nn.AvgPool2d(2, ceil_mode=True))


class CifarDenseNet(nn.Module):
    """See `cifar_densenet`; ``[B, channels, H, W] -> [B, classes]``."""

    def __init__(
        self,
        blocks: Sequence[int],
        growth: int,
        reduction: float,
        bottleneck: bool,
        classes: int,
        channels: int,
        dropout: float,
    ) -> None:
        super().__init__()
        width = 2 * growth if bottleneck and reduction < 1 else 16
        self.conv1 = conv3x3(channels, width)
        self.stages: list[str] = []
        for i, count in enumerate(blocks, 1):
            if i > 1:
                outputs = int(width * reduction)
                self._stage(f"transition{i - 1}", _transition(width, outputs))
                width = outputs
            layers = [DenseLayer(width + j * growth, growth, bottleneck, dropout) for j in range(count)]
            self._stage(f"layer{i}", nn.Sequential(*layers))
            width += count * growth
        self.bn1 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(width, classes)
        initialise_convolutions(self)
        nn.init.zeros_(self.fc.bias)

    def _stage(self, name: str, module: nn.Module) -> None:
        self.add_module(name, module)
        self.stages.append(name)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes]``."""
        x = self.conv1(x)
        for name in self.stages:
            x = self.get_submodule(name)(x)
        out: Tensor = self.fc(self.flatten(self.avgpool(self.relu(self.bn1(x)))))
        return out


def cifar_densenet(
    depth: int = 100,
    growth: int = 12,
    reduction: float = 0.5,
    bottleneck: bool = True,
    blocks: Sequence[int] | None = None,
    classes: int = 10,
    channels: int = 3,
    dropout: float = 0.0,
) -> nn.Module:
    """A DenseNet for small images: three blocks of equally many layers, or those that `blocks` gives.

    Modules: `conv1` (stem), `layer1`, `transition1`, `layer2`, `transition2`, `layer3` …, `bn1`, `relu`, `avgpool`,
    `flatten`, `fc`. Transitions halve height and width.

    Parameters
    ----------
    depth : int
        Layers with weights: 6n + 4 with bottlenecks, 3n + 4 without; of no meaning where `blocks` is given.
    growth : int
        Channels that every layer adds.
    reduction : float
        Part of the channels that a transition keeps, above 0 and at most 1.
    bottleneck : bool
        A 1 x 1 convolution to 4 times `growth` channels before each 3 x 3 one. With it and a reduction below 1 the
        network is a DenseNet-BC, whose stem has 2 times `growth` channels in place of 16.
    blocks : list of int
        Layers of each block: ``blocks=[6, 12, 24, 16], growth=32`` is DenseNet-121 without its large stem.
    classes, channels : int
        Outputs, and channels of the images.
    dropout : float
        Of the new channels.

    Raises
    ------
    ValueError
        If the depth does not fit (the message names the nearest that does), or another value is impossible.

    References
    ----------
    Huang, Liu, van der Maaten, Weinberger: Densely connected convolutional networks (2017).

    Examples
    --------
    >>> sum(p.numel() for p in cifar_densenet(100, 12).parameters())
    769162
    """
    if growth < 1:
        raise ValueError("growth is at least 1")
    if not 0 < reduction <= 1:
        raise ValueError(f"reduction is above 0 and at most 1, not {reduction}")
    if blocks is None:
        variant = "with bottlenecks" if bottleneck else "without bottlenecks"
        blocks = [nearest_depth("cifar_densenet", depth, 6 if bottleneck else 3, 4, variant)] * 3
    if not blocks or min(blocks) < 1:
        raise ValueError("blocks is a list of numbers of layers, each at least 1")
    check_layers("cifar_densenet", sum(blocks))
    return CifarDenseNet(blocks, growth, reduction, bottleneck, classes, channels, dropout)
