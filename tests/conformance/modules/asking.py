"""Networks that ask autograd while they run, and that keep tensors where no buffer is."""

from collections import deque
from types import SimpleNamespace

import parts
import torch
from torch import nn
from torch.nn import functional as F


class Part(parts.Part):
    pass


# ---- hooks and gradients


class HookUnasked(Part):
    """A hook on a value that needs a gradient in training; whether it does is not asked for."""

    def step(self, f):
        g = self.part(f)
        g.register_hook(lambda grad: grad * 0.5)
        return g.relu()


class HookOnOutput(Part):
    def forward(self, x):
        z = super().forward(x)
        z.register_hook(lambda grad: grad.clamp(-0.01, 0.01))
        return z


class HookPostAccumulate(Part):
    """Of a parameter, one more in each step: they add up."""

    def step(self, f):
        if self.training and torch.is_grad_enabled():
            self.part.weight.register_hook(lambda grad: grad * 0.5)
        return self.part(f)


class Retains(Part):
    def step(self, f):
        g = self.part(f)
        g.retain_grad()
        return g.tanh()


class Energy(Part):
    """Its own force, with a gradient through it."""

    def step(self, f):
        (force,) = torch.autograd.grad(self.part(f).tanh().sum(), f, create_graph=True)
        return f - 0.1 * force


class EnergyOnce(Part):
    """The force is a number for the loss."""

    def step(self, f):
        energy = self.part(f).pow(2).sum()
        (force,) = torch.autograd.grad(energy, f, retain_graph=True)
        return f - 0.1 * force + 0 * energy


class Jacobian(Part):
    def step(self, f):
        return f + 0.1 * torch.autograd.functional.vjp(self.bent, f, torch.ones_like(f), create_graph=True)[1]

    def bent(self, f):
        return self.part(f).tanh()


class Functional(Part):
    """torch.func inside of a network."""

    def step(self, f):
        return f + 0.1 * torch.func.grad(lambda v: self.part(v).tanh().sum())(f)


class Adversarial(Part):
    """A step against itself, as virtual adversarial training makes one."""

    def step(self, f):
        d = torch.zeros_like(f, requires_grad=True)
        with torch.enable_grad():
            distance = F.mse_loss(self.part(f.detach() + d + 0.1), self.part(f.detach()))
            (g,) = torch.autograd.grad(distance, d)
        return self.part(f + 0.1 * F.normalize(g.detach(), dim=1))


# ---- tensors in containers


class KeptInDict(Part):
    def __init__(self):
        super().__init__()
        self.kept = {"mean": torch.zeros(8)}

    def step(self, f):
        self.kept["mean"] = 0.9 * self.kept["mean"] + 0.1 * f.detach().mean(0)
        return self.part(f) - self.kept["mean"]


class KeptInList(Part):
    def __init__(self):
        super().__init__()
        self.kept = [torch.zeros(8)]

    def step(self, f):
        self.kept[0].mul_(0.9).add_(0.1 * f.detach().mean(0))
        return self.part(f) - self.kept[0]


class KeptInQueue(Part):
    def __init__(self):
        super().__init__()
        self.kept = deque([torch.zeros(8)], maxlen=3)

    def step(self, f):
        self.kept.append(f.detach().mean(0))
        return self.part(f) - torch.stack(list(self.kept)).mean(0)


class KeptInNamespace(Part):
    def __init__(self):
        super().__init__()
        self.kept = SimpleNamespace(mean=torch.zeros(8))

    def step(self, f):
        self.kept.mean = 0.9 * self.kept.mean + 0.1 * f.detach().mean(0)
        return self.part(f) - self.kept.mean


class Holder:
    def __init__(self):
        self.mean = torch.zeros(8)

    def update(self, f):
        self.mean.lerp_(f.detach().mean(0), 0.1)
        return self.mean


class KeptInObject(Part):
    def __init__(self):
        super().__init__()
        self.kept = Holder()

    def step(self, f):
        return self.part(f) - self.kept.update(f).clone()


class ConstantInDict(Part):
    """Read, and never written: no state."""

    def __init__(self):
        super().__init__()
        self.kept = {"scale": torch.linspace(0.5, 1.5, 8)}

    def step(self, f):
        return self.part(f) * self.kept["scale"]


class NormedInList(Part):
    """Layers in a plain list that torch does not see train no parameter."""

    def __init__(self):
        super().__init__()
        self.norm = nn.LayerNorm(8)
        self.kept = [self.norm]

    def step(self, f):
        return self.kept[0](self.part(f))
