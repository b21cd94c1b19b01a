"""Heads over many classes: layers of which every vertical has its own, and logit scaling.

A *part* is a vertical: a set of classes. In a structurally connected layer (`sc`) each part has units of its own, and
its classes read only these (and the shared ones, where there are some), so there are no weights between parts.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdplan.ir.implementation import load
from kdplan.nn.layers import LOGIT_SCALES
from kdplan.nn.losses import wide
from kdplan.nn.models import create

SMALL = 1 << 20
"""Up to so many weights, logits are one padded product; above that a product for each part, in one buffer."""
TINY = 1e-24
"""The least squared length that logits are divided by."""


class Blocks(nn.Module):
    """A linear layer with weights of its own for each part; ``[B, M, inputs] -> [B, M, outputs]``.

    Examples
    --------
    >>> Blocks(3, inputs=4, outputs=2)(torch.zeros(5, 3, 4)).shape
    torch.Size([5, 3, 2])
    """

    def __init__(self, parts: int, inputs: int, outputs: int) -> None:
        super().__init__()
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(parts, outputs, inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(parts, 1, outputs).uniform_(-bound, bound))

    def forward(self, x: Tensor) -> Tensor:
        """``[B, parts, inputs] -> [B, parts, outputs]``."""
        return torch.baddbmm(self.bias, x.transpose(0, 1), self.weight.transpose(1, 2)).transpose(0, 1)


class _PartLogits(torch.autograd.Function):
    """For each part a product that writes into its columns of one buffer."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor, bounds: tuple[int, ...]) -> Tensor:
        """``[B, M, D], [N, D], [N] -> [B, N]``; part i has the columns `bounds[i]` to `bounds[i + 1]`."""
        ctx.save_for_backward(x, weight)
        ctx.bounds = bounds
        out = x.new_empty(x.shape[0], bounds[-1])
        for i, (a, b) in enumerate(itertools.pairwise(bounds)):
            torch.addmm(bias[a:b], x[:, i], weight[a:b].t(), out=out[:, a:b])
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor | None, Tensor | None, Tensor | None, None]:
        """Gradients of `x`, `weight` and `bias` where they are wanted."""
        x, weight = ctx.saved_tensors
        of_x = torch.empty_like(x) if ctx.needs_input_grad[0] else None
        of_weight = torch.empty_like(weight) if ctx.needs_input_grad[1] else None
        for i, (a, b) in enumerate(itertools.pairwise(ctx.bounds)):
            g = gradient[:, a:b]
            if of_x is not None:
                of_x[:, i] = g @ weight[a:b]
            if of_weight is not None:
                torch.mm(g.t(), x[:, i], out=of_weight[a:b])
        return of_x, of_weight, gradient.sum(dim=0) if ctx.needs_input_grad[2] else None, None


