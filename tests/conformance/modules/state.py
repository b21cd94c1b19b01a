"""Networks that keep state: buffers bound anew or written, through views, by index, in parts that are shared."""

import parts
import torch
from torch import Tensor, nn
from torch.nn import functional as F


class Base(parts.Base):
    """With buffers for the step."""

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("center", torch.zeros(8))
        self.register_buffer("bank", torch.zeros(24, 8))
        self.register_buffer("n", torch.zeros((), dtype=torch.long))


class CenterRebound(Base):
    def step(self, f):
        self.center = 0.9 * self.center + 0.1 * f.detach().mean(0)
        return f - self.center


class CenterReboundAfterUse(Base):
    def step(self, f):
        out = f - self.center
        with torch.no_grad():
            self.center = self.center.lerp(f.mean(0), 0.1)
        return out


class CenterChained(Base):
    def step(self, f):
        out = f - self.center
        self.center.mul_(0.9).add_(0.1 * f.detach().mean(0))
        return out


class CenterAugmented(Base):
    def step(self, f):
        self.center *= 0.9
        self.center += 0.1 * f.detach().mean(0)
        self.center /= 1.01
        self.center -= 0.001
        return f - self.center


class CenterWider(Base):
    """Bound to another type than it was registered with."""

    def step(self, f):
        self.center = self.center.double() + f.detach().mean(0)
        return f - self.center.float()


class CenterData(Base):
    """Written through `.data`."""

    def step(self, f):
        out = f - self.center
        self.center.data = 0.9 * self.center.data + 0.1 * f.data.mean(0)
        return out


class CenterDataInPlace(Base):
    def step(self, f):
        out = f - self.center
        self.center.data.mul_(0.9).add_(f.data.mean(0), alpha=0.1)
        return out


class CenterCopied(Base):
    def step(self, f):
        new = 0.9 * self.center + 0.1 * f.detach().mean(0)
        self.center.copy_(new)
        return f - new


class CenterFilled(Base):
    def step(self, f):
        self.center.fill_(0.5).addcmul_(f.detach().mean(0), f.detach().std(0))
        return f - self.center


class CenterOut(Base):
    """Written by the argument `out`."""

    def step(self, f):
        torch.mean(f.detach(), 0, out=self.center)
        return f - self.center


class CenterByFunction(Base):
    """Written by a function that is handed the buffer."""

    def step(self, f):
        update(self.center, f.detach().mean(0))
        return f - self.center


def update(old: Tensor, new: Tensor, rate: float = 0.1) -> None:
    old.mul_(1 - rate).add_(new, alpha=rate)


class CenterInSetattr(Base):
    def step(self, f):
        setattr(self, "center", 0.5 * getattr(self, "center") + 0.5 * f.detach().mean(0))  # noqa: B009, B010
        return f - self._buffers["center"]


class CenterInBuffers(Base):
    """Bound anew behind the back of `__setattr__`."""

    def step(self, f):
        self._buffers["center"] = 0.5 * self._buffers["center"] + 0.5 * f.detach().mean(0)
        return f - self.center


class CenterNotKept(Base):
    """A buffer that no `state_dict` holds."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8), persistent=False)

    def step(self, f):
        self.mean.lerp_(f.detach().mean(0), 0.5)
        return f - self.mean


class CenterLazy(Base):
    """A buffer that the first call registers."""

    def step(self, f):
        if "mean" not in self._buffers:
            self.register_buffer("mean", torch.zeros(f.shape[1]))
        self.mean.lerp_(f.detach().mean(0), 0.5)
        return f - self.mean


class CenterOfNone(Base):
    """A buffer that is none until the first call."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", None)

    def step(self, f):
        self.mean = f.detach().mean(0) if self.mean is None else 0.5 * self.mean + 0.5 * f.detach().mean(0)
        return f - self.mean


class CenterAsAttribute(Base):
    """A tensor that is no buffer, and so cannot be resumed."""

    def __init__(self):
        super().__init__()
        self.mean = torch.zeros(8)

    def step(self, f):
        self.mean = 0.5 * self.mean + 0.5 * f.detach().mean(0)
        return f - self.mean


class FrozenParameter(Base):
    """State in a parameter without gradients."""

    def __init__(self):
        super().__init__()
        self.mean = nn.Parameter(torch.zeros(8), requires_grad=False)

    def step(self, f):
        with torch.no_grad():
            self.mean.lerp_(f.mean(0), 0.5)
        return f - self.mean


