"""What the random modules of `fuzz.py` are made of: lines of a constructor, of a `forward`, and of the file.

In a row, `$f $g` are features [B, 4] that exist, `$w` is one that may be written into, `$o` is a new one, `$v` is a
vector [4], `$c` a number, `$m` a new attribute, `$B` a class of the file with the signature of a feature.
"""

from __future__ import annotations

import re

HEAD = """import contextlib
import functools
import math
import random
from collections import namedtuple
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn
from torch.utils.checkpoint import checkpoint
"""

FILE = {
    "CONST": "CONST = torch.linspace(0.5, 1.5, 4)",
    "Pair": 'Pair = namedtuple("Pair", ["logits", "extra"])',
    "Output": "@dataclass\nclass Output:\n    logits: torch.Tensor\n    extra: torch.Tensor",
    "Square": (
        "class Square(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x):\n"
        "        ctx.save_for_backward(x)\n        return x * x\n\n    @staticmethod\n"
        "    def backward(ctx, g):\n        return 3 * g * ctx.saved_tensors[0]"
    ),
    "mixed": "def mixed(a, b, *rest, by=0.5, **more):\n"
    "    return torch.lerp(a, b, by) + sum(rest) + more.get('shift', 0)",
    "halved": (
        "def halved(fn):\n    @functools.wraps(fn)\n    def inner(*args, **kwargs):\n"
        "        return fn(*args, **kwargs) / 2\n    return inner"
    ),
    "soft": "@halved\ndef soft(x, scale=torch.tensor(2.0)):\n    return torch.tanh(x * scale)",
    "still": "@torch.no_grad()\ndef still(x):\n    return x.mean(0)",
    "fused": "@torch.jit.script\ndef fused(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:\n"
    "    return x * y.sigmoid()",
    "scope": "@contextlib.contextmanager\ndef scope(x):\n    yield x + 1",
    "Own": (
        "class Own(nn.Sequential):\n    def forward(self, x):\n        for layer in self:\n"
        "            x = x + layer(x)\n"
        "        return x"
    ),
    "Half": (
        "class Half(nn.Linear):\n    rate = 0.5\n\n    @property\n    def scaled(self):\n"
        "        return self.weight * self.rate\n\n    def forward(self, x):\n"
        "        return F.linear(x, self.scaled) + super().forward(x)"
    ),
    "Tick": (
        'class Tick(nn.Module):\n    def __init__(self):\n        super().__init__()\n'
        '        self.register_buffer("n", torch.zeros(()))\n\n    def forward(self, x):\n        self.n += 1\n'
        "        return x / self.n"
    ),
    "Twin": (
        "class Twin(nn.Module):\n    def __init__(self):\n"
        "        super().__init__()\n        self.a = nn.Linear(4, 4)\n\n"
        '    def forward(self, x, y=None, *, scale=1.0):\n        y = x if y is None else y\n'
        "        return self.a(x) * scale, {'sum': x + y, 'rows': len(x)}"
    ),
    "Lent": (
        "class Lent(nn.Module):\n    def __init__(self, inner):\n"
        "        super().__init__()\n        self.inner = inner\n\n"
        "    def __getattr__(self, name):\n        try:\n            return super().__getattr__(name)\n"
        "        except AttributeError:\n            return getattr(super().__getattr__('inner'), name)\n\n"
        "    def forward(self, x):\n        return self.inner(x) + self.weight.mean()"
    ),
}  # fmt: skip
"""Definitions of a file, by the name that asks for them."""

