"""AlexNet as torchvision has it, with names for its layers and other widths."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import nn

from kdplan.nn.models.zoo import Weights, load_fitted, read_named, replace_input
from kdplan.nn.pretrained import renames

_WIDTHS = (64, 192, 384, 256, 256, 4096, 4096)
"""Channels of `conv1` to `conv5`, and sizes of `fc6` and `fc7`."""


def alexnet(
    classes: int = 10,
    width: float | Sequence[int] = 1.0,
    channels: int = 3,
    dropout: float = 0.5,
    weights: Weights | None = None,
) -> nn.Module:
    """AlexNet for images of about 224 x 224, at least 63 x 63; ``[B, channels, H, W] -> [B, classes]``.

    Modules: `conv1` … `conv5`, `fc6`, `fc7`, `fc8`, each but the last followed by `relu1` … `relu7`, and `pool1`,
    `pool2`, `pool5`. With width 1 it is torchvision's, whose weights it can begin with.

    Parameters
    ----------
    classes, channels : int
        Outputs, and channels of the images.
    width : float or list of int
        A factor on 64, 192, 384, 256, 256 channels and 4096, 4096 units, or these seven numbers.
    dropout : float
        Before `fc6` and `fc7`.
    weights : str or mapping, optional
        `IMAGENET1K_V1`, whose file must lie in torch.hub's folder, or the path of a file with torchvision's names; a
        mapping as of `torchvision`.

    Raises
    ------
    ValueError
        For widths that are none, and for weights that do not fit.
    FileNotFoundError
        If the weights' file is not there.

    Examples
    --------
    >>> net = alexnet(width=0.125)
    >>> net.conv2, net.fc6.out_features
    (Conv2d(8, 24, kernel_size=(5, 5), stride=(1, 1), padding=(2, 2)), 512)
    """
    sizes = [round(width * w) for w in _WIDTHS] if isinstance(width, int | float) else [int(w) for w in width]
    if len(sizes) != len(_WIDTHS) or min(sizes) < 1:
        raise ValueError(f"alexnet has seven widths of at least 1, or one factor; {width} is neither")
    a, b, c, d, e, f, g = sizes
    net = nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(3, a, 11, stride=4, padding=2),
            relu1=nn.ReLU(),
            pool1=nn.MaxPool2d(3, 2),
            conv2=nn.Conv2d(a, b, 5, padding=2),
            relu2=nn.ReLU(),
            pool2=nn.MaxPool2d(3, 2),
            conv3=nn.Conv2d(b, c, 3, padding=1),
            relu3=nn.ReLU(),
            conv4=nn.Conv2d(c, d, 3, padding=1),
            relu4=nn.ReLU(),
            conv5=nn.Conv2d(d, e, 3, padding=1),
            relu5=nn.ReLU(),
            pool5=nn.MaxPool2d(3, 2),
            avgpool=nn.AdaptiveAvgPool2d(6),
            flatten=nn.Flatten(),
            drop6=nn.Dropout(dropout),
            fc6=nn.Linear(36 * e, f),
            relu6=nn.ReLU(),
            drop7=nn.Dropout(dropout),
            fc7=nn.Linear(f, g),
            relu7=nn.ReLU(),
            fc8=nn.Linear(g, classes),
        )
    )
    if channels != 3:
        replace_input(net, channels)
    if weights is not None:
        if tuple(sizes) != _WIDTHS:
            raise ValueError("the weights are of an alexnet with width 1")
        load_fitted(net, read_named("alexnet", weights)[0], weights, channels, renames("alexnet"))
    return net
