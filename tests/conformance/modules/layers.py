"""Networks of the layers that torch has: norms, attention, recurrent ones, embeddings; complex and double numbers."""

import torch
from parts import Base, Part
from torch import nn
from torch.nn import functional as F


class Normed(Part):
    def __init__(self, norm: nn.Module | None = None) -> None:
        super().__init__()
        self.norm = norm or nn.BatchNorm1d(8)

    def step(self, f):
        return self.norm(self.part(f))


class NormCumulative(Normed):
    """Its running statistics are plain means: it counts its steps."""

    def __init__(self):
        super().__init__(nn.BatchNorm1d(8, momentum=None))


class NormUntracked(Normed):
    def __init__(self):
        super().__init__(nn.BatchNorm1d(8, track_running_stats=False))


class NormWithoutScale(Normed):
    def __init__(self):
        super().__init__(nn.BatchNorm1d(8, affine=False))


class NormTwice(Normed):
    def step(self, f):
        return self.norm(self.norm(f) + self.part(f))


class NormSync(Normed):
    def __init__(self):
        super().__init__(nn.SyncBatchNorm(8))


class NormFunctional(Base):
    """Running statistics that a function updates."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))

    def step(self, f):
        return F.batch_norm(f, self.mean, self.var, training=self.training, momentum=0.3)


class NormInstance(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(1, 4, 3), nn.InstanceNorm2d(4, track_running_stats=True, affine=True)
        self.head = nn.Linear(4, 10)

    def forward(self, x):
        return self.head(self.norm(self.conv(x)).relu().mean((2, 3)))


class NormRenamed(Normed):
    """A norm of the user's own, with the state of torch's."""

    def __init__(self):
        super().__init__(OwnNorm())


class OwnNorm(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))
        self.register_buffer("var", torch.ones(8))
        self.register_buffer("batches", torch.tensor(0))

    def forward(self, f):
        if self.training:
            mean, var = f.mean(0), f.var(0, unbiased=False)
            with torch.no_grad():
                self.batches += 1
                self.mean += (mean - self.mean) / self.batches
                self.var = self.var + (var - self.var) / self.batches
        else:
            mean, var = self.mean, self.var
        return (f - mean) / (var + 1e-5).sqrt()


class NormGhost(Normed):
    """The batch in parts, each normalised by itself."""

    def step(self, f):
        return torch.cat([self.norm(part) for part in self.part(f).chunk(2)])


class NormLocal(Base):
    def __init__(self):
        super().__init__()
        self.group, self.layer = nn.GroupNorm(2, 8), nn.LayerNorm(8)
        self.scale = nn.Parameter(torch.ones(8))

    def step(self, f):
        return F.rms_norm(self.layer(self.group(f)), (8,), self.scale)


class Attention(Base):
    """Fused attention over four tokens of two numbers."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(2, 6)

    def step(self, f):
        q, k, v = self.qkv(f.view(-1, 4, 2)).chunk(3, dim=-1)
        return F.scaled_dot_product_attention(q, k, v, dropout_p=0.2 if self.training else 0.0).flatten(1)


class AttentionCausal(Attention):
    def step(self, f):
        q, k, v = self.qkv(f.view(-1, 4, 2)).unbind(-1)[:3] if False else self.qkv(f.view(-1, 4, 2)).split(2, -1)
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).reshape(f.shape)


class AttentionByHand(Attention):
    def step(self, f):
        b, n, c = f.view(-1, 4, 2).shape
        q, k, v = self.qkv(f.view(b, n, c)).reshape(b, n, 3, 1, c).permute(2, 0, 3, 1, 4)
        scores = (q @ k.transpose(-2, -1) * c**-0.5).masked_fill(torch.ones(n, n).triu(1).bool(), float("-inf"))
        return (scores.softmax(-1) @ v).transpose(1, 2).reshape(b, n * c)


class MultiHead(Base):
    def __init__(self):
        super().__init__()
        self.attention = nn.MultiheadAttention(2, 2, dropout=0.1, batch_first=True)

    def step(self, f):
        t = f.view(-1, 4, 2)
        out, weights = self.attention(t, t, t)
        return out.flatten(1) + weights.mean()


class Transformer(Base):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerEncoderLayer(8, 2, 16, dropout=0.1, batch_first=True)
        self.encoder = nn.TransformerEncoder(layer, 2, enable_nested_tensor=False)
        self.token = nn.Parameter(torch.zeros(1, 1, 8))

    def step(self, f):
        t = torch.cat([self.token.expand(f.shape[0], -1, -1), f.view(-1, 1, 8)], 1)
        return self.encoder(t)[:, 0]


class Recurrent(nn.Module):
    """Rows of an image as a sequence."""

    def __init__(self, layer: type[nn.RNNBase] = nn.RNN) -> None:
        super().__init__()
        self.layer, self.head = layer(8, 6, batch_first=True), nn.Linear(6, 10)

    def forward(self, x):
        out, _ = self.layer(x.squeeze(1))
        return self.head(out[:, -1])


class LSTM(Recurrent):
    def __init__(self):
        super().__init__(nn.LSTM)

    def forward(self, x):
        _, (hidden, cell) = self.layer(x.squeeze(1))
        return self.head(hidden[-1] + cell[-1])


