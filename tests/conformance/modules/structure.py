"""Networks built in unusual ways: shared and reparametrised weights, hooks, compiled parts, modes."""

import torch
from parts import Base, Part
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils import parametrizations, parametrize
from torch.utils.checkpoint import checkpoint

# ---- weights


class Tied(Part):
    """One parameter in two layers."""

    def __init__(self):
        super().__init__()
        self.other = nn.Linear(8, 8)
        self.other.weight = self.part.weight

    def step(self, f):
        return self.other(F.relu(self.part(f)))


class TiedTransposed(Part):
    """An encoder's weight decodes."""

    def step(self, f):
        return F.linear(self.part(f), self.part.weight.t())


class SharedLayer(Part):
    def step(self, f):
        for _ in range(3):
            f = self.part(f).tanh()
        return f


class WeightNorm(Part):
    def __init__(self):
        super().__init__()
        self.part = parametrizations.weight_norm(self.part)


class WeightNormOld(Part):
    def __init__(self):
        super().__init__()
        self.part = nn.utils.weight_norm(self.part)


class SpectralNorm(Part):
    def __init__(self):
        super().__init__()
        self.part = parametrizations.spectral_norm(self.part)


class SpectralNormOld(Part):
    def __init__(self):
        super().__init__()
        self.part = nn.utils.spectral_norm(self.part)


class Orthogonal(Part):
    def __init__(self):
        super().__init__()
        self.part = parametrizations.orthogonal(self.part)


class Symmetric(nn.Module):
    def forward(self, w):
        return w.triu() + w.triu(1).t()


class OwnParametrisation(Part):
    def __init__(self):
        super().__init__()
        parametrize.register_parametrization(self.part, "weight", Symmetric())


class Pruned(Part):
    """Weights masked by torch's own pruning, which uses hooks."""

    def __init__(self):
        super().__init__()
        from torch.nn.utils import prune

        prune.l1_unstructured(self.part, "weight", amount=0.5)


class Standardised(nn.Conv2d):
    def forward(self, x):
        w = self.weight
        w = (w - w.mean((1, 2, 3), keepdim=True)) / (w.std((1, 2, 3), keepdim=True) + 1e-5)
        return F.conv2d(x, w, self.bias, self.stride, self.padding)


class StandardisedWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.head = Standardised(1, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.Linear(4, 10)

    def forward(self, x):
        return self.head(F.relu(self.norm(self.conv(x))).mean((2, 3)))


class LoRA(Part):
    """A frozen weight and a trained one of low rank."""

    def __init__(self):
        super().__init__()
        self.part.requires_grad_(False)
        self.a, self.b = nn.Parameter(0.1 * torch.randn(2, 8)), nn.Parameter(torch.zeros(8, 2))

    def step(self, f):
        return self.part(f) + f @ self.a.t() @ self.b.t()


class WeightOfNetwork(Base):
    """A network makes the weights of a layer."""

    def __init__(self):
        super().__init__()
        self.maker = nn.Linear(8, 64)

    def step(self, f):
        return torch.bmm(self.maker(f).view(-1, 8, 8), f[:, :, None])[:, :, 0]


class Lists(Base):
    """Parameters in lists and dicts."""

    def __init__(self):
        super().__init__()
        self.scales = nn.ParameterList([nn.Parameter(torch.ones(8)) for _ in range(2)])
        self.shifts = nn.ParameterDict({"a": nn.Parameter(torch.zeros(8))})

    def step(self, f):
        for scale in self.scales:
            f = f * scale
        return f + self.shifts["a"]


class NeverUsed(Part):
    """Parameters that no output reads are no mistake where `of` names other parts; here they are."""

    def __init__(self):
        super().__init__()
        self.unused = nn.Linear(3, 3)


# ---- hooks


class ForwardHook(Part):
    def __init__(self):
        super().__init__()
        self.part.register_forward_hook(lambda m, args, out: out * 2)


class ForwardPreHook(Part):
    def __init__(self):
        super().__init__()
        self.part.register_forward_pre_hook(lambda m, args: (args[0] + 1,))


class HookOfUserPart(Base):
    """A hook on a part that is the user's own."""

    def __init__(self):
        super().__init__()
        self.inner = Base.__new__(Inner)
        self.inner.__init__()
        self.inner.register_forward_hook(lambda m, args, out: out + args[0])
        self.inner.register_forward_pre_hook(lambda m, args: (args[0] * 0.5,))

    def step(self, f):
        return self.inner(f)


class Inner(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(8, 8)

    def forward(self, f):
        return self.fc(f).relu()


class HookOfRoot(Part):
    """A hook on the network itself."""

    def __init__(self):
        super().__init__()
        self.register_forward_hook(lambda m, args, out: out * 0.5)


class HookThatStores(Part):
    """A hook keeps features, which the forward reads: the usual way to taps."""

    def __init__(self):
        super().__init__()
        self.seen = {}
        self.part.register_forward_hook(lambda m, args, out: self.seen.update(part=out))

    def step(self, f):
        out = self.part(f).relu()
        return out + self.seen["part"]


class BackwardHook(Part):
    """A hook changes the gradient of a part."""

    def __init__(self):
        super().__init__()
        self.part.register_full_backward_hook(lambda m, given, out: (given[0] * 0.5,))


class TensorHook(Part):
    """A hook on a value halves its gradient."""

    def step(self, f):
        g = self.part(f)
        if g.requires_grad:
            g.register_hook(lambda grad: grad * 0.5)
        return g.relu()


class ParameterHook(Part):
    """A hook on a parameter halves its gradient."""

    def __init__(self):
        super().__init__()
        self.part.weight.register_hook(lambda grad: grad * 0.5)


# ---- code that torch compiles or that defines its own gradient


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x):
        return x.sign()

    @staticmethod
    def backward(ctx, grad):
        return grad


class StraightThrough(Part):
    def step(self, f):
        return Sign.apply(self.part(f))


class StraightThroughByDetach(Base):
    def step(self, f):
        return f + (f.sign() - f).detach()


class Reverse(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight):
        ctx.weight = weight
        return x.view_as(x)

    @staticmethod
    def backward(ctx, grad):
        return -ctx.weight * grad, None


class GradientReversal(Part):
    def step(self, f):
        return Reverse.apply(self.part(f), 0.3)


class Checkpointed(Base):
    def __init__(self):
        super().__init__()
        self.block = nn.Sequential(nn.Linear(8, 8), nn.Dropout(0.5), nn.ReLU())

    def step(self, f):
        return checkpoint(self.block, f, use_reentrant=False)


class CheckpointedReentrant(Checkpointed):
    def step(self, f):
        return checkpoint(self.block, f, use_reentrant=True)


class ScriptedFunction(Part):
    def step(self, f):
        return gated(self.part(f))


@torch.jit.script
def gated(x: Tensor) -> Tensor:
    return x.relu() * 2


class ScriptedPart(Part):
    def __init__(self):
        super().__init__()
        self.part = torch.jit.script(nn.Sequential(nn.Linear(8, 8), nn.ReLU()))


class CompiledPart(Part):
    def __init__(self):
        super().__init__()
        self.part = torch.compile(nn.Sequential(nn.Linear(8, 8), nn.ReLU()), backend="eager")


class CompiledMethod(Part):
    @torch.compile(backend="eager")
    def step(self, f):
        return self.part(f).relu()


class Lazy(Part):
    def __init__(self):
        super().__init__()
        self.part = nn.LazyLinear(8)


class FunctionalCall(Part):
    """A part called with other weights."""

    def step(self, f):
        weights = {n: p * 0.5 for n, p in self.part.named_parameters()}
        return torch.func.functional_call(self.part, weights, (f,))


class PerSample(Part):
    """A function mapped over samples."""

    def step(self, f):
        return torch.func.vmap(lambda v: v / (1 + v.norm()))(self.part(f))


# ---- modes


class FrozenNorm(Part):
    """Batch norm that stays in eval mode, by a `train` of its own."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)
        self.norm.running_mean.fill_(0.3)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()
        return self

    def step(self, f):
        return self.norm(self.part(f))


class FrozenInForward(Part):
    """The forward sets the mode of a part."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(8)

    def step(self, f):
        self.norm.eval()
        return self.norm(self.part(f))


class FrozenPart(Part):
    def __init__(self):
        super().__init__()
        self.part.requires_grad_(False)


class FrozenInForwardWeights(Part):
    """Detached weights."""

    def step(self, f):
        return self.part(F.linear(f, self.part.weight.detach()))
