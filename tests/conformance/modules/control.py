"""Networks whose Python code asks for shapes and values, that write in place, or cut gradients."""

import math

import numpy as np
import torch
from parts import Base, Part
from torch import nn
from torch.nn import functional as F

# ---- values


class IfMean(Part):
    def step(self, f):
        return f * 2 if f.mean() > 0 else self.part(f) * 3 + f


class IfAny(Base):
    def step(self, f):
        if (f > 1).any():
            f = f.clamp(max=1)
        return f


class Item(Base):
    def step(self, f):
        return f / (1 + abs(f.detach().mean().item()))


class ItemAsIndex(Base):
    def step(self, f):
        return f + f[:, [int(f.detach().mean(0).argmax().item())]]


class ToList(Base):
    def step(self, f):
        return f * sum(f.detach().mean(0).tolist())


class ToNumpy(Base):
    def step(self, f):
        return f * float(np.tanh(f.detach().numpy()).mean())


class FromNumpy(Base):
    """Computes with NumPy and comes back."""

    def step(self, f):
        return f + torch.from_numpy(np.sort(f.detach().cpu().numpy(), axis=0))


class Formatted(Base):
    def step(self, f):
        return f * len(f"{float(f.detach().mean()):.3f}")


class Printed(Base):
    def step(self, f):
        return f + 0.01 * len(repr(f.detach().max()))


class Masked(Base):
    """Selects by a mask, and returns a fixed shape."""

    def step(self, f):
        return f + f[f > 0].mean()


class MaskedAssignment(Base):
    def step(self, f):
        g = f.clone()
        g[g < 0] = 0.1
        return g


class MaskedRows(Part):
    """Only some samples go through a part."""

    def step(self, f):
        high = f.detach().mean(1) > 0
        out = f.clone()
        out[high] = self.part(f[high])
        return out


class NonZero(Base):
    def step(self, f):
        return f + f[:, 0].nonzero().shape[0]


class WhereOne(Base):
    """`torch.where` with one argument."""

    def step(self, f):
        rows, columns = torch.where(f > 0)
        return f + f[rows, columns].sum()


class Unique(Base):
    def step(self, f):
        values, counts = f.argmax(1).unique(return_counts=True)
        return f + counts.max() / len(values)


class Expert(Base):
    """A mixture of experts that sorts the batch by its expert."""

    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(nn.Linear(8, 8) for _ in range(3))
        self.gate = nn.Linear(8, 3)

    def step(self, f):
        scores = self.gate(f).softmax(1)
        best = scores.argmax(1)
        out = torch.zeros_like(f)
        for number, expert in enumerate(self.experts):
            rows = (best == number).nonzero()[:, 0]
            if rows.numel():
                out = out.index_add(0, rows, expert(f[rows]) * scores[rows, number, None])
        return out + f


class ExpertDense(Expert):
    """The same without asking for values."""

    def step(self, f):
        scores = self.gate(f).softmax(1)
        return f + torch.einsum("ben,be->bn", torch.stack([e(f) for e in self.experts], 1), scores)


class WhileLoop(Base):
    def step(self, f):
        while f.abs().max() > 0.5:
            f = f / 2
        return f


class RangeOfValue(Base):
    def step(self, f):
        for _ in range(int(f.argmax(1).max()) + 1):
            f = f + 0.1
        return f


class RandomCrop(nn.Module):
    """Where it crops is drawn by torch and read by Python."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(36, 10)

    def forward(self, x):
        i, j = torch.randint(0, 3, (2,)).tolist()
        return self.head(x[:, :, i : i + 6, j : j + 6].flatten(1))


class ShapeOfValue(nn.Module):
    """How many rows it returns depends on values: nothing can be known of that."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        f = self.head(x.flatten(1))
        return f[f.mean(1) > 0]


class Asserted(Base):
    def step(self, f):
        assert torch.isfinite(f).all(), "not finite"
        return f


class AssertedShape(Base):
    def step(self, f):
        assert f.dim() == 2 and f.shape[-1] == 8, f"{f.shape}"
        torch._assert(f.ndim == 2, "two dimensions")
        return f


# ---- shapes


class ShapeLoop(Base):
    def step(self, f):
        for i in range(f.shape[1]):
            f = f * (1 + 0.1 * i) if i % 2 else f + i / f.size(0)
        return f