OWN = {
    "center": 'self.register_buffer("center", torch.zeros(4))',
    "spread": 'self.register_buffer("spread", torch.ones(4), persistent=False)',
    "bank": 'self.register_buffer("bank", torch.linspace(-1, 1, 48).reshape(12, 4))',
    "queue": 'self.register_buffer("queue", torch.zeros(4, 12))',
    "n": 'self.register_buffer("n", torch.zeros(()))',
    "ptr": 'self.register_buffer("ptr", torch.zeros(1, dtype=torch.long))',
    "seen": 'self.register_buffer("seen", torch.zeros(4, dtype=torch.bool))',
    "prev": 'self.register_buffer("prev", None)',
    "rate": "self.rate = 0.5",
    "t": "self.t = 0",
    "kept": "self.kept = []",
    "cache": "self.cache = {}",
    "last": "self.last = None",
    "plain": "self.plain = torch.linspace(1, 2, 4)",
    "gain": "self.gain = nn.Parameter(torch.linspace(0.5, 1, 4))",
    "matrix": "self.matrix = nn.Parameter(torch.eye(4) * 0.7 + 0.1)",
    "table": "self.table = nn.ParameterList([nn.Parameter(torch.full((4,), 0.5)) for _ in range(2)])",
    "named": 'self.named = nn.ParameterDict({"a": nn.Parameter(torch.ones(4)), "b": nn.Parameter(torch.zeros(4))})',
}
"""Attributes of a class, by their names: a class has those that its `forward` mentions."""

METHODS = {
    "bent": "def bent(self, x, by=torch.tensor(1.5), *, turn=False):\n    return (x.flip(1) if turn else x) * by",
    "deep": "def deep(self, x, depth):\n    return x if depth == 0 else self.deep(torch.tanh(x) + depth, depth - 1)",
    "scaled": "@property\ndef scaled(self):\n    return self.gain * 2",
    "same": "@staticmethod\ndef same(x):\n    return x.mul(0.5)",
    "noted": "def noted(self, x):\n    self.last = x.detach()\n    return x",
}
"""Methods of a class, by their names."""

Row = tuple[str, str]
"""Lines of a constructor, and of a `forward`."""


def _rows(text: str) -> list[Row]:
    """A row a line: constructor `=>` forward; `;;` is a new line."""
    rows = []
    for line in text.strip().splitlines():
        before, arrow, after = line.strip().partition(" => ")
        init, body = (before, after) if arrow else ("", before)
        rows.append((init.replace(" ;; ", "\n"), re.sub(r" *;; ?", "\n", body)))
    return rows


