"""Residual networks for 32 x 32 images: a 3 x 3 stem, three groups of blocks, and one linear layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.nn.models.parts import conv3x3, initialise_convolutions, nearest_depth


class PadShortcut(nn.Module):
    """The shortcut without parameters: every `stride`-th pixel, and zero channels for those that are missing.

    ``[B, C, H, W] -> [B, C', H / stride, W / stride]``
    """

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.before = (outputs - inputs) // 2
        self.after = outputs - inputs - self.before

    def forward(self, x: Tensor) -> Tensor:
        """Every `stride`-th pixel, with zero channels on both sides of the given ones."""
        return F.pad(x[:, :, :: self.stride, :: self.stride], (0, 0, 0, 0, self.before, self.after))


def _shortcut(kind: str, inputs: int, outputs: int, stride: int) -> nn.Module:
    if stride == 1 and inputs == outputs:
        return nn.Identity()
    if kind == "pad":
        return PadShortcut(inputs, outputs, stride)
    return nn.Sequential(nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs))


class BasicBlock(nn.Module):
    """Two 3 x 3 convolutions beside a shortcut; ``[B, C, H, W] -> [B, width, H / stride, W / stride]``."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(width, width)
        self.bn2 = nn.BatchNorm2d(width)
        self.shortcut = _shortcut(shortcut, inputs, width, stride)
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, width, H / stride, W / stride]``."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        out: Tensor = self.relu2(y + self.shortcut(x))
        return out


class Bottleneck(nn.Module):
    """1 x 1, 3 x 3, 1 x 1 convolutions beside a shortcut; ``[B, C, H, W] -> [B, 4 width, H / stride, W / stride]``."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int, shortcut: str) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.relu1 = nn.ReLU()
        self.conv2 = conv3x3(width, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut = _shortcut(shortcut, inputs, outputs, stride)
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, 4 width, H / stride, W / stride]``."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu3(y + self.shortcut(x))
        return out


class CifarResNet(nn.Module):
    """See `cifar_resnet`; ``[B, channels, H, W] -> [B, classes]``."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(
        self,
        block: type[BasicBlock | Bottleneck],
        blocks: int,
        shortcut: str,
        classes: int,
        widths: list[int],
        channels: int,
    ) -> None:
        super().__init__()
        stem, *groups = widths
        self.conv1 = conv3x3(channels, stem)
        self.bn1 = nn.BatchNorm2d(stem)
        self.relu = nn.ReLU()
        inputs = stem
        for i, width in enumerate(groups):
            layers = []
            for j in range(blocks):
                layers.append(block(inputs, width, 2 if i > 0 and j == 0 else 1, shortcut))
                inputs = width * block.expansion
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes]``."""
        x = self.relu(self.bn1(self.conv1(x)))
        x = self.layer3(self.layer2(self.layer1(x)))
        out: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return out


def cifar_resnet(
    depth: int = 20,
    block: str = "basic",
    shortcut: str = "projection",
    classes: int = 10,
    width: float | Sequence[int] = 1.0,
    channels: int = 3,
) -> nn.Module:
    """A residual network with 16, 32 and 64 channels for small images.

    Modules: `conv1`, `bn1`, `relu` (stem), `layer1`, `layer2`, `layer3`, `avgpool`, `flatten`, `fc`.

    Parameters
    ----------
    depth : int
        Layers with weights: 6n + 2 with basic blocks, 9n + 2 with bottlenecks.
    block : {"basic", "bottleneck"}
    shortcut : {"projection", "pad"}
        Where the shape changes: a 1 x 1 convolution with batch norm ("option B"), or strided copying and zero channels
        without parameters ("option A").
    classes, channels : int
        Outputs, and channels of the images.
    width : float or list of four int
        Multiplies all channel counts, or gives those of the stem and the three groups:
        `cifar_resnet(8, width=[32, 64, 128, 256])` is the network often called 8x4.

    Raises
    ------
    ValueError
        If the depth does not fit the block (the message names the nearest that does), or another value is impossible.

    References
    ----------
    He, Zhang, Ren, Sun: Deep residual learning for image recognition (2015), section 4.2.

    Examples
    --------
    >>> net = cifar_resnet(20, classes=100)
    >>> sum(p.numel() for p in net.parameters())
    278324
    """
    kinds: dict[str, tuple[type[BasicBlock | Bottleneck], int]] = {
        "basic": (BasicBlock, 6),
        "bottleneck": (Bottleneck, 9),
    }
    if block not in kinds:
        raise ValueError(f"block is `basic` or `bottleneck`, not `{block}`")
    if shortcut not in ("projection", "pad"):
        raise ValueError(f"shortcut is `projection` or `pad`, not `{shortcut}`")
    kind, step = kinds[block]
    blocks = nearest_depth("cifar_resnet", depth, step, 2, f"with {block} blocks")
    return CifarResNet(kind, blocks, shortcut, classes, _widths(width), channels)


def _widths(width: float | Sequence[int]) -> list[int]:
    scaled = [width * w for w in (16, 16, 32, 64)] if isinstance(width, int | float) else width
    widths = [round(w) for w in scaled]
    if len(widths) != 4 or min(widths) < 1:
        raise ValueError("width is one factor above 0, or four channel counts: of the stem and of the three groups")
    return widths


class WideBlock(nn.Module):
    """Two 3 x 3 convolutions after batch norm and ReLU; ``[B, C, H, W] -> [B, width, H / stride, W / stride]``."""

    def __init__(self, inputs: int, width: int, stride: int, dropout: float) -> None:
        super().__init__()
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu1 = nn.ReLU()
        self.conv1 = conv3x3(inputs, width, stride)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu2 = nn.ReLU()
        self.dropout = nn.Dropout(dropout) if dropout else nn.Identity()
        self.conv2 = conv3x3(width, width)
        # The convolutional shortcut reads what the first convolution reads; the identity reads the block's input.
        self.shortcut = None if inputs == width else nn.Conv2d(inputs, width, 1, stride=stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, width, H / stride, W / stride]``."""
        y = self.relu1(self.bn1(x))
        shortcut = x if self.shortcut is None else self.shortcut(y)
        y = self.relu2(self.bn2(self.conv1(y)))
        out: Tensor = self.conv2(self.dropout(y)) + shortcut
        return out


