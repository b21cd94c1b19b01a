"""Average precision within verticals, against scikit-learn's on all scores at once."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import average_precision_score

from kdplan.nn.metrics import build_metric
from kdplan.nn.precision import GroupPrecision

GROUPS = [[0, 3], [5, 1, 2], [4]]


def by_sklearn(x: torch.Tensor, y: torch.Tensor) -> list[float | None]:
    """pvap of each group: scores cut to the group, average precision of every class that has images, mean."""
    found: list[float | None] = []
    for group in GROUPS:
        rows = np.isin(y.numpy(), group)
        each = [average_precision_score(y.numpy()[rows] == c, x.numpy()[rows][:, c]) for c in group if (y == c).any()]
        found.append(100 * float(np.mean(each)) if each else None)
    return found


def measured(x: torch.Tensor, y: torch.Tensor, batch: int, metric: GroupPrecision) -> GroupPrecision:
    for _ in range(metric.passes):
        for start in range(0, len(x), batch):
            metric.update(x[start : start + batch], y[start : start + batch])
        metric.again()
    return metric


@settings(max_examples=40, deadline=None)
@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 9999), st.booleans())
def test_equal_to_sklearn(count: int, batch: int, seed: int, ties: bool) -> None:
    g = torch.Generator().manual_seed(seed)
    x, y = torch.randn(count, 6, generator=g), torch.randint(0, 6, (count,), generator=g)
    if ties:
        x = (2 * x).round()
    wanted = by_sklearn(x, y)
    found = measured(x, y, batch, GroupPrecision(GROUPS))
    assert found.precisions() == [None if w is None else pytest.approx(w, abs=1e-9) for w in wanted]
    assert found.compute() == pytest.approx(np.mean([w for w in wanted if w is not None]))
    for i, w in enumerate(wanted):
        if w is not None:
            one = build_metric("pvap", groups=GROUPS, part=i)
            assert isinstance(one, GroupPrecision)
            assert measured(x, y, batch, one).compute() == pytest.approx(w)


def test_classes_in_no_group_and_two_halves() -> None:
    torch.manual_seed(0)
    x, y = torch.randn(60, 8), torch.randint(0, 8, (60,))
    inside = y < 6
    one = measured(x, y, 7, GroupPrecision(GROUPS)).compute()
    assert one == pytest.approx(measured(x[inside], y[inside], 60, GroupPrecision(GROUPS)).compute())
    with pytest.raises(ValueError, match="no group 3"):
        build_metric("pvap", groups=GROUPS, part=3)
    with pytest.raises(ValueError, match="no samples"):
        GroupPrecision(GROUPS).compute()


def test_memory_does_not_grow_with_images_times_classes() -> None:
    """What is kept is as large as images plus positives' table, not as all scores."""
    classes, batch = 1000, 100
    metric = GroupPrecision([[*range(500)], [*range(500, 1000)]])
    y = torch.arange(classes).repeat(5)
    for _ in range(2):
        for start in range(0, len(y), batch):
            torch.manual_seed(start)
            metric.update(torch.rand(batch, classes), y[start : start + batch])
        metric.again()
    kept = [
        t for value in vars(metric).values() if isinstance(value, list) for t in value if isinstance(t, torch.Tensor)
    ]
    assert sum(t.numel() for t in kept) <= 3 * len(y) + 2 * classes < len(y) * classes / 100