LAYERS = _rows("""
self.$m = nn.Linear(4, 4) => $o = self.$m($f)
self.$m = nn.Linear(4, 4, bias=False) => $o = self.$m.forward($f)
self.$m = nn.BatchNorm1d(4) => $o = self.$m($f)
self.$m = nn.BatchNorm1d(4, momentum=None) => $o = self.$m($f)
self.$m = nn.BatchNorm1d(4, track_running_stats=False) => $o = self.$m($f)
self.$m = nn.LayerNorm(4) => $o = self.$m($f)
self.$m = nn.Dropout(0.3) => $o = self.$m($f)
self.$m = nn.Dropout(0.3, inplace=True) => $o = self.$m($w)
self.$m = nn.ReLU(inplace=True) => $o = self.$m($w)
self.$m = nn.LeakyReLU(0.2, inplace=True) => self.$m($w)
self.$m = nn.Sequential(nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 4)) => $o = self.$m($f)
self.$m = nn.Sequential(nn.Linear(4, 4), nn.Hardswish(inplace=True)) => $o = self.$m($f)
self.$m = nn.GRU(4, 4, batch_first=True) => $o = self.$m($f.unsqueeze(1))[0][:, -1]
self.$m = nn.LSTMCell(4, 4) => $o, _ = self.$m($f)
self.$m = nn.MultiheadAttention(4, 2, dropout=0.1, batch_first=True) => $o = self.$m($f[None], $g[None], $g[None], need_weights=False)[0][0]
self.$m = nn.Embedding(5, 4) => $o = self.$m($f.argmax(1))
self.$m = nn.Conv1d(1, 2, 3, padding=1) => $o = self.$m($f.unsqueeze(1)).mean(1)
self.$m = nn.PReLU() => $o = self.$m($f)
self.$m = nn.utils.parametrizations.spectral_norm(nn.Linear(4, 4)) => $o = self.$m($f)
self.$m = nn.utils.parametrizations.weight_norm(nn.Linear(4, 4)) => $o = self.$m($f)
self.$m = nn.Linear(4, 4) ;; self.$k = nn.Linear(4, 4) ;; self.$k.weight = self.$m.weight => $o = self.$m($f) + self.$k($g)
self.$m = nn.Linear(4, 4) ;; self.$k = self.$m => $o = self.$m($f) + self.$k($g)
self.$m = nn.Linear(4, 4) => $o = self.$m(self.$m($f).relu())
self.$m = nn.Linear(4, 4) => $o = F.linear($f, self.$m.weight.detach(), self.$m.bias)
self.$m = nn.Linear(4, 4) => $o = $f @ self.$m.weight.t() + self.$m.bias * $c
self.$m = [nn.Linear(4, 4)] => $o = self.$m[0]($f)
self.$m = nn.ModuleList([nn.Linear(4, 4), $B(), $B()]) => $o = $f;; for layer in self.$m:;;     $o = layer($o)
self.$m = nn.ModuleList([$B(), nn.Tanh(), $B()]) => $o = $f;; for layer in reversed(self.$m[1:]):;;     $o = $o + layer($o)
self.$m = nn.ModuleList([$B() for _ in range(2)]) => $o = sum(layer($f) for layer in self.$m)
self.$m = nn.ModuleList([$B() for _ in range(2)]) => $o = torch.stack([layer($f) for layer in self.$m]).mean(0)
self.$m = nn.ModuleDict({"a": $B(), "b": nn.Linear(4, 4)}) => $o = $f;; for name, layer in self.$m.items():;;     $o = layer($o) if name != "skip" else $o
self.$m = nn.ModuleDict({"a": $B(), "b": $B()}) => $o = self.$m["a" if $f.shape[1] > 3 else "b"]($f)
self.$m0 = $B() ;; self.$m1 = $B() => $o = $f;; for i in range(2):;;     $o = getattr(self, f"$m{i}")($o)
self.$m = nn.Sequential($B(), nn.Linear(4, 4), nn.ReLU(inplace=True)) => $o = self.$m($f)
self.$m = $B() => $o = self.$m($f)
self.$m = $B() => $o = self.$m($f) + $f
self.$m = $B() => $o = self.$m(self.$m($f))
self.$m = $B() => $o = self.$m.forward($f)
self.$m = $B() ;; self.$k = self.$m => $o = self.$m($f) - self.$k($g)
self.$m = Own(nn.Linear(4, 4), nn.Sigmoid()) => $o = self.$m($f)
self.$m = Own($B(), nn.Linear(4, 4)) => $o = self.$m($f)
self.$m = Half(4, 4) => $o = self.$m($f)
self.$m = Tick() => $o = self.$m($f)
self.$m = Twin() => $o, more = self.$m($f, scale=2.0);; $o = $o + more["sum"] / more["rows"]
self.$m = Twin() => $o = self.$m($f, $g)[1]["sum"]
self.$m = Lent(nn.Linear(4, 4)) => $o = self.$m($f)
self.$m = nn.Linear(4, 4) ;; self.$m.register_forward_hook(lambda module, inputs, output: output * 2) => $o = self.$m($f)
self.$m = $B() ;; self.$m.register_forward_pre_hook(lambda module, inputs: (inputs[0] + 1,)) => $o = self.$m($f)
self.$m = $B() ;; self.$m.register_forward_hook(self.note) => $o = self.$m($f);; $o = $o + self.noticed.mean()
self.$m = nn.Linear(4, 4) ;; self.$m.weight.requires_grad_(False) => $o = self.$m($f)
self.$m = nn.Linear(4, 4) => $o = checkpoint(self.$m, $f, use_reentrant=False)
self.$m = nn.Linear(4, 4) => $o = torch.func.functional_call(self.$m, dict(self.$m.named_parameters()), ($f,))
self.$m = nn.Dropout(0.4) => $o = self.$m($f) - self.$m($f)
self.$m = nn.AlphaDropout(0.2) => $o = self.$m($f)
self.$m = nn.Identity() => $o = self.$m($f)
self.$m = nn.Flatten() => $o = self.$m($w)
""")  # noqa: E501 - a row a line

