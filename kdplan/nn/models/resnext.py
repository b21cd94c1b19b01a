"""ResNeXt for small images: bottlenecks whose middle convolution is split into groups."""

from __future__ import annotations

from torch import Tensor, nn

from kdplan.nn.models.parts import conv3x3, initialise_convolutions, nearest_depth


class GroupedBottleneck(nn.Module):
    """1 x 1, grouped 3 x 3, 1 x 1 convolutions beside a shortcut; ``[B, C, H, W] -> [B, outputs, H / stride, …]``."""

    def __init__(self, inputs: int, inner: int, outputs: int, groups: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, inner, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(inner)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(inner, inner, 3, stride=stride, padding=1, groups=groups, bias=False)
        self.bn2 = nn.BatchNorm2d(inner)
        self.relu2 = nn.ReLU()
        self.conv3 = nn.Conv2d(inner, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.shortcut: nn.Module = nn.Identity()
        if stride != 1 or inputs != outputs:
            self.shortcut = nn.Sequential(
                nn.Conv2d(inputs, outputs, 1, stride=stride, bias=False), nn.BatchNorm2d(outputs)
            )
        self.relu3 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W] -> [B, outputs, H / stride, W / stride]``."""
        y = self.relu1(self.bn1(self.conv1(x)))
        y = self.relu2(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu3(y + self.shortcut(x))
        return out


class CifarResNeXt(nn.Module):
    """See `cifar_resnext`; ``[B, channels, H, W] -> [B, classes]``."""

    layer1: nn.Sequential
    layer2: nn.Sequential
    layer3: nn.Sequential

    def __init__(self, blocks: int, cardinality: int, width: int, classes: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv3x3(channels, 64)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        inputs = 64
        for i, scale in enumerate((1, 2, 4)):
            layers = []
            for j in range(blocks):
                stride = 2 if i > 0 and j == 0 else 1
                layers.append(GroupedBottleneck(inputs, cardinality * width * scale, 256 * scale, cardinality, stride))
                inputs = 256 * scale
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


def cifar_resnext(
    depth: int = 29, cardinality: int = 8, width: int = 64, classes: int = 10, channels: int = 3
) -> nn.Module:
    """A ResNeXt for small images, three groups of blocks with 256, 512 and 1024 channels.

    Modules: `conv1`, `bn1`, `relu` (stem), `layer1`, `layer2`, `layer3`, `avgpool`, `flatten`, `fc`.

    Parameters
    ----------
    depth : int
        Layers with weights, 9n + 2.
    cardinality : int
        Groups of the 3 x 3 convolutions.
    width : int
        Channels of each group in `layer1`; twice and four times as many later. Cardinality 8 and width 64 is the
        network called 8x64d.
    classes, channels : int
        Outputs, and channels of the images.

    Raises
    ------
    ValueError
        If the depth does not fit (the message names the nearest that does), or another value is impossible.

    References
    ----------
    Xie, Girshick, Dollar, Tu, He: Aggregated residual transformations for deep neural networks (2017), section 5.3.

    Examples
    --------
    >>> sum(p.numel() for p in cifar_resnext(29, cardinality=1, width=8).parameters())
    971178
    """
    if cardinality < 1 or width < 1:
        raise ValueError("cardinality and width are at least 1")
    blocks = nearest_depth("cifar_resnext", depth, 9, 2)
    return CifarResNeXt(blocks, cardinality, width, classes, channels)
