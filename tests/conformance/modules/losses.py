"""Losses of two arguments: scores [B, 10] and labels [B]."""

import functools
import math
import random

import numpy as np
import torch
from torch import nn
from torch.nn import functional as F


def plain(z, y):
    return F.cross_entropy(z, y)


def smoothed(z, y, amount=0.1):
    target = torch.full_like(z, amount / (z.shape[1] - 1)).scatter_(1, y[:, None], 1 - amount)
    return -(target * z.log_softmax(1)).sum(1).mean()


def focal(z, y):
    p = z.log_softmax(1).gather(1, y[:, None])[:, 0]
    return (-((1 - p.exp()) ** 2) * p).mean()


def contrastive(z, y):
    f = F.normalize(z, dim=1)
    s = f @ f.t() / 0.5
    same = (y[:, None] == y[None]).float() - torch.eye(len(y))
    s = s - torch.eye(len(y)) * 1e9
    return -(same * s.log_softmax(1)).sum() / same.sum().clamp(min=1)


def python_numbers(z, y, scale=2.0, *, power=2):
    return scale * (z**power).mean() * math.sqrt(z.shape[1]) + float(np.log(2)) + len(y)


def numpy_constants(z, y):
    weights = torch.from_numpy(np.linspace(0.5, 1.5, 10, dtype=np.float32))
    return F.cross_entropy(z, y, weight=weights)


def made_in_place(z, y):
    target = torch.zeros_like(z)
    target[torch.arange(len(y)), y] = 1
    return F.mse_loss(z.softmax(1), target)


def without_gradient(z, y):
    with torch.no_grad():
        weight = 1 - z.softmax(1).gather(1, y[:, None])[:, 0]
    return (weight * F.cross_entropy(z, y, reduction="none")).mean()


def noisy(z, y):
    return F.cross_entropy(z + 0.1 * torch.randn_like(z), y)


def dropped(z, y):
    return F.cross_entropy(F.dropout(z, 0.3), y)


def mixed(z, y):
    order = torch.randperm(len(y))
    return 0.7 * F.cross_entropy(z, y) + 0.3 * F.cross_entropy(z, y[order])


def soft_rank(z, y):
    margins = z - z.gather(1, y[:, None])
    return F.relu(1 + margins).topk(3, 1).values.mean()


def hardest(z, y):
    return F.cross_entropy(z, y, reduction="none").topk(4).values.mean()


def class_of_torch(z, y):
    return nn.CrossEntropyLoss(label_smoothing=0.1)(z, y)


MODULE = nn.MultiMarginLoss()


def module_without_state(z, y):
    return MODULE(z, y)


def masked_by_product(z, y):
    mask = (y < 5).to(z.dtype)
    return (mask * F.cross_entropy(z, y, reduction="none")).sum() / mask.sum().clamp(min=1)


def doubled(z, y):
    return F.cross_entropy(z.double(), y).float()


def penalty(z, y):
    return F.cross_entropy(z, y) + 1e-3 * torch.fft.rfft(z).abs().mean()


def by_random(z, y):
    return F.cross_entropy(z, y) * (1 + random.random())


def by_numpy(z, y):
    return F.cross_entropy(z, y) * float(np.random.uniform(0.5, 1.5))


@functools.lru_cache
def positions(n):
    return torch.linspace(1, 2, n)


def cached_constant(z, y):
    return F.cross_entropy(z * positions(z.shape[1]), y)


@torch.compile(backend="eager")
def compiled(z, y):
    return F.cross_entropy(2 * z, y)


class Own(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        ctx.save_for_backward(z)
        return (z * z).mean()

    @staticmethod
    def backward(ctx, grad):
        (z,) = ctx.saved_tensors
        return grad * z


def own_gradient(z, y):
    return Own.apply(z)


@torch.jit.script
def scripted_mean(z: torch.Tensor) -> torch.Tensor:
    return (z * z).mean()


def scripted(z, y):
    return scripted_mean(z)


def read_number(z, y):
    return F.cross_entropy(z, y) * z.detach().mean().item()


def if_value(z, y):
    loss = F.cross_entropy(z, y)
    return loss if loss > 1 else 2 * loss


def masked(z, y):
    return F.cross_entropy(z[y < 5], y[y < 5])


def numpy_values(z, y):
    return F.cross_entropy(z, y) * float(np.std(z.detach().numpy()))


def python_number(z, y):
    return 3.0


class Center(nn.Module):
    """A loss with parameters and a buffer: it stands in a plan as a network."""

    def __init__(self):
        super().__init__()
        self.centers = nn.Parameter(torch.zeros(10))
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, z):
        self.mean = 0.9 * self.mean + 0.1 * z.detach().mean(0)
        return (z - self.centers - self.mean).pow(2).mean(1)


class Centering(nn.Module):
    """The state of a loss without parameters."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(10))

    def forward(self, z):
        out = z - self.mean
        self.mean.lerp_(z.detach().mean(0), 0.1)
        return out