PURE = _rows("""
$o = F.relu($f)
$o = torch.tanh($f) * $g.sigmoid()
$o = $f + $v
$o = $f * $c - $g
$o = $f / $f.shape[0]
$o = $f * $f.size(1) ** -0.5
$o = $f / math.sqrt($f.shape[-1])
rows, columns = $f.shape;; $o = $f.reshape(columns, rows).t() / rows
*_, columns = $f.size();; $o = $f.view(-1, columns)
$o = $f.view(len($f), -1) + $f.numel() / 100
$o = F.normalize($f, dim=1)
$o = F.layer_norm($f, $f.shape[1:])
$o = torch.where($f > 0, $f, self.center)
$o = torch.where(self.seen, $f, $g)
$o = torch.einsum("bi,ij->bj", $f, self.matrix)
$o = torch.einsum("bi,bj->ij", $f, $g).mean(0) + $f
$o = torch.stack([$f, $g]).mean(0)
$o = torch.cat([$f, $g], 1)[:, ::2]
$o = torch.cat([part * i for i, part in enumerate($f.chunk(2, 1), 1)], dim=1)
$o = sum(x * i for i, x in enumerate([$f, $g], 1))
$o = $f.flip(1).roll(1, 0)
$o = $f.gather(1, $g.argsort(1))
$o = $f.topk(4, 1).values
$o = $f.cumsum(1).clamp(-2, 2)
$o = ($f @ $g.t()).softmax(1) @ $f
$o = F.pad($f, (1, 1))[:, 1:-1]
$o = F.interpolate($f[:, None], size=8, mode="nearest")[:, 0, : $f.shape[1]]
$o = $f.new_ones($f.shape) + $f
$o = torch.zeros_like($f) + $v
$o = torch.arange($f.shape[0], dtype=$f.dtype, device=$f.device)[:, None] * 0.1 + $f
$o = torch.full(($f.size(0), 4), $c) * $f
$o = $f + torch.ones($f.size())
$o = $v.expand($f.shape[0], -1) + $f
$o = $f.unflatten(1, (2, 2)).transpose(1, 2).flatten(1)
$o = $f.double().pow(2).mean(1, keepdim=True).float() + $f
$o = $f.to(torch.float32).type_as($g)
$o = $f * (torch.finfo($f.dtype).max > 1)
$o = $f.masked_fill($g > 0, $c)
$o = $f + CONST
$o = $f * self.plain
$o = Square.apply($f)
$o = fused($f, $g)
$o = mixed($f, $g, $f, 1, by=0.25, shift=$v)
$o = soft($f) + soft(x=$g)
$o = self.bent($f, turn=True)
$o = self.bent($f, $v)
$o = self.deep($f, 2)
$o = $f * self.scaled
$o = self.same($f)
$o = $f * self.gain + self.table[0] - self.named["b"]
$o = $f * sum(self.table)
$o = functools.reduce(torch.mul, [$f, $g.sigmoid(), torch.ones(4)])
$o = (lambda a, b=$c: a * b)($f)
$o = functools.partial(torch.clamp, min=-1)($f, max=1)
$o = torch.cat(list(map(torch.neg, $f.split([1, 3], dim=1))), 1)
with scope($f) as $o:;;     $o = $o * 2
try:;;     $o = $f.view(7, 7);; except RuntimeError:;;     $o = $f * 2
if (total := $f.sum(1, keepdim=True)) is not None:;;     $o = $f + total
$o = $f if isinstance($f, torch.Tensor) else None
$o = $f * 2 if torch.is_tensor($f) and $f.is_floating_point() else $f
$o = $f * (2 if $f.requires_grad else 3)
$o = $f * (2 if $f.dim() == 2 and $f.ndim == len($f.shape) else 3)
$o = $f * (2 if torch.is_grad_enabled() else 3)
$o = $f * (2 if torch.is_autocast_enabled("cpu") else 3)
$o = $f * (2 if $f.dtype == torch.float32 else 3)
$o = $f * (2 if $f.is_contiguous() else 3)
$o = $f * (2 if $f.grad_fn is None else 3)
$o = $f * (2 if self.gain.requires_grad else 3)
$o = $f * (2 if $f.shape[0] == 6 else 3)
$o = $f * (2 if $f.shape == $g.shape else 3)
$o = $f[: max(1, $f.shape[0] // 2)].mean(0) + $f
$o = $f * torch.tensor($f.shape[0] / 10)
$o = $f * torch.tensor([1.0, 2.0, 3.0, float($f.shape[1])])
$o = torch.vmap(lambda row: row * row.sum())($f)
$o = torch.func.grad(lambda a: (a**3).sum())($f)
$o = torch.autograd.grad($f.pow(2).sum(), $f, create_graph=True)[0] if $f.requires_grad else $f
$o = $f.detach() * 2 + $g
$o = $f - ($f - $f.round()).detach()
$o = $f.mul($g).add($f, alpha=$c)
$o = torch.addcmul($f, $g, $f, value=0.1)
$o = $f.unbind(1)[0][:, None] + $f
a, b = $f.chunk(2, dim=1);; $o = torch.cat([b, a], dim=1)
values, index = $f.max(1);; $o = $f + values[:, None] * index[:, None]
$o = $f.std(0, unbiased=False) + $f
$o = F.scaled_dot_product_attention($f[None], $g[None], $f[None])[0]
$o = torch.linalg.norm($f, dim=1, keepdim=True) + $f
$o = F.cosine_similarity($f, $g)[:, None] + $f
$o = $f ** 2 + 2 ** $g.tanh() - 1 / (2 + $g.tanh())
$o = -$f + abs($g) + round($c)
$o = ($f > $g).float() + $f
$o = $f * ($f.shape[0] in (5, 6)) + divmod($f.shape[0], 4)[1]
$o = {"a": $f, "b": $g}["b"] * 2
$o = [y for y in ($f, $g) if y.shape[0] > 1][-1] + 1
$o = next(iter(($f * 3, $g)))
$o = $f.clone(memory_format=torch.contiguous_format)
$o = torch.jit.annotate(torch.Tensor, $f) + 0.5
""")

