"""What several networks share: convolutions, initial weights, and the arithmetic of depths."""

from __future__ import annotations

from torch import nn

from kdplan.nn.catalog import DEEPEST


def conv3x3(inputs: int, outputs: int, stride: int = 1) -> nn.Conv2d:
    """A 3 x 3 convolution without bias; ``[B, inputs, H, W] -> [B, outputs, H / stride, W / stride]``."""
    return nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False)


def initialise_convolutions(net: nn.Module) -> None:
    """Kaiming normal weights (fan out, ReLU) and no bias for all convolutions; ones and zeros for all batch norms."""
    for module in net.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def check_layers(name: str, layers: int) -> None:
    """Refuse a network that nobody can train, before it is built.

    Raises
    ------
    ValueError
        If there are more layers than kdplan's own networks have.
    """
    if layers > DEEPEST:
        raise ValueError(f"{name} has at most {DEEPEST} layers, not {layers}")


def nearest_depth(name: str, depth: int, step: int, rest: int, where: str = "") -> int:
    """The n of ``depth = step * n + rest``.

    Raises
    ------
    ValueError
        If no n of at least 1 fits; the message names the nearest depth that does.

    Examples
    --------
    >>> nearest_depth("net", 20, 6, 2)
    3
    >>> nearest_depth("net", 18, 6, 2)
    Traceback (most recent call last):
    ValueError: net has depth 6n + 2; 18 does not fit, the nearest is 20
    """
    n, left = divmod(depth - rest, step)
    if n < 1 or left:
        nearest = step * max(1, round((depth - rest) / step)) + rest
        condition = f" {where}" if where else ""
        raise ValueError(
            f"{name}{condition} has depth {step}n + {rest}; {depth} does not fit, the nearest is {nearest}"
        )
    return n
