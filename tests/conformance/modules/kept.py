"""Networks that keep something of their weights, or write into weights themselves."""

import copy
import functools
from dataclasses import dataclass

import numpy as np
import parts
import torch
from torch import nn


@dataclass(frozen=True)
class Config:
    width: int = 8


class Part(parts.Part):
    pass


# ---- what is kept of weights


class LazySnapshot(Part):
    def __init__(self):
        super().__init__()
        self.first = None

    def step(self, f):
        if self.first is None:
            self.first = self.part.weight.detach().clone()
        return self.part(f) - f @ self.first.t()


class LazyByName(Part):
    def step(self, f):
        if not hasattr(self, "first"):
            self.first = self.part.weight.detach().clone()
        return self.part(f) - f @ self.first.t()


class CachedProperty(Part):
    @functools.cached_property
    def norm(self):
        return self.part.weight.detach().norm()

    def step(self, f):
        return self.part(f) / self.norm


class CachedMethod(Part):
    @functools.lru_cache  # noqa: B019
    def norm(self):
        return self.part.weight.detach().norm().clone()

    def step(self, f):
        return self.part(f) / self.norm()


class CachedGrid(Part):
    """A constant: kept or computed again, it is the same."""

    @staticmethod
    @functools.lru_cache
    def grid(n):
        return torch.linspace(0.5, 1.5, n)

    def step(self, f):
        return self.part(f) * self.grid(8)


class ArrayBesideDataclass(Part):
    def __init__(self):
        super().__init__()
        self.window = np.hanning(Config().width + 2)[1:-1].astype(np.float32)

    def step(self, f):
        return self.part(f) * torch.from_numpy(self.window).to(f)


# ---- weights that `forward` writes


class MomentumByData(Part):
    """A second network that follows, and a pointer that is read as a number."""

    def __init__(self):
        super().__init__()
        self.slow = copy.deepcopy(self.part)
        for p in self.slow.parameters():
            p.data.zero_()
        self.register_buffer("pointer", torch.zeros(1, dtype=torch.long))

    def follow(self):
        for slow, fast in zip(self.slow.parameters(), self.part.parameters(), strict=True):
            slow.data = 0.5 * slow.data + 0.5 * fast.data

    def step(self, f):
        self.follow()
        self.pointer[0] = (int(self.pointer) + 1) % 4
        return self.part(f) - self.slow(f).detach() + 0 * self.slow(f)


class MomentumInPlace(MomentumByData):
    def follow(self):
        for slow, fast in zip(self.slow.parameters(), self.part.parameters(), strict=True):
            slow.data.mul_(0.5).add_(0.5 * fast.data)


class MomentumByState(MomentumByData):
    def follow(self):
        fast = self.part.state_dict()
        self.slow.load_state_dict({n: 0.5 * p + 0.5 * fast[n] for n, p in self.slow.state_dict().items()})


class Clipped(Part):
    """Weights are clipped before they are used."""

    def step(self, f):
        with torch.no_grad():
            self.part.weight.clamp_(-0.2, 0.2)
        return self.part(f)


class Renormed(Part):
    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(10, 8, max_norm=0.5)

    def step(self, f):
        return self.part(f) + self.table(f.detach().abs().sum(1).long() % 10)
