"""Small networks: for digits, for tests, and as parts of larger ones."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.nn.models.parts import check_layers, conv3x3, initialise_convolutions


def _conv(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(OrderedDict(conv=conv3x3(inputs, outputs, stride), bn=nn.BatchNorm2d(outputs), relu=nn.ReLU()))


def digits_net(width: int = 16, classes: int = 10, channels: int = 1, blocks: int = 1) -> nn.Module:
    """A small convolutional network that learns 8 x 8 digits in seconds; ``[B, channels, H, W] -> [B, classes]``.

    Modules: `stem` (full size), `layer1`, `layer2` (each halves height and width), `avgpool`, `flatten`, `fc`.

    Parameters
    ----------
    width : int
        Channels of the stem; `layer1` has twice as many, `layer2` four times.
    classes, channels : int
        Outputs, and channels of the images.
    blocks : int
        Convolutions in each of `layer1` and `layer2`.

    Examples
    --------
    >>> import torch
    >>> digits_net(width=8)(torch.zeros(2, 1, 8, 8)).shape
    torch.Size([2, 10])
    """
    if width < 1 or blocks < 1:
        raise ValueError("digits_net needs a width and a number of blocks of at least 1")

    def group(inputs: int, outputs: int) -> nn.Sequential:
        return nn.Sequential(_conv(inputs, outputs, 2), *[_conv(outputs, outputs) for _ in range(blocks - 1)])

    net = nn.Sequential(
        OrderedDict(
            stem=_conv(channels, width),
            layer1=group(width, 2 * width),
            layer2=group(2 * width, 4 * width),
            avgpool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            fc=nn.Linear(4 * width, classes),
        )
    )
    initialise_convolutions(net)
    return net


def mlp(inputs: int, hidden: Sequence[int] = (64,), classes: int = 10) -> nn.Module:
    """A multilayer perceptron; ``[B, ...] -> [B, classes]``, each sample flattened to `inputs` values.

    Modules: `flatten`, then `layer1`, `layer2` … (linear and ReLU), then `fc`.

    Parameters
    ----------
    inputs : int
        Values in a sample: channels x height x width.
    hidden : list of int
        Sizes of the hidden layers; may be empty.
    classes : int

    Examples
    --------
    >>> [name for name, _ in mlp(64, hidden=[32, 16]).named_children()]
    ['flatten', 'layer1', 'layer2', 'fc']
    """
    check_layers("mlp", len(hidden))
    parts: OrderedDict[str, nn.Module] = OrderedDict(flatten=nn.Flatten())
    size = inputs
    for i, width in enumerate(hidden):
        parts[f"layer{i + 1}"] = nn.Sequential(OrderedDict(linear=nn.Linear(size, width), relu=nn.ReLU()))
        size = width
    parts["fc"] = nn.Linear(size, classes)
    return nn.Sequential(parts)


def conv1x1(inputs: int, outputs: int, bias: bool = False) -> nn.Module:
    """A linear map of the channels at every position; ``[B, inputs, H, W] -> [B, outputs, H, W]``.

    Examples
    --------
    >>> conv1x1(16, 64).weight.shape
    torch.Size([64, 16, 1, 1])
    """
    net = nn.Conv2d(inputs, outputs, 1, bias=bias)
    nn.init.kaiming_normal_(net.weight, mode="fan_in", nonlinearity="linear")
    if net.bias is not None:
        nn.init.zeros_(net.bias)
    return net


def linear(inputs: int, outputs: int, bias: bool = True) -> nn.Module:
    """A linear map; ``[..., inputs] -> [..., outputs]``.

    Examples
    --------
    >>> linear(16, 64).weight.shape
    torch.Size([64, 16])
    """
    return nn.Linear(inputs, outputs, bias=bias)


class _Mixing(nn.Conv2d):
    """A 1 x 1 convolution of maps, and the same linear map of vectors."""

    def forward(self, x: Tensor) -> Tensor:
        """``[B, C, H, W]`` or ``[B, C]`` to the same with other channels."""
        if x.dim() == 2:
            return F.linear(x, self.weight[:, :, 0, 0], self.bias)
        return super().forward(x)


class AutoEncoder(nn.Module):
    """See `autoencoder`; ``[B, inputs, H, W] -> [B, inputs, H, W]``, with `code` ``[B, code, H, W]`` in between.

    Vectors ``[B, inputs]`` are maps of one pixel, and have a code ``[B, code]``.
    """

    def __init__(self, inputs: int, code: int) -> None:
        super().__init__()
        self.code = _Mixing(inputs, code, 1)
        self.output = _Mixing(code, inputs, 1)

    def forward(self, x: Tensor) -> Tensor:
        """The input reconstructed from its code, in the input's shape."""
        out: Tensor = self.output(self.code(x))
        return out


def autoencoder(inputs: int, code: int) -> nn.Module:
    """Squeezes channels and restores them, each by one 1 x 1 convolution; ``[B, inputs, H, W]``, shape kept.

    Vectors ``[B, inputs]`` are squeezed and restored likewise.

    Modules: `code` (the squeezed features), `output` (the restored ones).

    Parameters
    ----------
    inputs : int
        Channels that come in.
    code : int
        Channels of the code.

    Examples
    --------
    >>> [name for name, _ in autoencoder(64, 24).named_children()]
    ['code', 'output']
    """
    return AutoEncoder(inputs, code)