class PartLogits(nn.Module):
    """Logits of every class from the units of its own part; ``[B, M, inputs] -> [B, classes]``.

    Weights stand in the order of the parts, so that each part's are one block.

    Parameters
    ----------
    inputs : int
        Units that each part has.
    parts : sequence of sequences of int
        The classes of each part; together every class once. Parts may be of very different sizes.

    Examples
    --------
    >>> layer = PartLogits(4, [[0, 3], [1, 2, 4]])
    >>> x = torch.ones(2, 2, 4)
    >>> x[:, 1] = 0  # the units of the second part
    >>> torch.allclose(layer(x)[:, [1, 2, 4]], layer.bias[2:].expand(2, 3))
    True
    """

    columns: Tensor

    def __init__(self, inputs: int, parts: Sequence[Sequence[int]]) -> None:
        super().__init__()
        order = [c for part in parts for c in part]
        if sorted(order) != list(range(len(order))):
            raise ValueError("the parts of a head must have every class once")
        bound = 1 / math.sqrt(inputs)
        self.weight = nn.Parameter(torch.empty(len(order), inputs).uniform_(-bound, bound))
        self.bias = nn.Parameter(torch.empty(len(order)).uniform_(-bound, bound))
        sizes = [len(part) for part in parts]
        self.bounds = tuple(sum(sizes[:i]) for i in range(len(sizes) + 1))
        self.padded = len(order) * inputs <= SMALL
        self.ordered = order == sorted(order)
        columns = [0] * len(order)
        if self.padded:
            most = max(sizes)
            rows = [[a + min(k, n - 1) for k in range(most)] for a, n in zip(self.bounds, sizes, strict=False)]
            self.register_buffer("rows", torch.tensor(rows), persistent=False)
            for i, part in enumerate(parts):
                for k, c in enumerate(part):
                    columns[c] = i * most + k
        else:
            for column, c in enumerate(order):
                columns[c] = column
        self.register_buffer("columns", torch.tensor(columns), persistent=False)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, M, D] -> [B, N]``, in the order of the classes."""
        if self.padded:
            rows: Tensor = self.get_buffer("rows")
            weight, bias = self.weight[rows], self.bias[rows].unsqueeze(1)
            products = torch.baddbmm(bias, x.transpose(0, 1), weight.transpose(1, 2))
            return products.transpose(0, 1).flatten(1).index_select(1, self.columns)
        weight, bias = self.weight, self.bias
        if torch.is_autocast_enabled(x.device.type):
            kind = torch.get_autocast_dtype(x.device.type)
            x, weight, bias = x.to(kind), weight.to(kind), bias.to(kind)
        out: Tensor = _PartLogits.apply(x, weight, bias, self.bounds)
        return out if self.ordered else out.index_select(1, self.columns)

    fake_forward = forward  # with which a trace keeps it whole


class SelfPaced(nn.Module):
    """Logits of each part at a length of their own: ``y_v = gamma_v x_v / ||x_v||``; ``[B, C] -> [B, C]``.

    Larger factors give larger gradients, so they say how fast the classes of a part learn.

    Parameters
    ----------
    parts : sequence of sequences of int
        The classes of each part v.
    each : {"part", "class"}
        One factor for each part, or for each class.
    train : bool
        Whether the factors are trained.
    start : float, optional
        What they start at; by default the root of the number of the part's classes.
    noise : float
        Standard deviation of what is added to the start of trained factors.

    References
    ----------
    Gao, Li, Nevatia: Knowledge Concentration (2017), section 3.3.

    Examples
    --------
    >>> logit_scale = SelfPaced([[0, 1], [2]], train=False)
    >>> logit_scale(torch.tensor([[3.0, 4.0, -7.0]]))
    tensor([[ 0.8485,  1.1314, -1.0000]])
    """

    part_of: Tensor

    def __init__(
        self,
        parts: Sequence[Sequence[int]],
        each: Literal["part", "class"] = "part",
        train: bool = True,
        start: float | None = None,
        noise: float = 1e-3,
    ) -> None:
        super().__init__()
        count = sum(map(len, parts))
        part_of, starts = [0] * count, [0.0] * count
        for i, part in enumerate(parts):
            for c in part:
                part_of[c] = i
                starts[c] = math.sqrt(len(part)) if start is None else start
        first = torch.tensor(starts if each == "class" else [starts[part[0]] for part in parts])
        self.each = each
        self.parts = len(parts)
        self.register_buffer("part_of", torch.tensor(part_of), persistent=False)
        if train:
            self.gamma = nn.Parameter(first + noise * torch.randn(first.shape))
        else:
            self.register_buffer("gamma", first)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, N] -> [B, N]``, the logits of each part at their learnt length."""
        x = wide(x)
        squares = x.new_zeros(x.shape[0], self.parts).index_add(1, self.part_of, x * x)
        factor = squares.clamp_min(TINY).rsqrt()
        if self.each == "part":
            return x * (factor * self.gamma).index_select(1, self.part_of)
        return x * factor.index_select(1, self.part_of) * self.gamma

    fake_forward = forward