DRAWS = _rows("""
$o = F.dropout($f, 0.3, self.training)
$o = F.dropout($w, 0.3, training=self.training, inplace=True)
$o = $f + torch.randn_like($g)
$o = $f + torch.randn($f.shape)
$o = $f * torch.rand($f.size(0), 1)
$o = $f + torch.randn(4)
$o = $f * torch.bernoulli($f.detach().sigmoid())
$o = $f + $f.new_empty($f.shape).normal_()
$o = $f + torch.empty_like($f).uniform_(-1, 1)
$o = $f + torch.empty(4).uniform_()
$o = $f[torch.randperm($f.size(0))]
$o = $f + torch.randint(0, 3, ($f.shape[0], 1))
$o = F.gumbel_softmax($f)
$o = torch.normal($f.detach(), 1.0) + $f
$o = torch.distributions.Normal($f, 1.0).rsample()
$o = $f + torch.multinomial(torch.ones($f.shape[0], 4), 1)
$o = $f * (2 if random.random() < 0.5 else 3)
$o = $f * float(np.random.rand())
$o = $f * (2 if torch.rand(()) < 0.5 else 3)
$o = $f + torch.randn(4, generator=torch.Generator().manual_seed(3))
$o = $f if torch.rand(1).item() < 0.5 and self.training else $g
$o = F.rrelu($f, training=self.training)
$o = $f + torch.rand_like(self.center)
$o = $f * torch.empty($f.shape[0], 1).bernoulli_(0.7).div_(0.7)
torch.manual_seed(3);; $o = $f + torch.rand(4)
$o = $f * torch.tensor(random.choice([1.0, 2.0]))
""")

