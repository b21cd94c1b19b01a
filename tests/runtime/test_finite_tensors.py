"""Sums of squares give the answer of a look at each number."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kdplan.runtime.finite import all_finite, are_finite

BASES = [
    torch.rand(1000),
    torch.rand(2, 3, 5, 7).to(memory_format=torch.channels_last),
    torch.rand(6, 8)[:, ::2],
    torch.rand(()),
    torch.rand(40, dtype=torch.float64),
    torch.rand(40).half(),
    torch.rand(40).bfloat16(),
    torch.rand(40, dtype=torch.complex64),
    torch.full((9,), 1e30),
    torch.full((9,), 1e300, dtype=torch.float64),
    torch.full((9,), 65504.0).half(),
    torch.full((9,), -1e-40),
    torch.arange(3),
    torch.zeros(0),
]


@pytest.mark.parametrize("base", BASES, ids=lambda t: f"{t.dtype} {list(t.shape)}")
@pytest.mark.parametrize("value", [None, float("nan"), float("inf"), -float("inf")])
def test_one_number_decides(base: Tensor, value: float | None) -> None:
    tensor = base.clone(memory_format=torch.preserve_format)
    if value is not None:
        if not tensor.numel() or not (tensor.is_floating_point() or tensor.is_complex()):
            pytest.skip("holds finite numbers only")
        tensor[tuple(n - 1 for n in tensor.shape)] = value
    assert all_finite([torch.ones(3), tensor]) is bool(are_finite(tensor)) is (value is None)


def test_large_numbers_of_double_precision_are_finite() -> None:
    """Whose sum of squares is too large for single precision."""
    assert all_finite([torch.full((9,), 1e60, dtype=torch.float64)]) and all_finite([])


def test_sparse_gradients() -> None:
    """Those of embeddings."""
    gradient = torch.ones(3, 2).to_sparse()
    assert all_finite([gradient]) and not all_finite([gradient * float("inf")])