class BankByIndex(Base):
    def step(self, f):
        out = f + self.bank.mean(0)
        self.bank[torch.arange(f.shape[0])] = f.detach()
        return out


class BankIndexPut(Base):
    def step(self, f):
        self.bank.index_put_((f.detach().argmax(1),), f.detach(), accumulate=True)
        return f + 0.01 * self.bank.mean(0)


class BankScattered(Base):
    def step(self, f):
        rows = f.detach().argmax(1, keepdim=True).expand(-1, 8)
        self.bank.scatter_add_(0, rows, f.detach())
        return f + 0.01 * self.bank.mean(0)


class BankIndexCopied(Base):
    def step(self, f):
        out = f + self.bank.mean(0)
        self.bank.index_copy_(0, torch.arange(f.shape[0]), f.detach())
        return out


class BankMasked(Base):
    def step(self, f):
        high = (f.detach() > 0).float().mean(0) > 0.5
        self.bank.masked_fill_(high, 0.25)
        return f + self.bank.mean(0)


class BankView(Base):
    """Written through views of views."""

    def step(self, f):
        rows = self.bank.view(3, 8, 8)[1]
        rows[:, ::2].add_(0.1)
        rows.t()[1].mul_(0.5).add_(f.detach().mean())
        return f + self.bank.mean(0)


class BankChunks(Base):
    def step(self, f):
        first, _, last = self.bank.chunk(3)
        first.copy_(f.detach())
        last.sub_(first)
        return f + self.bank.sum(0)


class BankRolled(Base):
    """A queue without a pointer."""

    def step(self, f):
        out = f + self.bank.mean(0)
        self.bank = torch.cat([f.detach(), self.bank])[: self.bank.shape[0]]
        return out


class BankWithPointer(Base):
    """A queue as in MoCo."""

    def step(self, f):
        start = int(self.n)
        self.bank[start : start + f.shape[0]] = f.detach()
        self.n[...] = (start + f.shape[0]) % self.bank.shape[0]
        return f + self.bank.mean(0)


class BankWithPointerOnTensors(Base):
    """The same without a Python number."""

    def step(self, f):
        rows = (torch.arange(f.shape[0]) + self.n) % self.bank.shape[0]
        self.bank[rows] = f.detach()
        self.n += f.shape[0]
        return f + self.bank.mean(0)


class Codebook(Base):
    """Vector quantisation with codes that are moving averages, and a straight-through gradient."""

    def __init__(self):
        super().__init__()
        codes = torch.randn(5, 8)
        self.register_buffer("codes", codes)
        self.register_buffer("sizes", torch.ones(5))
        self.register_buffer("sums", codes.clone())

    def step(self, f):
        with torch.no_grad():
            nearest = F.one_hot(torch.cdist(f, self.codes).argmin(1), 5).to(f.dtype)
        quantised = nearest @ self.codes
        if self.training:
            with torch.no_grad():
                self.sizes.mul_(0.9).add_(nearest.sum(0), alpha=0.1)
                self.sums.mul_(0.9).add_(nearest.t() @ f, alpha=0.1)
                self.codes.copy_(self.sums / (self.sizes + 1e-5)[:, None])
        return f + (quantised - f).detach()


class Observer(Base):
    """Smallest and largest value so far, as in quantisation."""

    def __init__(self):
        super().__init__()
        self.register_buffer("low", torch.tensor(float("inf")))
        self.register_buffer("high", torch.tensor(float("-inf")))

    def step(self, f):
        self.low = torch.minimum(self.low, f.detach().min())
        self.high.copy_(torch.maximum(self.high, f.detach().max()))
        return (f - self.low) / (self.high - self.low)


class FakeQuantised(Base):
    """An observer with rounding, scale and zero point."""

    def __init__(self):
        super().__init__()
        self.register_buffer("scale", torch.ones(1))

    def step(self, f):
        self.scale.copy_((f.detach().abs().max() / 127).clamp(min=1e-6).reshape(1))
        return f + ((f / self.scale).round().clamp(-128, 127) * self.scale - f).detach()


class Counters(Base):
    """Counters of whole numbers and booleans."""

    def __init__(self):
        super().__init__()
        self.register_buffer("seen", torch.zeros(8, dtype=torch.bool))
        self.register_buffer("small", torch.zeros((), dtype=torch.uint8))

    def step(self, f):
        self.seen |= f.detach().mean(0) > 0
        self.n += 1
        self.small.add_(1)
        return f * self.seen / self.n + self.small