class Reshaped(nn.Module):
    """As einops does it."""

    def __init__(self):
        super().__init__()
        self.mix, self.head = nn.Linear(16, 16), nn.Linear(64, 10)

    def forward(self, x):
        b, c, h, _ = x.shape
        p = h // 4
        t = x.reshape(b, c, 4, p, 4, p).permute(0, 2, 4, 1, 3, 5).reshape(b, 16, c * p * p)
        t = self.mix(t.transpose(1, 2)).transpose(1, 2)
        return self.head(t.reshape(b, 4, 4, c, p, p).permute(0, 3, 1, 4, 2, 5).flatten(1))


class Windows(nn.Module):
    """Sums over windows by `unfold`, and a shift by `roll`."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        f = x.unfold(2, 4, 4).unfold(3, 4, 4).flatten(1)
        return self.head(torch.roll(f, 3, 1))


class ByShape(Part):
    """Another way for small batches."""

    def step(self, f):
        return self.part(f) if f.shape[0] > 4 else f


class MadeTensors(Base):
    def step(self, f):
        ramp = torch.linspace(0, 1, f.shape[1], device=f.device, dtype=f.dtype)
        return f * ramp + torch.eye(f.shape[1])[0] + f.new_zeros(8) + math.sqrt(f.shape[1])


class Recursive(Part):
    def step(self, f, depth=3):
        return f if depth == 0 else self.step(torch.tanh(self.part(f)), depth - 1)


# ---- in place


class ReluInPlace(Part):
    def __init__(self):
        super().__init__()
        self.act = nn.ReLU(inplace=True)

    def step(self, f):
        g = self.part(f)
        return self.act(g) + g


class AddInPlace(Part):
    def step(self, f):
        g = f + 1
        g += self.part(f)
        g.mul_(0.5).clamp_(-1, 1)
        return g


class InputInPlace(nn.Module):
    """Writes into the images that it is given."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x.sub_(0.5).div_(0.5)
        return self.head(x.flatten(1))


class InputPart(nn.Module):
    """Hides a corner of the images that it is given."""

    def __init__(self):
        super().__init__()
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        x[:, :, :2, :2] = 0
        return self.head(x.flatten(1))


class PartsInPlace(Part):
    def step(self, f):
        g = f * 1
        g[:, ::2] = self.part(f)[:, ::2]
        g[:, :4] += g[:, 4:]
        return g


class Padded(Base):
    """Fills an empty tensor piece by piece."""

    def step(self, f):
        out = torch.zeros(f.shape[0], 8)
        for i in range(0, 8, 2):
            out[:, i] = f[:, i]
            out[:, i + 1] = f[:, i] * 2
        return out


class Scattered(Base):
    def step(self, f):
        order = f.argsort(1)
        return torch.zeros_like(f).scatter_(1, order, f) + f.sort(1).values + f.topk(8).values


# ---- gradients


class NoGrad(Part):
    def step(self, f):
        with torch.no_grad():
            scale = self.part(f).abs().mean()
        return self.part(f) / (1 + scale)


class NoGradDecorated(Part):
    @torch.no_grad()
    def scale(self, f):
        return f.std(0)

    def step(self, f):
        return f / (1 + self.scale(f)) + self.part(f)


class InferenceMode(Base):
    def step(self, f):
        with torch.inference_mode():
            shape = [2 * s for s in f.shape]
        return f * shape[1]


class EnabledInside(Part):
    def step(self, f):
        with torch.no_grad():
            with torch.enable_grad():
                g = self.part(f)
            h = self.part(f)
        return g + h


class SetGradEnabled(Base):
    def step(self, f):
        torch.set_grad_enabled(False)
        g = f.mean(0)
        torch.set_grad_enabled(True)
        return f - g


class Detached(Part):
    def step(self, f):
        return f - f.detach().mean(0) + self.part(f.detach())


class InnerGradient(Part):
    """A gradient inside of the forward, as energies and meta-learning have it."""

    def step(self, f):
        with torch.enable_grad():
            g = f if f.requires_grad else f.requires_grad_()
            energy = self.part(g).tanh().sum()
            (force,) = torch.autograd.grad(energy, g, create_graph=True)
        return f - 0.1 * force


class Equilibrium(Part):
    """A fixed point without gradients, and one step with them."""

    def step(self, f):
        z = torch.zeros_like(f)
        with torch.no_grad():
            for _ in range(5):
                z = torch.tanh(0.1 * self.part(z) + f)
        return torch.tanh(0.1 * self.part(z) + f)


class Sorted(Base):
    def step(self, f):
        return F.normalize(f).sort(0).values + torch.cumsum(f, 1) + torch.logsumexp(f, 1, keepdim=True)
