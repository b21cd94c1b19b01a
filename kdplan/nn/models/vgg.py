"""VGG networks for small images: five groups of 3 x 3 convolutions with batch norm, and one linear layer."""

from __future__ import annotations

from collections import OrderedDict

from torch import nn

from kdplan.nn.models.parts import initialise_convolutions

GROUPS = {
    8: (1, 1, 1, 1, 1),
    11: (1, 1, 2, 2, 2),
    13: (2, 2, 2, 2, 2),
    16: (2, 2, 3, 3, 3),
    19: (2, 2, 4, 4, 4),
}
"""Depth -> convolutions in each group. With three linear layers the depths would be these; here there is one."""

CHANNELS = (64, 128, 256, 512, 512)


def cifar_vgg(depth: int = 16, classes: int = 10, width: float = 1.0, channels: int = 3) -> nn.Module:
    """A VGG network for 32 x 32 images; ``[B, channels, H, W] -> [B, classes]``.

    Modules: `layer1`, `pool1`, … `layer4`, `pool4`, `layer5`, `avgpool`, `flatten`, `fc`. Each layer is a sequence of
    convolution (with bias), batch norm and ReLU; on 32 x 32 images their sizes are 32, 16, 8, 4 and 2.

    Parameters
    ----------
    depth : {8, 11, 13, 16, 19}
        As the networks are called, counting three linear layers.
    classes, channels : int
        Outputs, and channels of the images.
    width : float
        Factor on the 64, 128, 256, 512 and 512 channels of the groups.

    Raises
    ------
    ValueError
        If there is no such depth; the message names the nearest.

    References
    ----------
    Simonyan and Zisserman: Very deep convolutional networks for large-scale image recognition (2014), as it is common
    for CIFAR: batch norm, and one linear layer in place of three.

    Examples
    --------
    >>> sum(p.numel() for p in cifar_vgg(16).parameters())
    14728266
    """
    if depth not in GROUPS:
        nearest = min(GROUPS, key=lambda d: abs(d - depth))
        raise ValueError(f"cifar_vgg has depth 8, 11, 13, 16 or 19; {depth} does not fit, the nearest is {nearest}")
    widths = [round(width * c) for c in CHANNELS]
    if min(widths) < 1:
        raise ValueError("width is a factor above 0 that leaves at least one channel")
    parts: OrderedDict[str, nn.Module] = OrderedDict()
    inputs = channels
    for i, (count, outputs) in enumerate(zip(GROUPS[depth], widths, strict=True), 1):
        layers: list[nn.Module] = []
        for _ in range(count):
            layers += [nn.Conv2d(inputs, outputs, 3, padding=1), nn.BatchNorm2d(outputs), nn.ReLU()]
            inputs = outputs
        parts[f"layer{i}"] = nn.Sequential(*layers)
        if i < len(widths):
            parts[f"pool{i}"] = nn.MaxPool2d(2, ceil_mode=True)  # smaller images than 16 x 16 keep one position
    parts |= OrderedDict(avgpool=nn.AdaptiveAvgPool2d(1), flatten=nn.Flatten(), fc=nn.Linear(inputs, classes))
    net = nn.Sequential(parts)
    initialise_convolutions(net)
    nn.init.normal_(parts["fc"].weight, std=0.01)  # type: ignore[arg-type]
    nn.init.zeros_(parts["fc"].bias)  # type: ignore[arg-type]
    return net