WRITES = _rows("""
$w.add_($v)
$w.mul_($c)
$w.relu_()
$w += $g
$w *= 0.5
$w -= $v
alias = $w;; $w += $g;; $o = alias * 2
alias = $w;; $w = $w * 2;; alias.add_(1)
$w[:, 0] = $c
$w[:, :2] += $g[:, 2:]
$w[...] = $g
$w[:] = $g * 2
$w[$g > 0] = 0.0
$w[0] = $v
$w[:, [0, 2]] = $g[:, [1, 3]]
$w.masked_fill_($g > 0.5, 0.0)
$w.scatter_(1, $g.argmax(1, keepdim=True), 0.5)
$w.scatter_add_(1, $g.argsort(1), $g)
$w.index_add_(0, torch.tensor([0, 1]), $g[:2])
$w.index_fill_(1, torch.tensor([1]), 0.25)
$w.copy_($g)
$w.zero_().add_($g)
$w.clamp_(-1, 1)
$w.sub_($g, alpha=0.1).div_(2)
$w.fill_($c)
$o = $w.neg_()
a, b = $w.chunk(2, 1);; a.mul_(2);; b[:, 0].add_(1)
for row in $w.unbind(0):;;     row.mul_(0.5)
for i, part in enumerate($w.split(2, dim=1)):;;     part.add_(i)
$w.t().add_($v[:, None])
$w.view(-1)[::2] *= 0.5
$w.view(2, -1)[1].zero_()
$w[:, 1:3][:, 0].fill_(0.5)
$w.narrow(1, 0, 2).mul_($g[:, :2])
$w.diagonal().add_(1)
part = $w[:, 1:];; part.mul_(2);; $o = torch.cat([part, $w[:, :1]], 1)
$w.data.mul_(0.5)
$w.data = $w.data * 0.5
$w.detach().mul_(0.5)
with torch.no_grad():;;     $w.mul_(0.5)
$w.detach_()
$o = $w.requires_grad_() * 2
$w.unsqueeze_(1).squeeze_(1)
$w.t_().t_()
$w.t_();; $o = $w.t() + 1;; $w.t_()
$w.unsqueeze_(0);; $o = $w[0] + 1;; $w.squeeze_(0)
$o = torch.empty_like($f).copy_($f)
$o = torch.zeros($f.shape);; $o[:, 1:] = $f[:, 1:]
$o = torch.zeros($f.shape[0], 4);; $o[:, torch.arange(4)] = $f
$o = torch.empty($f.shape[0], 4);; torch.add($f.detach(), $g.detach(), out=$o);; $o = $o + $f
$o = $f.new_zeros($f.shape[0], 4);; $o.scatter_(1, $g.argmax(1, keepdim=True), 1);; $o = $o + $f
$o = torch.relu_($w)
$o = F.leaky_relu_($w, 0.1)
$o = F.relu($w, inplace=True)
$o = F.hardtanh_($w)
$o = torch.nn.init.constant_(torch.empty(4), $c) + $f
$o = $w.exp_().log1p_()
$o = $f.clone();; for i in range($f.shape[0]):;;     $o[i] = $o[i - 1] * 0.5 + $f[i]
$o = [$f, $g];; $o[0] = $o[0] + 1;; $o = $o[0] + $o.pop()
$w.__setitem__((slice(None), 3), 1.0)
$w.t()[0] += 1
torch.Tensor.add_($w, 1)
torch.mul($w.detach(), 2, out=$w.data)
both = torch.stack([$f, $g]);; both[0].mul_(2);; $o = both.sum(0)
both = torch.cat([$f, $g]);; both[: $f.shape[0]] -= 1;; $o = both[$f.shape[0] :]
$w.resize_($w.shape)
$o = $w.squeeze();; $o.add_(1)
$o = $w.contiguous();; $o.add_(1)
$o = $w.reshape(-1, 4);; $o.mul_(2);; $o = $o + $w
$o = $w.to(torch.float32);; $o.add_(1);; $o = $o + $w
$o = $w.expand(2, -1, -1).sum(0);; $w.add_(1)
""")

