"""Feature and score losses against naive float64 NumPy references."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch.autograd import gradcheck

from kdplan.nn.distillation import attention, fsp, nst, top_score_difference

Array = NDArray[np.float64]
RNG = np.random.default_rng(1)
S = RNG.normal(size=(3, 4, 3, 3))
T = RNG.normal(size=(3, 6, 3, 3))


def t(a: Array) -> torch.Tensor:
    return torch.tensor(a)


def test_attention_in_both_conventions() -> None:
    def q(f: Array) -> Array:
        v = (f**2).mean(1).reshape(len(f), -1)
        return np.asarray(v / np.linalg.norm(v, axis=1, keepdims=True))

    assert attention(t(S), t(T)).item() == pytest.approx(np.mean((q(S) - q(T)) ** 2))
    paper = attention(t(S), t(T), convention="paper").item()
    assert paper == pytest.approx(np.mean(np.linalg.norm(q(S) - q(T), axis=1)))
    with pytest.raises(ValueError, match="`code` or `paper`"):
        attention(t(S), t(T), convention="other")


def test_nst_is_the_naive_double_sum() -> None:
    def rows(f: Array) -> Array:
        v = f.reshape(*f.shape[:2], -1)
        return np.asarray(v / np.linalg.norm(v, axis=2, keepdims=True))

    def kernel(a: Array, b: Array) -> float:
        return float(np.mean([[[(x @ y) ** 2 for y in ys] for x in xs] for xs, ys in zip(a, b, strict=True)]))

    s, c = rows(S), rows(T)
    assert nst(t(S), t(T)).item() == pytest.approx(kernel(s, s) + kernel(c, c) - 2 * kernel(s, c))
    assert nst(t(S), t(S)).item() == pytest.approx(0, abs=1e-12)


def test_fsp_is_the_naive_mean_and_averages_larger_maps_down() -> None:
    to_s, to_t = RNG.normal(size=(3, 5, 3, 3)), RNG.normal(size=(3, 5, 3, 3))
    start_t = RNG.normal(size=(3, 4, 6, 6))
    small = start_t.reshape(3, 4, 3, 2, 3, 2).mean((3, 5))

    def flow(a: Array, b: Array) -> Array:
        return np.asarray((a[:, :, None] * b[:, None]).mean((3, 4)))

    expected = np.mean((flow(S, to_s) - flow(small, to_t)) ** 2)
    assert fsp(t(S), t(to_s), t(start_t), t(to_t)).item() == pytest.approx(expected)
    with pytest.raises(ValueError, match=r"\[4, 5\] and \[6, 5\]"):
        fsp(t(S), t(to_s), t(T), t(to_t))


@pytest.mark.parametrize("f", [attention, nst])
def test_maps_of_two_sizes_are_refused(f: object) -> None:
    with pytest.raises(ValueError, match="one height and width"):
        f(torch.zeros(1, 2, 4, 4), torch.zeros(1, 2, 8, 8))  # type: ignore[operator]


def test_gradients() -> None:
    s, c = t(S[:1, :2, :2, :2]).requires_grad_(), t(T[:1, :3, :2, :2]).requires_grad_()
    assert gradcheck(attention, (s, c))
    assert gradcheck(lambda a, b: attention(a, b, convention="paper"), (s, c))
    assert gradcheck(nst, (s, c))
    assert gradcheck(lambda s: fsp(s, s * 2, s + 1, s**2), (s,))
    x = t(RNG.normal(size=(4, 7))).requires_grad_()
    assert gradcheck(lambda x: top_score_difference(x, torch.tensor([0, 1, 2, 3]), k=3, u=0.6), (x,))


def test_top_score_difference_is_the_formula() -> None:
    x, y = RNG.normal(size=(6, 8)) * 2, RNG.integers(8, size=6)
    p = np.exp(x) / np.exp(x).sum(1, keepdims=True)
    ranked = -np.sort(-p, axis=1)
    ce = -np.log(p[np.arange(6), y]).mean()
    gap = (ranked[:, 0] - ranked[:, 1:5].mean(1)).mean()
    value = top_score_difference(t(x), torch.tensor(y), k=5, eta=0.3).item()
    assert value == pytest.approx(0.3 * ce + 0.7 * gap)
    eta = 0.6 * 5 / (4 + 0.6 * 5)
    assert top_score_difference(t(x), torch.tensor(y), u=0.6).item() == pytest.approx(eta * ce + (1 - eta) * gap)
    assert top_score_difference(t(x), torch.tensor(y), u=1.0).item() == pytest.approx(ce)


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
        ({}, "either eta or u"),
        ({"eta": 0.5, "u": 0.5}, "either eta or u"),
        ({"u": 1.2}, "u is from 0 to 1"),
        ({"k": 9, "u": 0.5}, "from 2 to the number of classes, 8"),
    ],
)
def test_mistakes_are_told(settings: dict[str, float], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        top_score_difference(torch.zeros(1, 8), torch.tensor([0]), **settings)  # type: ignore[arg-type]
