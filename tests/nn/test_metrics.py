"""Metrics against NumPy and torchmetrics; batches do not matter; broken outputs do not count as right."""

from __future__ import annotations

import inspect
import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.nn import metrics
from kdplan.nn.catalog import METRICS
from kdplan.nn.metrics import build_metric, count_parameters

RNG = np.random.default_rng(0)
OUTPUTS = torch.tensor(RNG.normal(size=(101, 7)), dtype=torch.float32)
LABELS = torch.tensor(RNG.integers(7, size=101))


def value(name: str, outputs: torch.Tensor, labels: torch.Tensor, **options: Any) -> float:
    metric = build_metric(name, **options)
    metric.update(outputs, labels)
    return metric.compute()


def test_against_numpy() -> None:
    x, y = OUTPUTS.double().numpy(), LABELS.numpy()
    order = np.argsort(-x, axis=1)
    top1 = 100 * np.mean(order[:, 0] == y)
    assert value("top1", OUTPUTS, LABELS) == pytest.approx(top1)
    assert value("error", OUTPUTS, LABELS) == pytest.approx(100 - top1)
    assert value("top5", OUTPUTS, LABELS) == pytest.approx(100 * np.mean((order[:, :5] == y[:, None]).any(1)))
    assert value("topk", OUTPUTS, LABELS, k=3) == pytest.approx(100 * np.mean((order[:, :3] == y[:, None]).any(1)))
    log_p = x - np.log(np.exp(x).sum(1, keepdims=True))
    assert value("cross_entropy", OUTPUTS, LABELS) == pytest.approx(-log_p[np.arange(101), y].mean(), rel=1e-12)
    p = torch.tensor(np.exp(log_p))
    assert value("cross_entropy", p, LABELS, probabilities=True) == pytest.approx(-log_p[np.arange(101), y].mean())


def test_mean_of_features_against_numpy() -> None:
    features, labels = np.random.default_rng(0).normal(size=(7, 4, 3, 2)).astype(np.float32), torch.zeros(7)
    for unit in (None, 0, 3):
        metric = build_metric("mean", unit=unit)
        for part in (features[:5], features[5:]):
            metric.update(torch.from_numpy(part), labels)
        wanted = features.astype(np.float64) if unit is None else features[:, unit].astype(np.float64)
        assert metric.compute() == pytest.approx(wanted.mean())
    with pytest.raises(ValueError, match="4 units have no unit 4"):
        build_metric("mean", unit=4).update(torch.from_numpy(features), labels)


def test_calibration_against_torchmetrics() -> None:
    from torchmetrics.functional.classification import multiclass_calibration_error

    expected = multiclass_calibration_error(OUTPUTS.double(), LABELS, num_classes=7, n_bins=10, norm="l1")
    assert value("ece", OUTPUTS, LABELS, bins=10) == pytest.approx(100 * expected.item(), abs=1e-5)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 101), max_size=6), st.booleans())
def test_batches_do_not_matter(cuts: list[int], merged: bool) -> None:
    edges = [0, *sorted(cuts), 101]
    for name in ("top1", "top5", "error", "cross_entropy", "ece"):
        whole = value(name, OUTPUTS, LABELS)
        metric = build_metric(name)
        for a, b in itertools.pairwise(edges):
            if merged:
                part = build_metric(name)
                part.update(OUTPUTS[a:b], LABELS[a:b])
                metric.merge(part)
            else:
                metric.update(OUTPUTS[a:b], LABELS[a:b])
        if name in ("top1", "top5", "error"):
            assert metric.compute() == whole
        else:
            assert metric.compute() == pytest.approx(whole, rel=1e-13)


def test_scores_that_are_no_numbers_are_wrong_and_ties_go_to_the_first_class() -> None:
    nan, inf = float("nan"), float("inf")
    labels = torch.tensor([0, 1])
    assert value("top1", torch.full((2, 3), nan), labels) == 0.0
    assert value("top1", torch.tensor([[1.0, nan, 0.0], [nan, 2.0, 0.0]]), labels) == 0.0
    assert value("top1", torch.tensor([[inf, 0.0, 0.0], [-inf, 0.0, -inf]]), labels) == 100.0
    assert value("top1", torch.zeros(2, 3), labels) == 50.0
    assert value("topk", torch.zeros(2, 3), labels, k=2) == 100.0
    assert value("top1", torch.tensor([[1.0, 0.0]], dtype=torch.bfloat16), labels[:1]) == 100.0


def test_no_gradient_is_kept() -> None:
    metric = build_metric("cross_entropy")
    metric.update(OUTPUTS.clone().requires_grad_(), LABELS)
    assert metric.total is not None and not metric.total.requires_grad


def test_mistakes_are_told() -> None:
    with pytest.raises(ValueError, match="did you mean `error`"):
        build_metric("eror")
    with pytest.raises(ValueError, match="has no setting `bins`"):
        build_metric("top1", bins=3)
    with pytest.raises(ValueError, match="needs `k`"):
        build_metric("topk")
    with pytest.raises(ValueError, match="at least 1, not 0"):
        build_metric("topk", k=0)
    with pytest.raises(ValueError, match="no samples"):
        build_metric("top1").compute()
    with pytest.raises(ValueError, match="of the network"):
        build_metric("parameters")


def test_catalog_names_what_exists() -> None:
    for name, spec in METRICS.items():
        assert spec.name == name and spec.doc
        if spec.needs not in ("network", "templates", "boxes") and name != "tsne":
            required: dict[str, Any] = {p.name: 2 for p in spec.params if p.required}
            built = build_metric(name, **required)
            signature = inspect.signature(type(built)).parameters
            for setting in spec.params:
                own = setting.required or setting.name == "groups"  # those of the data, by default
                assert own or signature[setting.name].default == setting.default
    assert count_parameters(torch.nn.BatchNorm1d(3)) == 6
    tied = torch.nn.Sequential(a := torch.nn.Linear(2, 2), a)
    assert metrics.count_parameters(tied) == 6
