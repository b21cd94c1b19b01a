"""Feature and score losses against naive float64 NumPy references."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.autograd import gradcheck
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from kdplan.ir.functions import FUNCTIONS
from kdplan.nn.distillation import (
    attention,
    confidence_penalty,
    fsp,
    nst,
    tolerant_eta,
    tolerated_score,
    top_score_difference,
)
from kdplan.nn.functions import mix
from kdplan.nn.losses import cross_entropy, kd, kl

Array = NDArray[np.float64]
RNG = np.random.default_rng(1)
S = RNG.normal(size=(3, 4, 3, 3))
T = RNG.normal(size=(3, 6, 3, 3))

CONVENTIONS = {n: p.choices for n, s in FUNCTIONS.items() for p in s.params if p.name == "convention"}


def t(a: Array) -> torch.Tensor:
    return torch.tensor(a)


def exactly(value: float | np.floating[Any]) -> object:
    return pytest.approx(float(value), rel=1e-9, abs=1e-12)


def test_attention_in_both_conventions() -> None:
    def q(f: Array) -> Array:
        v = (f**2).mean(1).reshape(len(f), -1)
        return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))

    assert attention(t(S), t(T)).item() == exactly(np.mean((q(S) - q(T)) ** 2))
    paper = attention(t(S), t(T), convention="paper").item()
    assert paper == exactly(np.mean(np.linalg.norm(q(S) - q(T), axis=1)))


def rows(f: Array) -> Array:
    """Channels as vectors of length 1 over positions."""
    v = f.reshape(*f.shape[:2], -1)
    return np.asarray(v / np.linalg.norm(v, axis=2, keepdims=True))


def discrepancy(s: Array, c: Array) -> float:
    """The double sums over channels, one product at a time."""

    def kernel(a: Array, b: Array) -> float:
        return float(np.mean([[[(x @ y) ** 2 for y in ys] for x in xs] for xs, ys in zip(a, b, strict=True)]))

    return kernel(s, s) + kernel(c, c) - 2 * kernel(s, c)


@pytest.mark.parametrize("channels", [(4, 6), (12, 15)], ids=["over channels", "over positions"])
def test_nst_is_the_naive_double_sum(channels: tuple[int, int]) -> None:
    """With nine positions, more channels than that are compared by matrices over positions."""
    a, b = (RNG.normal(size=(3, c, 3, 3)) for c in channels)
    assert nst(t(a), t(b)).item() == exactly(discrepancy(rows(a), rows(b)))
    assert nst(t(a), t(a)).item() == pytest.approx(0, abs=1e-12)
    single = nst(t(a).float(), t(b).float()).item()
    assert single == pytest.approx(discrepancy(rows(a), rows(b)), abs=1e-6)


def test_nst_of_dead_channels_is_finite() -> None:
    a = t(S).clone()
    a[:, 0] = 0
    a.requires_grad_()
    nst(a, t(T)).backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None and a.grad.isfinite().all()


def test_nst_as_gram_matrices() -> None:
    a = RNG.normal(size=S.shape)
    expected = np.mean([(x @ x.T - y @ y.T) ** 2 for x, y in zip(rows(S), rows(a), strict=True)])
    assert nst(t(S), t(a), convention="gram").item() == exactly(float(expected))
    with pytest.raises(ValueError, match="4 and 6 channels"):
        nst(t(S), t(T), convention="gram")


class Largest(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """The number of entries of the largest tensor that any operation makes, backward ones too."""

    entries = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        out = func(*args, **(kwargs or {}))
        self.entries = max([self.entries, *(x.numel() for x in tree_leaves(out) if isinstance(x, torch.Tensor))])
        return out


@pytest.mark.parametrize(("channels", "side"), [(32, 8), (64, 4)])
def test_nst_needs_little_memory(channels: int, side: int) -> None:
    """The tensor of all pairs of channels at all positions would have B C C HW entries."""
    a = torch.randn(4, channels, side, side, requires_grad=True)
    with Largest() as largest:  # type: ignore[no-untyped-call]
        nst(a, torch.randn(4, channels, side, side)).backward()  # type: ignore[no-untyped-call]
    assert largest.entries <= 4 * max(channels * side**2, channels**2)


def test_fsp_is_the_naive_mean_and_pools_larger_maps_down() -> None:
    to_s, to_t = RNG.normal(size=(3, 5, 3, 3)), RNG.normal(size=(3, 5, 3, 3))
    start_t = RNG.normal(size=(3, 4, 6, 6))
    blocks = start_t.reshape(3, 4, 3, 2, 3, 2)

    def flow(a: Array, b: Array) -> Array:
        return np.asarray((a[:, :, None] * b[:, None]).mean((3, 4)))

    maps = t(S), t(to_s), t(start_t), t(to_t)
    assert fsp(*maps).item() == exactly(np.mean((flow(S, to_s) - flow(blocks.mean((3, 5)), to_t)) ** 2))
    difference = flow(S, to_s) - flow(blocks.max((3, 5)), to_t)
    norms = np.sqrt((difference**2).sum(1)).sum(1).mean()
    assert fsp(*maps, convention="norms").item() == exactly(norms)
    back = fsp(t(to_s), t(S), t(to_t), t(start_t)).item()
    assert back == exactly(np.mean((flow(to_s, S) - flow(to_t, blocks.mean((3, 5)))) ** 2))
    with pytest.raises(ValueError, match=r"\[4, 5\] and \[6, 5\]"):
        fsp(t(S), t(to_s), t(T), t(to_t))


def test_conventions_of_divergences() -> None:
    """The mean over classes too is C times smaller."""
    x, y = RNG.normal(size=(5, 7)), RNG.normal(size=(5, 7))
    p, q = (np.exp(z / 4) / np.exp(z / 4).sum(1, keepdims=True) for z in (x, y))
    value = (p * np.log(p / q)).sum(1).mean()
    for convention, share in (("sum", 1), ("mean", 7)):
        assert kl(t(y), t(x), 4.0, convention=convention).item() == exactly(value / share)
        assert kd(t(y), t(x), 4.0, convention=convention).item() == exactly(16 * value / share)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: attention(t(S), t(T), convention="other"), "`code` or `paper`"),
        (lambda: nst(t(S), t(T), convention="other"), "`mmd` or `gram`"),
        (lambda: fsp(t(S), t(S), t(S), t(S), convention="other"), "`mse` or `norms`"),
        (lambda: kd(t(S), t(S), convention="other"), "`sum` or `mean`"),
        (lambda: fsp(t(S[0]), t(S), t(S), t(S)), r"\[B, C, H, W\]"),
    ],
)
def test_other_conventions_and_shapes_are_refused(call: Callable[[], object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("f", [attention, nst])
def test_maps_of_two_sizes_are_refused(f: object) -> None:
    with pytest.raises(ValueError, match="one height and width"):
        f(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8))  # type: ignore[operator]


def test_gradients() -> None:
    s, c = t(S[:1, :2, :2, :2]).requires_grad_(), t(T[:1, :2, :2, :2]).requires_grad_()
    for f in (attention, nst):
        for convention in CONVENTIONS[f.__name__]:
            assert gradcheck(lambda a, b, f=f, c=convention: f(a, b, convention=c), (s, c))
    wide = t(RNG.normal(size=(1, 5, 2, 2))).requires_grad_()
    assert gradcheck(nst, (wide, wide.detach() ** 2))
    for convention in CONVENTIONS["fsp"]:
        assert gradcheck(lambda s, c=convention: fsp(s, s[..., :1] * 2, s + 1, s[..., :1] ** 2, convention=c), (s,))
    x, y = t(RNG.normal(size=(4, 7))).requires_grad_(), t(RNG.normal(size=(4, 7))).requires_grad_()
    for convention in CONVENTIONS["kd"]:
        assert gradcheck(lambda a, b, c=convention: kd(a, b, 3.0, convention=c), (x, y))
    labels = torch.tensor([0, 1, 2, 3])
    assert gradcheck(lambda x: top_score_difference(x, labels, k=3, u=0.6), (x,))
    assert gradcheck(confidence_penalty, (x,))
    assert gradcheck(lambda x: mix(cross_entropy(x, labels, smoothing=0.1), kl(x, y.detach()), 0.6), (x,))


def test_top_score_difference_is_the_formula() -> None:
    x, y = RNG.normal(size=(6, 8)) * 2, RNG.integers(8, size=6)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    ranked = -np.sort(-p, axis=1)
    ce = -np.log(p[np.arange(6), y]).mean()
    gap = (ranked[:, 0] - ranked[:, 1:5].mean(1)).mean()
    value = top_score_difference(t(x), torch.tensor(y), k=5, eta=0.3).item()
    assert value == exactly(0.3 * ce + 0.7 * gap)
    eta = 0.6 * 5 / (4 + 0.6 * 5)
    assert top_score_difference(t(x), torch.tensor(y), u=0.6).item() == exactly(eta * ce + (1 - eta) * gap)
    assert top_score_difference(t(x), torch.tensor(y), u=1.0).item() == exactly(ce)


def test_u_and_eta_are_inverse() -> None:
    for k in (2, 5, 10):
        for u in (0.0, 0.25, 0.6, 0.99):
            assert tolerated_score(tolerant_eta(u, k), k) == exactly(u)
        assert tolerated_score(1.0, k) == 1.0
    assert tolerant_eta(0.6, 5) == exactly(3 / 7)


def test_confidence_penalty_is_the_formula() -> None:
    x = RNG.normal(size=(6, 8)) * 2
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    assert confidence_penalty(t(x)).item() == exactly((p * np.log(p)).sum(1).mean())


@pytest.mark.parametrize("u", [0.6, 0.8])
def test_the_best_first_score_is_u(u: float) -> None:
    """Minimised over the logits of one sample, the loss leaves u to the first score."""
    x = torch.zeros(1, 8, dtype=torch.float64).index_fill_(1, torch.tensor([0]), 1.0).requires_grad_()
    optimizer = torch.optim.LBFGS([x], max_iter=500, tolerance_grad=1e-12, line_search_fn="strong_wolfe")

    def closure() -> torch.Tensor:
        optimizer.zero_grad()
        loss = top_score_difference(x, torch.tensor([0]), k=5, u=u)
        loss.backward()  # type: ignore[no-untyped-call]
        return loss

    optimizer.step(closure)  # type: ignore[no-untyped-call]
    p = x.detach().softmax(1).sort(descending=True).values[0]
    assert p[0].item() == pytest.approx(u, abs=1e-4)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({}, "either u or eta"),
        ({"eta": 0.5, "u": 0.5}, "either u or eta"),
        ({"u": 1.2}, "u is from 0 to 1"),
        ({"k": 9, "u": 0.5}, "from 2 to the number of classes, 8"),
    ],
)
def test_mistakes_are_told(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_score_difference(torch.zeros(1, 8), torch.tensor([0]), **settings)  # type: ignore[arg-type]


@pytest.mark.parametrize("f", [attention, nst])
def test_equal_features_have_no_gradient(f: Callable[..., torch.Tensor]) -> None:
    """Where a student begins as its teacher: lengths have no derivative at 0, and none may be made up."""
    for convention in CONVENTIONS[f.__name__]:
        a = t(S).clone().requires_grad_()
        f(a, t(S), convention=convention).backward()  # type: ignore[no-untyped-call]
        assert a.grad is not None and a.grad.abs().max() < 1e-12
    a = t(S).clone().requires_grad_()
    fsp(a, a, t(S), t(S), convention="norms").backward()  # type: ignore[no-untyped-call]
    assert a.grad is not None and a.grad.abs().max() == 0