class Head(nn.Module):
    """Layers from a base network's features to logits; ``[B, inputs] -> [B, classes]``.

    Modules: `top1`, `top2` … (linear, then ReLU), `logits`, and `pace` where there is one. With layers of sizes
    s1 and s2, features of size s_b, M parts and N classes the weights, biases aside, are

    - fc, fc: ``s2 N + s2 s1 + s1 s_b``;
    - fc, sc: ``s2 N + M s2 s1 + s1 s_b``;
    - sc, sc: ``s2 N + M s2 s1 + M s1 s_b``;
    - fc, sc with s_g shared units: ``s2 N + M (s2 - s_g) s1 + s_g s1 + s1 s_b``.

    Parameters
    ----------
    inputs, classes : int
    layers : sequence of (kind, size, shared)
        Kind `fc` (every unit for every class) or `sc` (units of its own for each part, `shared` of them for all).
    parts : sequence of sequences of int, optional
        The classes of each part.
    logit_scale : mapping, optional
        A `name` in `PACES`, and its settings.

    References
    ----------
    Gao, Li, Nevatia: Knowledge Concentration (2017), section 3.2.

    Examples
    --------
    >>> head = Head(8, 5, [("fc", 6, 0), ("sc", 4, 1)], parts=[[0, 1], [2, 3, 4]])
    >>> head(torch.zeros(3, 8)).shape, sum(p.numel() for p in head.parameters() if p.dim() > 1)
    (torch.Size([3, 5]), 110)
    """

    def __init__(
        self,
        inputs: int,
        classes: int,
        layers: Sequence[tuple[str, int, int]],
        parts: Sequence[Sequence[int]] | None = None,
        logit_scale: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__()
        self.layers = len(layers)
        apart = False
        width = inputs
        for i, (kind, size, shared) in enumerate(layers, 1):
            layer: nn.Module
            if kind == "sc" and shared < size:
                assert parts is not None
                layer = Blocks(len(parts), width, size) if apart else _Apart(width, len(parts), size, shared)
                apart = True
            else:
                layer = nn.Linear(width, size)
            self.add_module(f"top{i}", nn.Sequential(layer, nn.ReLU()))
            width = size
        self.logits = PartLogits(width, parts) if apart and parts is not None else nn.Linear(width, classes)
        self.pace: nn.Module | None = None  # its name in stored weights
        if logit_scale is not None and parts is not None:
            given = {k: v for k, v in logit_scale.items() if k != "name"}
            self.pace = load(LOGIT_SCALES[logit_scale["name"]].implementation)(parts, **given)

    def forward(self, x: Tensor) -> Tensor:
        """``[B, inputs] -> [B, classes]``."""
        for i in range(1, self.layers + 1):
            x = self.get_submodule(f"top{i}")(x)
        out: Tensor = self.logits(x) if self.pace is None else self.pace(self.logits(x))
        return out


class _Apart(nn.Module):
    """From units for all to units for each part, some of which all parts share; ``[B, D] -> [B, M, size]``."""

    def __init__(self, inputs: int, parts: int, size: int, shared: int) -> None:
        super().__init__()
        self.parts = parts
        self.own = nn.Linear(inputs, parts * (size - shared))
        self.shared = nn.Linear(inputs, shared) if shared else None

    def forward(self, x: Tensor) -> Tensor:
        """``[B, D] -> [B, M, size]``; shared units come last."""
        own: Tensor = self.own(x).unflatten(1, (self.parts, -1))
        if self.shared is None:
            return own
        return torch.cat([own, self.shared(x).unsqueeze(1).expand(-1, self.parts, -1)], dim=2)


def headed(
    base: str,
    settings: Mapping[str, Any],
    layers: Sequence[Sequence[Any]],
    classes: int,
    parts: Sequence[Sequence[int]] | None = None,
    logit_scale: Mapping[str, Any] | None = None,
) -> nn.Module:
    """A network whose last linear layer is replaced by a head on the features that it reads.

    Parameters
    ----------
    base, settings
        The network's factory and settings.
    layers, classes, parts, logit_scale
        See `Head`.

    Raises
    ------
    ValueError
        If the network does not end in a linear layer.

    Examples
    --------
    >>> net = headed("digits_net", {"width": 2, "classes": 10}, [["fc", 6, 0]], 10)
    >>> net.fc.top1[0].in_features, net(torch.zeros(3, 1, 8, 8)).shape
    (8, torch.Size([3, 10]))
    """
    # The layer that goes may be larger than all that stays, so it is made small.
    few = {"classes": 2} if "classes" in settings else {}
    net = create(base, **{**settings, **few})
    linear = [(n, m) for n, m in net.named_modules() if isinstance(m, nn.Linear)]
    if not linear or not linear[-1][0] or (few and linear[-1][1].out_features != 2):
        raise ValueError(f"`{base}` does not end in a linear layer, so a head cannot replace it")
    path, last = linear[-1]
    head = Head(last.in_features, classes, [(str(k), int(n), int(g)) for k, n, g in layers], parts, logit_scale)
    net.set_submodule(path, head)
    return net