class CifarWideResNet(nn.Module):
    """See `cifar_wide_resnet`; ``[B, channels, H, W] -> [B, classes]``."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, blocks: int, widths: list[int], classes: int, channels: int, dropout: float) -> None:
        super().__init__()
        stem, *groups = widths
        self.conv1 = conv3x3(channels, stem)
        inputs = stem
        for i, width in enumerate(groups):
            layers = []
            for j in range(blocks):
                layers.append(WideBlock(inputs, width, 2 if i > 0 and j == 0 else 1, dropout))
                inputs = width
            self.add_module(f"layer{i + 1}", nn.Sequential(*layers))
        self.bn1 = nn.BatchNorm2d(inputs)
        self.relu = nn.ReLU()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.flatten = nn.Flatten()
        self.fc = nn.Linear(inputs, classes)
        initialise_convolutions(self)

    def forward(self, x: Tensor) -> Tensor:
        """Images ``[B, C, H, W]`` to logits ``[B, classes]``."""
        x = self.layer3(self.layer2(self.layer1(self.conv1(x))))
        x = self.relu(self.bn1(x))
        out: Tensor = self.fc(self.flatten(self.avgpool(x)))
        return out


def cifar_wide_resnet(
    depth: int = 16, width: float = 2.0, classes: int = 10, channels: int = 3, dropout: float = 0.0
) -> nn.Module:
    """A wide residual network for small images, batch norm and ReLU before each convolution.

    Modules: `conv1` (stem), `layer1`, `layer2`, `layer3`, `bn1`, `relu`, `avgpool`, `flatten`, `fc`.

    Parameters
    ----------
    depth : int
        Layers with weights, 6n + 4.
    width : float
        Factor on the 16, 32 and 64 channels of the groups; the stem keeps 16.
    classes, channels : int
        Outputs, and channels of the images.
    dropout : float
        Between a block's convolutions.

    Raises
    ------
    ValueError
        If the depth does not fit; the message names the nearest that does.

    References
    ----------
    Zagoruyko and Komodakis: Wide residual networks (2016).

    Examples
    --------
    >>> sum(p.numel() for p in cifar_wide_resnet(16, 2, classes=100).parameters())
    703284
    """
    blocks = nearest_depth("cifar_wide_resnet", depth, 6, 4)
    return CifarWideResNet(blocks, [16, *[round(w * width) for w in (16, 32, 64)]], classes, channels, dropout)
