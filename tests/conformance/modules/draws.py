"""Networks that draw random numbers, from torch's, Python's and NumPy's generators."""

import random

import numpy as np
import torch
from parts import Base, Part
from torch import nn
from torch.nn import functional as F


class DepthByTorch(Part):
    def step(self, f):
        return f + self.part(f) * (torch.rand(f.shape[0], 1) < 0.5)


class DepthByTorchNumber(Part):
    def step(self, f):
        return f + self.part(f) if torch.rand(1).item() < 0.5 else f + 0 * self.part(f)


class DepthByRandom(Part):
    def step(self, f):
        return f + self.part(f) * (random.random() < 0.5)


class DepthByNumpy(Part):
    def step(self, f):
        return f + self.part(f) * float(np.random.rand() < 0.5)


class DepthBySampledLayer(Base):
    """Python chooses a layer."""

    def __init__(self):
        super().__init__()
        self.choices = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))

    def step(self, f):
        return random.choice(self.choices)(f)


class Gumbel(Part):
    def step(self, f):
        return f * F.gumbel_softmax(self.part(f), tau=0.5)


class GumbelHard(Part):
    def step(self, f):
        return f * F.gumbel_softmax(self.part(f), hard=True)


class DropoutFunctional(Base):
    def step(self, f):
        return F.dropout(f, 0.3, training=self.training)


class DropoutAlways(Base):
    def step(self, f):
        return F.dropout(f, 0.3)


class DropoutZero(Base):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.0)

    def step(self, f):
        return self.drop(f)


class DropoutInPlace(Base):
    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5, inplace=True)

    def step(self, f):
        g = f * 1
        return self.drop(g) + g


class DropoutFunctionalInPlace(Part):
    def step(self, f):
        g = self.part(f)
        F.dropout(g, 0.5, training=self.training, inplace=True)
        return g


class DropoutOther(Base):
    """The other kinds of dropout."""

    def __init__(self):
        super().__init__()
        self.alpha, self.feature = nn.AlphaDropout(0.2), nn.FeatureAlphaDropout(0.2)
        self.channel = nn.Dropout1d(0.2)

    def step(self, f):
        return self.feature(self.channel(self.alpha(f)[:, :, None])).squeeze(2)


class DropoutTwice(Base):
    """One layer that is called twice draws twice."""

    def __init__(self):
        super().__init__()
        self.drop = nn.Dropout(0.5)

    def step(self, f):
        return self.drop(f) - self.drop(f)


class RandomReLU(Base):
    def __init__(self):
        super().__init__()
        self.act = nn.RReLU()

    def step(self, f):
        return self.act(f)


class Noise(Base):
    def step(self, f):
        return f + 0.1 * torch.randn_like(f) + 0.1 * torch.rand(f.shape) + f.new_empty(f.shape).normal_(0, 0.1)


class NoiseInPlace(Base):
    def step(self, f):
        noise = torch.empty_like(f)
        noise.uniform_(-1, 1)
        return f + noise.bernoulli_(0.5)


class NoiseOfBuffer(Base):
    """Noise is written into a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("noise", torch.zeros(8))

    def step(self, f):
        self.noise.normal_()
        return f + self.noise


class Variational(Part):
    """The reparametrisation by a distribution of torch."""

    def step(self, f):
        return torch.distributions.Normal(f, F.softplus(self.part(f)) + 0.1).rsample()


class Categorical(Base):
    def step(self, f):
        return f * F.one_hot(torch.distributions.Categorical(logits=f).sample(), 8)


class Multinomial(Base):
    def step(self, f):
        return f.gather(1, torch.multinomial(f.softmax(1), 8, replacement=True))


class MixUp(Base):
    """Mixes samples of the batch, by a number of NumPy's."""

    def step(self, f):
        weight = np.random.beta(0.4, 0.4)
        return weight * f + (1 - weight) * f[torch.randperm(f.shape[0])]


class MixUpByTorch(Base):
    def step(self, f):
        weight = torch.rand(())
        return weight * f + (1 - weight) * f[torch.randperm(len(f))]


class MaskedTokens(Base):
    """Hides a fixed share of tokens, as a masked autoencoder does."""

    def step(self, f):
        order = torch.rand(f.shape[0], 8).argsort(1)
        kept = f.gather(1, order[:, :4])
        return torch.cat([kept, torch.zeros_like(kept)], 1).gather(1, order.argsort(1))


class OwnGenerator(Base):
    """A generator of its own, whose state is that of no buffer."""

    def __init__(self):
        super().__init__()
        self.generator = torch.Generator().manual_seed(3)

    def step(self, f):
        return f + torch.randn(8, generator=self.generator)


class Shuffled(Base):
    """NumPy and Python shuffle."""

    def step(self, f):
        order = list(range(8))
        random.shuffle(order)
        return f[:, order] + f[:, np.random.permutation(8).tolist()]


class Stochastic(Part):
    """Stochastic depth of torchvision."""

    def step(self, f):
        from torchvision.ops import stochastic_depth

        return f + stochastic_depth(self.part(f), 0.5, "row", self.training)


class Forked(Base):
    """The same noise in every step."""

    def step(self, f):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            return f + torch.randn(8)
