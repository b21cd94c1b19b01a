"""How scores are spread, where classes lie, what an SVM makes of features: against NumPy and scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn.metrics import confusion_matrix
from sklearn.preprocessing import StandardScaler
from sklearn.svm import LinearSVC

from kdplan.nn.geometry import ClassDistance, SuperclassDistance, angles
from kdplan.nn.metric import spatial_mean
from kdplan.nn.metrics import build_metric
from kdplan.nn.scores import Confusion, Score, chosen
from kdplan.nn.transfer import LinearSvm

RNG = np.random.default_rng(3)
OUTPUTS = torch.tensor(2 * RNG.normal(size=(203, 6)), dtype=torch.float32)
LABELS = torch.tensor(RNG.integers(6, size=203))
GROUPS = [[0, 3], [1, 2, 5], [4]]
NAMES: list[tuple[str, dict[str, Any]]] = [
    ("score", {"k": 3}),
    ("confusion", {"k": 2}),
    ("siblings", {"groups": GROUPS}),
    ("class_distance", {"groups": GROUPS}),
    ("superclass_distance", {"groups": GROUPS}),
]


def value(name: str, outputs: torch.Tensor = OUTPUTS, labels: torch.Tensor = LABELS, **options: Any) -> float:
    metric = build_metric(name, **options)
    metric.update(outputs, labels)
    return metric.compute()


def probabilities() -> np.ndarray[Any, Any]:
    x = OUTPUTS.double().numpy()
    e = np.exp(x - x.max(1, keepdims=True))
    return e / e.sum(1, keepdims=True)


def test_the_kth_score_is_the_mean_of_sorted_probabilities() -> None:
    ordered = -np.sort(-probabilities(), axis=1)
    for k in (1, 2, 4, 6):
        assert value("score", k=k) == pytest.approx(100 * ordered[:, k - 1].mean(), rel=1e-12)
    p = torch.tensor(probabilities())
    assert value("score", p, k=2, probabilities=True) == pytest.approx(100 * ordered[:, 1].mean(), rel=1e-12)
    assert sum(value("score", k=k) for k in range(1, 7)) == pytest.approx(100)


def test_confusion_is_that_of_scikit_learn() -> None:
    order = np.argsort(-OUTPUTS.double().numpy(), axis=1, kind="stable")
    for k in (1, 2, 5):
        metric = Confusion(k)
        metric.update(OUTPUTS, LABELS)
        wanted = confusion_matrix(LABELS.numpy(), order[:, k - 1], labels=range(6))
        assert np.array_equal(metric.matrix().numpy(), wanted)
        assert metric.compute() == pytest.approx(100 * np.trace(wanted) / 203)
    assert value("confusion") == value("top1")


def test_siblings_by_counting() -> None:
    order = np.argsort(-OUTPUTS.double().numpy(), axis=1, kind="stable")
    owner = {c: i for i, members in enumerate(GROUPS) for c in members}
    pairs = list(zip(LABELS.tolist(), order[:, 1].tolist(), strict=True))
    wanted = 100 * np.mean([owner[a] == owner[b] and a != b for a, b in pairs])
    assert value("siblings", groups=GROUPS) == pytest.approx(wanted)
    assert value("siblings", groups=[*GROUPS, [0, 1, 2, 3, 4, 5]]) > wanted, "classes may stand in several groups"
    assert value("siblings", groups=[[c] for c in range(6)]) == 0


def test_ties_and_scores_that_are_no_numbers() -> None:
    nan = float("nan")
    assert chosen(torch.tensor([[0.0, 0.0, 0.0], [nan, 1.0, 2.0]]), 1).tolist() == [0, 2]
    assert chosen(torch.tensor([[nan, 1.0, 2.0]]), 3).tolist() == [0]
    assert np.isnan(value("score", torch.tensor([[nan, 1.0]]), torch.tensor([0])))


def by_hand(features: torch.Tensor, labels: torch.Tensor, groups: list[list[int]]) -> tuple[float, float]:
    """Equation 4, sample by sample."""
    x, y = features.double().numpy(), labels.numpy()
    x = x.reshape(*x.shape[:2], -1).mean(2)

    def angle(a: Any, b: Any) -> float:
        return float(np.arccos(np.clip(a @ b / np.sqrt((a @ a) * (b @ b)), -1, 1)))

    above = [x[np.isin(y, members)].mean(0) for members in groups]
    whole = np.mean(above, axis=0)
    within = [angle(x[y == c].mean(0), above[j]) for j, members in enumerate(groups) for c in members]
    return float(np.mean(within)), float(np.mean([angle(a, whole) for a in above]))


def test_distances_of_classes_and_superclasses() -> None:
    maps = torch.tensor(RNG.normal(size=(203, 4, 3, 2)) + 1, dtype=torch.float32)
    for features in (OUTPUTS, maps):
        within, between = by_hand(features, LABELS, GROUPS)
        assert value("class_distance", features, groups=GROUPS) == pytest.approx(within, rel=1e-6)
        assert value("superclass_distance", features, groups=GROUPS) == pytest.approx(between, rel=1e-6)


def test_unequal_superclasses_and_classes_without_samples() -> None:
    x = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.0, 5.0]])
    y = torch.tensor([0, 0, 1, 9])
    metric = ClassDistance([[0, 1, 2], [3]])
    metric.update(x, y)
    mean = torch.tensor([[2 / 3, 1 / 3]])
    wanted = angles(torch.tensor([[1.0, 0.0], [0.0, 1.0]]), mean).mean().item()
    assert metric.compute() == pytest.approx(wanted), "a superclass is the mean of its samples; class 9 is in none"
    empty = SuperclassDistance([[5]])
    empty.update(x, y)
    with pytest.raises(ValueError, match="no samples of any superclass"):
        empty.compute()


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(0, 203), max_size=6), st.booleans())
def test_batches_do_not_matter(cuts: list[int], merged: bool) -> None:
    edges = [0, *sorted(cuts), 203]
    for name, options in NAMES:
        metric = build_metric(name, **options)
        for a, b in itertools.pairwise(edges):
            if merged:
                part = build_metric(name, **options)
                part.update(OUTPUTS[a:b], LABELS[a:b])
                metric.merge(part)
            else:
                metric.update(OUTPUTS[a:b], LABELS[a:b])
        assert metric.compute() == pytest.approx(value(name, **options), rel=1e-12)


def blobs(n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    draw = np.random.default_rng(seed)
    y = draw.integers(4, size=n)
    x = draw.normal(size=(n, 5)) * [1, 10, 0.1, 1, 0] + y[:, None] * [1.0, 0.5, 0.1, 0.0, 0.0]
    return torch.tensor(x, dtype=torch.float32), torch.tensor(y)


def test_the_svm_is_that_of_scikit_learn_and_batches_do_not_matter() -> None:
    x, y = blobs(120, 0)
    test_x, test_y = blobs(90, 1)
    metric = LinearSvm(C=0.3, seed=4)
    metric.fit(x, y)
    for rows in (slice(0, 7), slice(7, 50), slice(50, 90)):
        metric.update(test_x[rows], test_y[rows])
    scaler = StandardScaler().fit(x.double().numpy())
    svm = LinearSVC(C=0.3, random_state=4, max_iter=10_000).fit(scaler.transform(x.double().numpy()), y.numpy())
    wanted = 100 * np.mean(svm.predict(scaler.transform(test_x.double().numpy())) == test_y.numpy())
    assert metric.compute() == pytest.approx(wanted) and wanted > 30
    again = LinearSvm(C=0.3, seed=4)
    again.fit(x, y)
    again.update(test_x, test_y)
    assert again.compute() == metric.compute()


def test_what_scales_mean() -> None:
    x, y = blobs(120, 0)
    for scale, change, same in (
        ("standard", torch.tensor([1e-3, 1.0, 1e-3, 1.0, 1.0]), True),
        ("none", torch.tensor([1e-3, 1.0, 1e-3, 1.0, 1.0]), False),
        ("unit", torch.tensor(7.0), True),
    ):
        found = []
        for factor in (torch.ones(5), change):
            metric = LinearSvm(scale=scale)
            metric.fit(x * factor, y)
            metric.update(x * factor, y)
            found.append(metric.compute())
        assert (found[0] == found[1]) == same, scale


def test_mistakes_are_told() -> None:
    for name in ("score", "confusion", "siblings"):
        with pytest.raises(ValueError, match="at least 1, not 0"):
            build_metric(name, k=0)
        with pytest.raises(ValueError, match="no scores of 7 classes"):
            value(name, k=7)
        with pytest.raises(ValueError, match="no scores of"):
            value(name, torch.zeros(203, 6, 2, 2), k=2)
    with pytest.raises(ValueError, match="no features of samples"):
        spatial_mean(torch.zeros(3, 2, dtype=torch.int64))
    with pytest.raises(ValueError, match="no features of samples"):
        spatial_mean(torch.zeros(3))
    with pytest.raises(ValueError, match="above 0"):
        LinearSvm(C=0)
    with pytest.raises(ValueError, match="one of standard"):
        LinearSvm(scale="max")
    assert Score(2).k == 2