STATE = _rows("""
self.center = 0.9 * self.center + 0.1 * $f.detach().mean(0);; $o = $f - self.center
self.center = self.center.lerp($f.detach().mean(0), 0.1)
with torch.no_grad():;;     self.center = 0.9 * self.center + 0.1 * $f.mean(0)
$o = $f - self.center;; self.center.mul_(0.9).add_($f.detach().mean(0), alpha=0.1)
old = self.center;; self.center = self.center + $f.detach().mean(0);; $o = $f + old
old = self.center;; self.center += $f.detach().mean(0);; $o = $f + old
old = self.center.clone();; self.center.copy_($f.detach().mean(0));; $o = $f - old
self.center, self.spread = self.spread, self.center + 1;; $o = $f + self.center
self.center, self.spread = self.spread, self.center;; $o = $f * self.center
self.center = self.spread;; self.spread.add_(1);; $o = $f + self.center
self.center = $f.detach()[0];; $o = $f + self.center
fresh = $f.detach().mean(0);; self.center = fresh;; fresh.add_(1);; $o = $f - self.center
self.center = $f.mean(0).detach();; self.center.mul_(0.5);; $o = $f + self.center
self.center.data = $f.detach().mean(0)
self.center.data.copy_($f.mean(0))
self.center.data[0] = $c;; $o = $f + self.center
self.center.set_($f.detach().mean(0))
setattr(self, "center", self.center + 1);; $o = $f + getattr(self, "center")
self._buffers["center"] = self.center + 1;; $o = $f + self.center
torch.lerp(self.center, $f.detach().mean(0), 0.1, out=self.center)
torch.add(self.center, 1, out=self.center);; $o = $f + self.center
self.center[1:3] = $f.detach().mean(0)[1:3];; $o = $f + self.center
self.center[self.center > 0.5] = 0.0;; self.center += 0.3
self.center.masked_fill_(self.seen, 0.0).add_(0.1);; self.seen |= self.center > 0.2
self.seen.logical_not_();; $o = $f * self.seen
self.seen[:2] = True;; $o = torch.where(self.seen, $f, -$f)
self.n += 1;; $o = $f / self.n
self.n.add_(1);; $o = $f * (self.n + 1).rsqrt()
self.n = self.n + 1;; $o = $f / self.n
self.n.fill_($f.shape[0]);; $o = $f / self.n
if self.n == 0:;;     self.center.copy_($f.detach().mean(0));; self.n += 1
$o = $f + self.center if self.n > 1 else $f;; self.n.add_(1)
start = int(self.ptr);; self.queue[:, start : start + 2] = $f[:2].detach().t();; self.ptr[0] = (start + 2) % 12;; $o = $f + self.queue.mean(1)
$o = $f + ($f @ self.queue.clone().detach()).mean(1, keepdim=True);; self.queue[:, : $f.shape[0]] = $f.detach().T
$o = $f + self.bank.mean(0);; self.bank[: $f.shape[0]] = $f.detach()
self.bank[self.ptr] = $f[:1].detach();; self.ptr += 1;; $o = $f + self.bank.sum(0)
self.bank = torch.cat([$f.detach(), self.bank])[:12];; $o = $f @ self.bank[:4]
self.bank = self.bank.roll(1, 0);; self.bank[0] = $f.detach()[0];; $o = $f + self.bank[0]
self.bank[1:] = self.bank[:-1].clone();; $o = $f + self.bank[1]
self.bank[0].add_($f.detach().mean(0));; $o = $f + self.bank[0]
row = self.bank[2];; row += $f.detach()[0];; $o = $f + self.bank.mean(0)
first, second = self.bank.chunk(2);; first.mul_(0.5);; $o = $f + self.bank.mean(0) - second.mean(0)
for row in self.bank.unbind(0)[:2]:;;     row.mul_(0.9)
self.bank.index_copy_(0, torch.arange($f.shape[0]), $f.detach());; $o = $f + self.bank.mean(0)
self.bank.index_put_(($f.argmax(1),), $f.detach());; $o = $f + self.bank[:4].mean(0)
self.bank.index_add_(0, $f.argmax(1), torch.ones($f.shape[0], 4));; $o = $f + self.bank.mean()
self.bank.scatter_(0, torch.zeros(1, 4, dtype=torch.long), $f.detach()[:1]);; $o = $f + self.bank[0]
self.bank.view(-1)[:4].copy_($f.detach()[0])
self.bank.t()[0].add_(1);; $o = $f * self.bank.std()
self.bank.sub_(self.bank.mean(0, keepdim=True));; $o = $f @ self.bank[:4]
$o = F.batch_norm($f, self.center, self.spread, training=self.training)
$o = F.batch_norm($f, self.center, self.spread, self.gain, self.gain, self.training, 0.2)
self.prev = $f.detach()[0] if self.prev is None else self.prev + $f.detach()[0]
self.register_buffer("prev", $f.detach().mean(0));; $o = $f + self.prev
self.center.normal_();; $o = $f + self.center
self.center.bernoulli_(0.5);; $o = $f * self.center
if self.training:;;     self.center.mul_(0.9).add_(0.1 * $f.detach().mean(0));; $o = $f - self.center
with torch.no_grad():;;     old = self.center.clone();;     self.center += $f.mean(0);; $o = $f - old
self.center.copy_(still($f));; $o = $f - self.center
with torch.inference_mode():;;     drift = $f.mean(0);; self.center.add_(drift)
self.center.requires_grad_(False).add_(1);; $o = $f + self.center
self.center.add_($f.detach().mean(0));; $o = $f + self.center.detach().clone()
self.center.add_(self.get_buffer("center"));; $o = $f + dict(self.named_buffers())["center"]
for b in self.buffers(recurse=False):;;     b.add_(1)
self.ptr.add_($f.shape[0]).remainder_(12);; $o = $f + self.ptr
self.t += 1;; $o = $f * self.t
self.t = $f.shape[0];; $o = $f / self.t
self.kept.append($f.detach().mean());; $o = $f + len(self.kept)
self.kept = [$f];; self.kept.append($g);; $o = torch.stack(self.kept).sum(0)
self.last = $f;; $o = self.last * 2
self.noted($f);; $o = $f + self.last.mean(0)
key = tuple($f.shape);; if key not in self.cache:;;     self.cache[key] = torch.arange($f.shape[1]) * 0.1;; $o = $f + self.cache[key]
if self.last is None or self.last.shape[0] != $f.shape[0]:;;     self.last = torch.ones($f.shape[0], 1);; $o = $f * self.last
self.rate = self.rate;; $o = $f * self.rate
self.gain.data.mul_(0.99);; $o = $f * self.gain
with torch.no_grad():;;     self.matrix.clamp_(-1, 1);; $o = $f @ self.matrix
with torch.no_grad():;;     self.gain.copy_(F.normalize(self.gain, dim=0));; $o = $f * self.gain
self.matrix.data = self.matrix.data / self.matrix.data.norm();; $o = $f @ self.matrix
self.plain += 1;; $o = $f * self.plain
self.plain = self.plain * 0.5;; $o = $f * self.plain
CONST.mul_(1.0);; $o = $f * CONST
""")  # noqa: E501 - a row a line

