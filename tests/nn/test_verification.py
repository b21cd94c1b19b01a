"""Verification and identification against independent NumPy and scikit-learn."""

from __future__ import annotations

import itertools
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from sklearn.metrics import roc_curve

from kdplan.ir.protocol import Template, fold
from kdplan.nn.verification import NUMBERS, Scores, rank, scores, tar, template_features

NONE = torch.zeros(0, dtype=torch.float64)


def pairs(genuine: Any, impostor: Any) -> Scores:
    return Scores(torch.tensor(genuine, dtype=torch.float64), torch.tensor(impostor, dtype=torch.float64), NONE, NONE)


def tar_by_hand(genuine: list[float], impostor: list[float], far: float) -> float:
    """Every score is tried as a threshold, and one above all."""
    best = 0.0
    for t in [*genuine, *impostor, max(genuine + impostor) + 1]:
        if sum(s >= t for s in impostor) / len(impostor) <= far:
            best = max(best, 100 * sum(s >= t for s in genuine) / len(genuine))
    return best


SCORES = st.lists(st.integers(-8, 8).map(lambda n: n / 8), min_size=1, max_size=30)


@given(SCORES, SCORES, st.sampled_from([0.01, 0.1, 0.25, 0.29, 0.5, 1.0]))
def test_tar_is_that_of_the_best_allowed_threshold(genuine: list[float], impostor: list[float], far: float) -> None:
    assert tar(pairs(genuine, impostor), far) == pytest.approx(tar_by_hand(genuine, impostor, far))


@given(SCORES, SCORES, st.sampled_from([0.01, 0.1, 0.25, 0.29, 0.5, 1.0]))
def test_tar_is_a_point_of_the_roc_curve(genuine: list[float], impostor: list[float], far: float) -> None:
    truth = np.r_[np.ones(len(genuine)), np.zeros(len(impostor))]
    fpr, tpr, _ = roc_curve(truth, np.r_[genuine, impostor], drop_intermediate=False)
    assert tar(pairs(genuine, impostor), far) == pytest.approx(100 * tpr[fpr <= far + 1e-12].max())


def test_tar_at_the_edges() -> None:
    assert tar(pairs([0.5, 0.5], [0.5] * 100), 0.5) == 0, "equal scores are accepted together, or not at all"
    assert tar(pairs([0.9, 0.1], [0.5] * 10), 0.01) == 50, "too few impostors: the threshold stands above all"
    impostor = np.arange(100.0)
    assert tar(pairs([70.5, 71.5], impostor), 0.29) == 100, "0.29 * 100 is 28.999… in floats"
    assert tar(pairs([np.nan, 0.9], [np.nan, 0.1]), 0.1) == 0, "a diverged network scores nothing"
    with pytest.raises(ValueError, match="no pair"):
        tar(pairs([], [0.1]), 0.1)


def test_rank() -> None:
    found = Scores(NONE, NONE, torch.tensor([0.9, 0.2, 0.5]), torch.tensor([[0.1, 0.3], [0.5, 0.1], [0.6, 0.7]]))
    assert [rank(found, k) for k in (1, 2, 3)] == pytest.approx([100 / 3, 200 / 3, 100])
    equal = Scores(NONE, NONE, torch.zeros(4), torch.zeros(4, 2))
    assert [rank(equal, k) for k in (1, 2, 3)] == [0, 0, 100], "features without content are no recognition"
    assert rank(Scores(NONE, NONE, torch.full((2,), torch.nan), torch.zeros(2, 3)), 3) == 0
    with pytest.raises(ValueError, match="no probe"):
        rank(Scores(NONE, NONE, NONE, torch.zeros(0, 2)), 1)


def random_fold(rng: np.random.Generator, n: int) -> tuple[Any, list[Template], list[tuple[int, int]]]:
    templates = []
    for t in range(14):
        size = int(rng.integers(1, 6))
        rows = rng.integers(0, n, size).tolist()
        templates.append(Template(t % 4, rows, rng.integers(0, 3, size).tolist()))
    compared = [p for p in itertools.combinations(range(14), 2) if rng.random() < 0.7]
    return fold(templates, compared, [0, 1, 2, 3, 4], range(5, 14)), templates, compared


def by_hand(features: np.ndarray[Any, Any], template: Template) -> np.ndarray[Any, Any]:
    """float64: images to length 1, mean over each medium, mean over media, to length 1."""
    media: dict[int, list[Any]] = {}
    for row, medium in zip(template.rows, template.media, strict=True):
        media.setdefault(medium, []).append(features[row] / np.linalg.norm(features[row]))
    mean = np.mean([np.mean(images, axis=0) for images in media.values()], axis=0)
    return mean / np.linalg.norm(mean)


@pytest.mark.parametrize("seed", range(3))
def test_scores_by_hand(seed: int) -> None:
    rng = np.random.default_rng(seed)
    features = rng.normal(size=(20, 2, 3)).astype(np.float32)
    made, templates, compared = random_fold(rng, 20)
    flat = features.reshape(20, 6).astype(np.float64)
    known = np.stack([by_hand(flat, t) for t in templates])
    torch.testing.assert_close(template_features(torch.from_numpy(flat), made).numpy(), known, atol=1e-6, rtol=0)
    (found,) = scores(torch.from_numpy(features), (made,))
    genuine = [known[a] @ known[b] for a, b in compared if templates[a].subject == templates[b].subject]
    impostor = [known[a] @ known[b] for a, b in compared if templates[a].subject != templates[b].subject]
    np.testing.assert_allclose(found.genuine, genuine, atol=1e-6)
    np.testing.assert_allclose(found.impostor, impostor, atol=1e-6)
    hits = {1: 0, 2: 0}
    for probe in range(5, 14):
        best: dict[int, float] = {}
        for g in range(5):  # subject 0 has two templates in the gallery: the more similar one counts
            subject = templates[g].subject
            best[subject] = max(best.get(subject, -2), float(known[probe] @ known[g]))
        order = sorted(best, key=lambda s: -best[s])
        for k in hits:
            hits[k] += templates[probe].subject in order[:k]
    for k, count in hits.items():
        assert rank(found, k) == pytest.approx(100 * count / 9)


def test_zeros_are_similar_to_nothing() -> None:
    made = fold([Template(0, [0], [0]), Template(0, [1], [0])], [(0, 1)], [0], [1])
    (found,) = scores(torch.zeros(2, 5), (made,))
    assert found.genuine.tolist() == [0.0]
    assert set(NUMBERS) == {"tar", "rank"}
