"""Losses against independent float64 NumPy references, finite differences, and half precision."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from torch import Tensor

from kdplan.nn import losses

Array = NDArray[Any]


def p_of(x: Array, t: float = 1.0) -> Array:
    e = np.exp((x - x.max(1, keepdims=True)) / t)
    return np.asarray(e / e.sum(1, keepdims=True))


def ref_cross_entropy(x: Array, z: Array, smoothing: float = 0.0) -> float:
    z = (1 - smoothing) * z + smoothing / x.shape[1]
    return float(-(z * np.log(p_of(x))).sum(1).mean())


def ref_sigmoid(x: Array, z: Array) -> float:
    s = 1 / (1 + np.exp(-x))
    return float(-(z * np.log(s) + (1 - z) * np.log(1 - s)).sum(1).mean())


def ref_kl(a: Array, b: Array, t: float) -> float:
    p, q = p_of(a, t), p_of(b, t)
    return float((p * np.log(p / q)).sum(1).mean())


def ref_cosine(a: Array, b: Array) -> float:
    a, b = a.reshape(len(a), -1), b.reshape(len(b), -1)
    return float(np.mean(1 - (a * b).sum(1) / np.linalg.norm(a, axis=1) / np.linalg.norm(b, axis=1)))


RNG = np.random.default_rng(0)
X = RNG.normal(size=(6, 5)) * 3
Y = RNG.normal(size=(6, 5)) * 3
LABELS = RNG.integers(5, size=6)
SOFT = p_of(RNG.normal(size=(6, 5)))
HOT = np.eye(5)[LABELS]
MAPS = RNG.normal(size=(3, 4, 2, 2))
MAPS2 = RNG.normal(size=(3, 4, 2, 2))


def t(a: Array, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.tensor(a) if a.dtype.kind == "i" else torch.tensor(a, dtype=dtype)


CASES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], Array, Array, float]] = {
    "cross_entropy": (losses.cross_entropy, X, LABELS, ref_cross_entropy(X, HOT)),
    "cross_entropy_soft": (losses.cross_entropy, X, SOFT, ref_cross_entropy(X, SOFT)),
    "cross_entropy_smooth": (
        lambda x, y: losses.cross_entropy(x, y, smoothing=0.1),
        X,
        LABELS,
        ref_cross_entropy(X, HOT, 0.1),
    ),
    "sigmoid": (losses.sigmoid_cross_entropy, X, LABELS, ref_sigmoid(X, HOT)),
    "sigmoid_dense": (losses.sigmoid_cross_entropy, X, SOFT, ref_sigmoid(X, SOFT)),
    "kl": (losses.kl, X, Y, ref_kl(Y, X, 1.0)),
    "kl_4": (lambda a, b: losses.kl(a, b, temperature=4.0), X, Y, ref_kl(Y, X, 4.0)),
    "kd": (lambda a, b: losses.kd(a, b, temperature=3.0), X, Y, 9 * ref_kl(Y, X, 3.0)),
    "kl_probabilities": (
        losses.kl_probabilities,
        p_of(X),
        SOFT,
        float((p_of(X) * np.log(p_of(X) / SOFT)).sum(1).mean()),
    ),
    "squared_l2_place": (
        partial(losses.squared_l2, per="place"),
        MAPS,
        MAPS2,
        float(((MAPS - MAPS2) ** 2).sum(1).mean()),
    ),
    "squared_l2": (losses.squared_l2, MAPS, MAPS2, float(((MAPS - MAPS2) ** 2).sum((1, 2, 3)).mean())),
    "mse": (losses.mse, MAPS, MAPS2, float(((MAPS - MAPS2) ** 2).mean())),
    "cosine": (losses.cosine, MAPS, MAPS2, ref_cosine(MAPS, MAPS2)),
    "entropy": (lambda p, _: losses.entropy(p), SOFT, SOFT, float(-(SOFT * np.log(SOFT)).sum(1).mean())),
}


@pytest.mark.parametrize("case", CASES)
def test_value_is_the_formula(case: str) -> None:
    f, a, b, expected = CASES[case]
    assert f(t(a), t(b)).item() == pytest.approx(expected, abs=1e-12, rel=1e-10)
    assert f(t(a, torch.float32), t(b, torch.float32)).item() == pytest.approx(expected, rel=1e-6, abs=1e-6)
    assert f(t(a), t(b)).shape == ()


@pytest.mark.parametrize("case", CASES)
def test_gradient_is_that_of_finite_differences(case: str) -> None:
    f, a, b, _ = CASES[case]
    first, second = t(a).requires_grad_(), t(b)
    if second.is_floating_point() and case != "entropy":
        second.requires_grad_()
    f(first, second).backward()  # type: ignore[no-untyped-call]
    for which, tensor in enumerate((first, second)):
        if not tensor.requires_grad:
            continue
        assert tensor.grad is not None
        values, h = (a, b)[which], 1e-6
        for i in np.ndindex(values.shape):
            around = []
            for sign in (1, -1):
                trained = values.copy()
                trained[i] += sign * h
                around.append(f(*(t(trained), t(b)) if which == 0 else (t(a), t(trained))).item())
            assert tensor.grad[i].item() == pytest.approx((around[0] - around[1]) / (2 * h), abs=1e-6)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
@pytest.mark.parametrize("name", ["cross_entropy", "sigmoid_cross_entropy", "kl", "kd"])
def test_half_precision_is_as_good_as_its_inputs(name: str, dtype: torch.dtype) -> None:
    """With inputs rounded beforehand nothing more is lost, also for logits that overflow exp in half precision."""
    f = getattr(losses, name)
    x = torch.tensor(X * 20, dtype=dtype).requires_grad_()
    y = torch.tensor(LABELS) if "cross" in name else torch.tensor(Y * 20, dtype=dtype)
    value = f(x, y)
    exact = f(x.detach().double(), y.double() if y.is_floating_point() else y)
    assert value.dtype == torch.float32
    assert value.item() == pytest.approx(exact.item(), rel=1e-5)
    value.backward()
    assert x.grad is not None and x.grad.isfinite().all()


def test_extreme_scores_stay_finite() -> None:
    x = torch.tensor([[1e4, -1e4, 0.0]], requires_grad=True)
    p = losses.softmax(x)
    total = losses.entropy(p) + losses.kl_probabilities(losses.uniform(3), p) + losses.kl(x, -x)
    total = total + losses.sigmoid_cross_entropy(x, torch.tensor([1]))
    total.backward()  # type: ignore[no-untyped-call]
    assert total.isfinite() and x.grad is not None and x.grad.isfinite().all()


def test_labels_of_any_integer_type_and_of_pixels() -> None:
    x, y = torch.randn(2, 5, 3, 3), torch.randint(5, (2, 3, 3))
    by_pixel = x.permute(0, 2, 3, 1).reshape(-1, 5)
    for f in (losses.cross_entropy, losses.sigmoid_cross_entropy):
        assert torch.allclose(f(x, y.to(torch.uint8)), f(by_pixel, y.reshape(-1)))
    assert torch.allclose(losses.kl(x, -x), losses.kl(by_pixel, -by_pixel), atol=1e-6)


@pytest.mark.parametrize("f", [losses.mse, losses.squared_l2, losses.cosine])
def test_features_of_two_shapes_are_refused(f: Callable[[Tensor, Tensor], Tensor]) -> None:
    with pytest.raises(ValueError, match=r"\[2, 3\] and \[2, 1\]"):
        f(torch.zeros(2, 3), torch.zeros(2, 1))


def test_temperature_squared_keeps_gradients_comparable() -> None:
    teacher = torch.tensor(X)
    sizes = []
    for temperature in (10.0, 20.0):
        student = torch.tensor(Y).requires_grad_()
        losses.kd(student, teacher, temperature).backward()  # type: ignore[no-untyped-call]
        assert student.grad is not None
        sizes.append(student.grad.norm().item())
    assert sizes[0] == pytest.approx(sizes[1], rel=0.1)


@pytest.mark.parametrize("name", ["cross_entropy", "kl", "kd", "squared_l2", "mse", "cosine", "sigmoid_cross_entropy"])
def test_losses_stay_legal_under_fx_and_vmap(name: str) -> None:
    """The compiler calls them as nodes of a graph, and may stack them."""
    f = getattr(losses, name)
    other = torch.tensor(SOFT)
    stacked = torch.func.vmap(f, in_dims=(0, None))(torch.tensor(np.stack([X, Y])), other)
    assert torch.allclose(stacked, torch.stack([f(torch.tensor(X), other), f(torch.tensor(Y), other)]))