class GRUDropped(Recurrent):
    def __init__(self):
        super().__init__(nn.GRU)
        self.layer = nn.GRU(8, 3, num_layers=2, dropout=0.3, bidirectional=True, batch_first=True)

    def forward(self, x):
        return self.head(self.layer(x[:, 0])[0].mean(1))


class Cells(Recurrent):
    def __init__(self):
        super().__init__()
        self.cell = nn.LSTMCell(8, 6)
        del self.layer

    def forward(self, x):
        state = None
        for row in x[:, 0].unbind(1):
            state = self.cell(row, state)
        return self.head(state[0])


class Stateful(Recurrent):
    """Its hidden state goes from batch to batch in a buffer."""

    def __init__(self):
        super().__init__(nn.GRU)
        self.register_buffer("hidden", torch.zeros(1, 8, 6))

    def forward(self, x):
        out, hidden = self.layer(x.squeeze(1), self.hidden)
        self.hidden = hidden.detach()
        return self.head(out[:, -1])


class Embedded(Base):
    """Pixels as tokens; the embedding keeps its rows short in place."""

    def __init__(self):
        super().__init__()
        del self.body
        self.table, self.place = nn.Embedding(17, 8, padding_idx=0), nn.Embedding(64, 8)

    def forward(self, x):
        tokens = x.flatten(1).mul(16).round().clamp(0, 16).long()
        return self.head((self.table(tokens) + self.place(torch.arange(tokens.shape[1]))).mean(1))


class EmbeddedShort(Embedded):
    """Rows are made short in place, in every forward."""

    def __init__(self):
        super().__init__()
        self.table = nn.Embedding(17, 8, max_norm=1.0)


class Bagged(Embedded):
    def __init__(self):
        super().__init__()
        self.table = nn.EmbeddingBag(17, 8, mode="sum")
        del self.place

    def forward(self, x):
        return self.head(self.table(x.flatten(1).mul(16).round().clamp(0, 16).long()))


class Doubled(Base):
    """A part in double precision."""

    def __init__(self):
        super().__init__()
        self.exact = nn.Linear(8, 8).double()
        self.register_buffer("mean", torch.zeros(8, dtype=torch.float64))

    def step(self, f):
        self.mean.lerp_(f.detach().double().mean(0), 0.5)
        return (self.exact(f.double()) - self.mean).float()


class Autocast(Part):
    """A part in half precision."""

    def step(self, f):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return self.part(f).float()


class AutocastOff(Part):
    def step(self, f):
        with torch.autocast("cpu", enabled=False):
            return self.part(f.float())


class AutocastMethod(Part):
    @torch.autocast("cpu", dtype=torch.bfloat16)
    def step(self, f):
        return self.part(f).float()


class HalfPart(Base):
    """Weights in half precision."""

    def __init__(self):
        super().__init__()
        self.half_part = nn.Linear(8, 8).to(torch.bfloat16)

    def step(self, f):
        return self.half_part(f.to(torch.bfloat16)).to(f.dtype)


class DefaultType(Base):
    """Constants whose type is the default."""

    def step(self, f):
        return f * torch.tensor([1.0, 2.0]).repeat(4) + torch.full((8,), 0.5) + torch.arange(8)


class Spectrum(nn.Module):
    """A global filter: a complex parameter between two Fourier transforms."""

    def __init__(self):
        super().__init__()
        self.filter = nn.Parameter(torch.randn(8, 5, dtype=torch.complex64))
        self.head = nn.Linear(64, 10)

    def forward(self, x):
        return self.head(torch.fft.irfft2(torch.fft.rfft2(x) * self.filter, s=x.shape[-2:]).flatten(1))


class ComplexBuffer(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("phase", torch.zeros(8, 5, dtype=torch.complex64))
        self.head = nn.Linear(40, 10)

    def forward(self, x):
        f = torch.fft.rfft(x[:, 0])
        self.phase = 0.5 * self.phase + 0.5 * f.mean(0)
        return self.head((f - self.phase).abs().flatten(1))


class Rotary(Base):
    """Rotations as complex numbers, as language models have them."""

    def step(self, f):
        z = torch.view_as_complex(f.view(-1, 4, 2))
        turn = torch.polar(torch.ones(4), torch.arange(4.0))
        return torch.view_as_real(z * turn).flatten(1)


class Convolutions(nn.Module):
    def __init__(self):
        super().__init__()
        self.first, self.depth = nn.Conv2d(1, 4, 3, padding=1), nn.Conv2d(4, 4, 3, padding=1, groups=4)
        self.up, self.head = nn.ConvTranspose2d(4, 2, 2, stride=2), nn.Linear(2, 10)

    def forward(self, x):
        f = F.max_pool2d(F.gelu(self.depth(self.first(x))), 2)
        f = F.interpolate(self.up(f), scale_factor=2.0, mode="bilinear", align_corners=False)
        return self.head(F.adaptive_avg_pool2d(F.pad(f, (1, 1, 1, 1)), 1).flatten(1))


class Deformed(nn.Module):
    """Sampling by a predicted grid."""

    def __init__(self):
        super().__init__()
        self.shift, self.head = nn.Linear(64, 6), nn.Linear(64, 10)

    def forward(self, x):
        theta = 0.1 * self.shift(x.flatten(1)).view(-1, 2, 3) + torch.eye(2, 3)
        grid = F.affine_grid(theta, x.shape, align_corners=False)
        return self.head(F.grid_sample(x, grid, align_corners=False).flatten(1))