class CounterBranch(Base):
    """A choice by a counter, made by tensors."""

    def step(self, f):
        self.n += 1
        return torch.where(self.n % 2 == 0, f, -f)


class Warmup(Base):
    """A choice by a counter, made by Python."""

    def step(self, f):
        self.n += 1
        return f if self.n > 2 else 2 * f


class EmaTeacher(Base):
    """A moving average of the own weights inside of the module."""

    def __init__(self):
        super().__init__()
        self.teacher = nn.Linear(64, 8)
        self.teacher.requires_grad_(False)

    def forward(self, x):
        x = x.flatten(1)
        with torch.no_grad():
            for old, new in zip(self.teacher.parameters(), self.body.parameters(), strict=True):
                old.mul_(0.9).add_(new, alpha=0.1)
            target = self.teacher(x)
        return self.head(self.body(x) + target)


class EmaBuffers(Base):
    """The same with the average in buffers."""

    def __init__(self):
        super().__init__()
        self.register_buffer("weight", self.body.weight.detach().clone())

    def forward(self, x):
        x = x.flatten(1)
        self.weight.lerp_(self.body.weight.detach(), 0.1)
        return self.head(self.body(x) + F.linear(x, self.weight))


class Running(nn.Module):
    """Takes the running mean off."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, f):
        self.mean = 0.5 * self.mean + 0.5 * f.detach().mean(0)
        return f - self.mean


class SharedPart(Base):
    """One part with state under two names."""

    def __init__(self):
        super().__init__()
        self.first = Running()
        self.second = nn.Sequential(self.first, nn.ReLU())

    def step(self, f):
        return self.second(self.first(f))


class PartTwice(Base):
    """A part with state that is called twice in a step."""

    def __init__(self):
        super().__init__()
        self.part = Running()

    def step(self, f):
        return self.part(f) + self.part(2 * f)


class SharedBuffer(Base):
    """One tensor as a buffer of two parts."""

    def __init__(self):
        super().__init__()
        self.one, self.two = Running(), Running()
        self.two.register_buffer("other", self.one.mean)

    def step(self, f):
        self.one.mean.lerp_(f.detach().mean(0), 0.5)
        return f - self.two.other


class DeepState(Base):
    """State three levels down, in a list and a dict of modules."""

    def __init__(self):
        super().__init__()
        self.parts = nn.ModuleList([nn.ModuleDict({"a": Running(), "b": nn.Identity()}) for _ in range(2)])

    def step(self, f):
        for part in self.parts:
            f = part["b"](part["a"](f))
        return f


class StateOfChild(Base):
    """The parent writes into a part's buffer."""

    def __init__(self):
        super().__init__()
        self.part = Running()

    def step(self, f):
        self.part.mean = 0.5 * self.part.mean + f.detach().mean(0)
        return self.part(f)


class Powers(Base):
    """Spectral normalisation by hand: power iteration on a buffer."""

    def __init__(self):
        super().__init__()
        self.register_buffer("u", F.normalize(torch.randn(8), dim=0))

    def forward(self, x):
        weight = self.body.weight
        with torch.no_grad():
            v = F.normalize(weight.t() @ self.u, dim=0)
            self.u = F.normalize(weight @ v, dim=0)
        return self.head(F.linear(x.flatten(1), weight / (self.u @ weight @ v), self.body.bias))


class History(Base):
    """A Python list that grows."""

    def __init__(self):
        super().__init__()
        self.history = []

    def step(self, f):
        self.history.append(1.0)
        return f / len(self.history)


class Ticking(Base):
    """A Python number that changes."""

    def __init__(self):
        super().__init__()
        self.t = 0

    def step(self, f):
        self.t += 1
        return f * min(1.0, self.t / 4)


class Growing(Base):
    """A buffer whose shape changes."""

    def step(self, f):
        self.bank = torch.cat([self.bank, f.detach()])
        return f + self.bank.mean(0)


class WholeState(Base):
    """A part that is called whole for another reason, with state in its buffers."""

    def step(self, f):
        self.center = 0.9 * self.center + 0.1 * f.detach().mean(0)
        return f - self.center if float(f.detach().mean()) > -1e9 else f