BLOCKS = [
    "if $f.shape[0] > 3:", "if $f.shape[0] == 5:", "if self.training:", "if not self.training:", "if $f.dim() == 3:",
    "if $f.size(1) % 2 == 0:", "for _ in range(2):", "for i in range($f.shape[0] - 3):", "for i in range($f.dim()):",
    "for key in ('a', 'b'):", "while $f.dim() > 2:", "with torch.no_grad():", "with torch.enable_grad():",
    "with torch.set_grad_enabled(self.training):", "with torch.set_grad_enabled(not self.training):",
    "with torch.autocast('cpu', enabled=False):", "with torch.autocast('cpu', dtype=torch.bfloat16):",
    "with torch.random.fork_rng(devices=[]):", "with contextlib.nullcontext():", "if len($f) > 1 and $f is not None:",
    "with torch.inference_mode():",
]  # fmt: skip
"""Heads of blocks of statements; a feature that exists may be bound anew inside."""

VECTORS = [
    "self.center", "self.spread", "self.gain", "$f.mean(0)", "$f.detach().mean(0)", "self.bank[0]", "CONST",
    "self.bank.mean(0)", "torch.ones(4)", "self.table[1]", "$f[0]", "self.plain", "self.scaled",
]  # fmt: skip

RETURNS = [
    "return $o", "return $o, $f", "return [$o, $f]", "return {'logits': $o, 'extra': $f}", "return Pair($o, $f)",
    "return {'extra': $f, 'logits': $o}", "return Output($o, $f)", "return ($o, None, [$f])",
    "$o.mul_(0.5)\nreturn $o", "$o[:, 0] = 0.5\nreturn $o, $f", "$o.clamp_(-1, 1)\nreturn Output($o, $f)",
    "return {'out': $o, 'aux': {'deep': $f}}", "return $o if self.training else $o",
]  # fmt: skip
