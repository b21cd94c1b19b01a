"""Adapters: trainable layers that join signals of different shapes and exist only during their phase."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import nn
from torch.nn import functional as F

from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.graph.build import Builder
from kdplan.graph.signals import Signal, dims, shown
from kdplan.ir.seed import fold


class Adapters:
    """Makes adapters; equal calls are one module."""

    def __init__(self, builder: Builder, seed: int) -> None:
        self.builder = builder
        self.seed = seed
        self.signals: dict[tuple[str, int, int], Signal] = {}
        self.bridges: list[str] = []
        """What each `fit` adds, one line each, for the plan's table."""

    def _module(self, kind: str, x: Signal, outputs: int, span: Span | None) -> Signal:
        key = (kind, id(x.value), outputs)
        if key in self.signals:
            return self.signals[key]
        wants = 4 if kind == "conv1x1" else 2
        if len(x.shape) != wants:
            raise error("KD0511", span, what=f"`{kind}`", shape=dims(x.shape),
                        wants="a map [B, C, H, W]" if wants == 4 else "a vector for each sample [B, D]")  # fmt: skip
        number = len(self.builder.adapters)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(fold(self.seed, "splice", number))  # the old word: it is in every seed
            module: nn.Module = (
                nn.Conv2d(x.shape[1], outputs, 1, bias=False) if wants == 4 else nn.Linear(x.shape[1], outputs)
            )
        name = f"{kind} {x.name or number}".strip()
        while name in self.builder.adapters:
            name += "'"
        node = self.builder.module(name, module, x.value)
        self.signals[key] = Signal(node, name=f"{kind}({x.name})")
        return self.signals[key]

    def conv1x1(self, x: Signal, channels: int, span: Span | None) -> Signal:
        """A map with `channels` channels: [B, C, H, W] to [B, channels, H, W]."""
        return self._module("conv1x1", x, channels, span)

    def linear(self, x: Signal, features: int, span: Span | None) -> Signal:
        """A vector of `features` numbers a sample: [B, D] to [B, features]."""
        return self._module("linear", x, features, span)

    def resize(self, x: Signal, size: int, span: Span | None) -> Signal:
        """A map of another height and width, bilinear: [B, C, H, W] to [B, C, size, size]."""
        return self._resized(x, (size, size), span)

    def _resized(self, x: Signal, size: tuple[int, int], span: Span | None) -> Signal:
        if len(x.shape) != 4:
            raise error("KD0511", span, what="`resize`", shape=dims(x.shape), wants="a map [B, C, H, W]")
        if x.shape[2:] == size:
            return x
        node = self.builder.call(F.interpolate, x.value, size=list(size), mode="bilinear", align_corners=False)
        return Signal(node, name=f"resize({x.name})")

    def fit(self, x: Signal, like: Signal, span: Span | None) -> Signal:
        """`x` with the channels and size of `like`.

        The resizing comes where the map is smaller, so that the 1x1 convolution costs least.
        """
        a, b = x.shape, like.shape
        if a == b:
            return x
        if len(a) != len(b) or len(a) not in (2, 4):
            raise error("KD0511", span, what="`fit`", shape=dims(a), wants=f"a signal that can become {dims(b)}")
        if len(a) == 2:
            self._bridged(x, like)
            return self.linear(x, b[1], span)
        self._bridged(x, like)
        shrink = b[2] * b[3] < a[2] * a[3]
        if shrink:
            x = self._resized(x, (b[2], b[3]), span)
        if a[1] != b[1]:
            x = self.conv1x1(x, b[1], span)
        return self._resized(x, (b[2], b[3]), span)

    def _bridged(self, x: Signal, like: Signal) -> None:
        a, b = x.shape, like.shape
        layer = "a linear layer" if len(a) == 2 else "a 1×1 convolution"
        steps = ([layer] if a[1] != b[1] else []) + (["bilinear resizing"] if a[2:] != b[2:] else [])
        text = f"{x.name} {shown(a)} → {shown(b)} by {' and '.join(steps)}"
        if text not in self.bridges:
            self.bridges.append(text)


ADAPTERS: dict[str, Callable[..., Signal]] = {
    "fit": Adapters.fit,
    "conv1x1": Adapters.conv1x1,
    "linear": Adapters.linear,
    "resize": Adapters.resize,
}
"""The functions whose row says `built = "adapter"`."""
