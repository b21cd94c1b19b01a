"""Sparse targets against float64 references that write the dense sums out."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.nn import losses, sparse

ATOL = 1e-6


def dense(values: torch.Tensor, ids: torch.Tensor, classes: int) -> np.ndarray:
    """Sparse targets [B, K] as a matrix [B, C]."""
    found = np.zeros((len(ids), classes))
    for i, (row, columns) in enumerate(zip(values.tolist(), ids.tolist(), strict=True)):
        for value, column in zip(row, columns, strict=True):
            if column >= 0:
                found[i, column] += value
    return found


def sigmoid_ce(x: np.ndarray, z: np.ndarray) -> tuple[float, np.ndarray]:
    """-(1/B) sum [z log s + (1 - z) log(1 - s)] and its gradient (s - z) / B."""
    s = 1 / (1 + np.exp(-x))
    return float(-(z * np.log(s) + (1 - z) * np.log1p(-s)).sum() / len(x)), (s - z) / len(x)


def softmax_ce(x: np.ndarray, z: np.ndarray, smoothing: float) -> tuple[float, np.ndarray]:
    """-(1/B) sum t log p with t = (1 - a) z + a sum(...) / C for targets that need not sum to 1."""
    p = np.exp(x) / np.exp(x).sum(axis=1, keepdims=True)
    t = (1 - smoothing) * z + smoothing / x.shape[1]
    return float(-(t * np.log(p)).sum() / len(x)), (p * t.sum(axis=1, keepdims=True) - t) / len(x)


def case(seed: int, rows: int, classes: int, k: int) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    g = torch.Generator().manual_seed(seed)
    x = 4 * torch.randn(rows, classes, generator=g)
    ids = torch.stack([torch.randperm(classes, generator=g)[:k] for _ in range(rows)])
    ids[torch.rand(ids.shape, generator=g) < 0.2] = -1
    return x, torch.rand(rows, k, generator=g), ids


@settings(max_examples=20, deadline=None)
@given(st.integers(0, 1000), st.integers(1, 5), st.integers(2, 9), st.integers(1, 3))
def test_values_and_gradients(seed: int, rows: int, classes: int, k: int) -> None:
    x, values, ids = case(seed, rows, classes, min(k, classes))
    z = dense(values, ids, classes)
    for fn, (value, gradient) in (
        (lambda x: sparse.sigmoid_cross_entropy(x, values, ids), sigmoid_ce(x.double().numpy(), z)),
        (lambda x: sparse.cross_entropy(x, values, ids), softmax_ce(x.double().numpy(), z, 0.0)),
        (lambda x: sparse.cross_entropy(x, values, ids, 0.3), softmax_ce(x.double().numpy(), z, 0.3)),
    ):
        leaf = x.clone().requires_grad_()
        loss = fn(leaf)
        (3 * loss).backward()
        assert loss.item() == pytest.approx(value, rel=1e-5, abs=ATOL)
        np.testing.assert_allclose(leaf.grad.numpy(), 3 * gradient, rtol=1e-4, atol=ATOL)


def test_gradients_of_logits_and_targets_in_float64() -> None:
    x, values, ids = case(0, 4, 7, 3)
    inputs = (x.double().requires_grad_(), values.double().requires_grad_())
    assert torch.autograd.gradcheck(lambda x, z: sparse.sigmoid_cross_entropy(x, z, ids), inputs)
    assert torch.autograd.gradcheck(lambda x, z: sparse.cross_entropy(x, z, ids), inputs)


def test_all_classes_are_the_dense_loss() -> None:
    x, z = torch.randn(5, 6), torch.rand(5, 6)
    values, ids = sparse.top(z, 6)
    assert torch.allclose(sparse.sigmoid_cross_entropy(x, values, ids), losses.sigmoid_cross_entropy(x, z))
    p = z / z.sum(dim=1, keepdim=True)
    assert torch.allclose(sparse.cross_entropy(x, *sparse.top(p, 6)), losses.cross_entropy(x, p))


def test_rows_are_summed_in_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    x, values, ids = case(1, 7, 10, 3)
    whole = sparse.sigmoid_cross_entropy(x, values, ids)
    monkeypatch.setattr(sparse, "CHUNK", 20)
    assert torch.allclose(sparse.sigmoid_cross_entropy(x, values, ids), whole)


def test_half_precision_is_widened() -> None:
    x, values, ids = case(2, 4, 9, 3)
    loss = sparse.sigmoid_cross_entropy(x.bfloat16(), values, ids)
    assert loss.dtype == torch.float32
    assert loss.item() == pytest.approx(sigmoid_ce(x.bfloat16().double().numpy(), dense(values, ids, 9))[0], rel=1e-4)


def test_no_dense_target_is_made() -> None:
    """On the way there and back no tensor of the logits' size but the gradient is kept or returned."""
    from torch.utils._python_dispatch import TorchDispatchMode

    sizes: list[tuple[str, int]] = []

    class Watch(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
            out = func(*args, **(kwargs or {}))
            if isinstance(out, torch.Tensor):
                sizes.append((str(func), out.numel()))
            return out

    x = torch.randn(64, 1 << 16, requires_grad=True)
    values, ids = torch.rand(64, 100), torch.randint(0, 1 << 16, (64, 100))
    with Watch():
        sparse.sigmoid_cross_entropy(x, values, ids).backward()
    large = [name for name, size in sizes if size == x.numel()]
    made = [n for n in large if not any(w in n for w in ("detach", "scatter_add_", "mul_"))]
    assert made == ["aten.sigmoid.default"], large
