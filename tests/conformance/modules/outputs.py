"""Networks with unusual inputs and outputs: structures of tensors, keywords, parts copied or called by name."""

import copy
from collections import namedtuple
from dataclasses import dataclass

from parts import Base, Part
from torch import Tensor, nn


class Dict(Base):
    def forward(self, x):
        f = self.step(self.body(x.flatten(1)))
        return {"features": f, "logits": self.head(f)}


class Tuple(Base):
    def forward(self, x):
        f = self.step(self.body(x.flatten(1)))
        return self.head(f), f


Pair = namedtuple("Pair", ["logits", "features"])


class Named(Base):
    def forward(self, x):
        f = self.step(self.body(x.flatten(1)))
        return Pair(self.head(f), f)


@dataclass
class Output:
    logits: Tensor
    features: Tensor | None = None


class DataClass(Base):
    def forward(self, x):
        f = self.step(self.body(x.flatten(1)))
        return Output(self.head(f), features=f)


class Mapping(dict):
    """As `ModelOutput` of transformers: a dict with attributes."""

    def __getattr__(self, name):
        if name in self:
            return self[name]
        raise AttributeError(name)


class ModelOutput(Base):
    def forward(self, x):
        f = self.step(self.body(x.flatten(1)))
        return Mapping(logits=self.head(f), hidden=f)


class Nested(Base):
    """Parts that hand structures to one another."""

    def __init__(self):
        super().__init__()
        self.inner = Halves()

    def step(self, f):
        out = self.inner({"x": f, "scale": 2.0}, [f, (f, None)])
        return out["sum"] + out["both"][1]


class Halves(nn.Module):
    def forward(self, first, second, *, sign=1):
        a, (b, none) = second
        assert none is None
        return {"sum": first["x"] * first["scale"] + a, "both": (a, b * sign)}


class Keywords(Part):
    def forward(self, x, scale=2.0, mask=None, **more):
        return self.head(self.part(self.body(x.flatten(1)) * scale, **more) if mask is None else x)


class Arguments(Part):
    def step(self, *args, **kwargs):
        return self.inner(*args, scale=0.5, **kwargs)

    def inner(self, f, shift=0.1, scale=1.0):
        return self.part(f) * scale + shift


class SuperForward(Part):
    def forward(self, x):
        return super().forward(x) * 0.5


class ForwardByName(Part):
    """Calls `forward` instead of the module."""

    def step(self, f):
        return self.part.forward(f)


class Copied(Part):
    """A part that is a copy of another."""

    def __init__(self):
        super().__init__()
        self.copied = copy.deepcopy(self.part)

    def step(self, f):
        return self.copied(self.part(f))


class AttributeOfPart(Base):
    """Weights by `getattr` with built names."""

    def __init__(self):
        super().__init__()
        for i in range(3):
            setattr(self, f"layer{i}", nn.Linear(8, 8))

    def step(self, f):
        for i in range(3):
            f = getattr(self, f"layer{i}")(f)
        return f
