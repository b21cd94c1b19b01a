"""Average precision: hand-made cases, and a computation of its own in NumPy."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from kdplan.nn.detections import AveragePrecision


def batch(
    boxes: list[list[float]], classes: list[int], scale: float = 1.0, crowd: int | None = None
) -> dict[str, Tensor]:
    b = torch.tensor(boxes).float().view(1, -1, 4)
    areas = ((b[..., 2] - b[..., 0]) * (b[..., 3] - b[..., 1])) / scale**2
    many = torch.zeros(1, len(classes), dtype=torch.bool)
    if crowd is not None:
        many[0, crowd] = True
    return {"boxes": b, "classes": torch.tensor([classes]), "crowd": many, "areas": areas,
            "scales": torch.full((1, 2), scale), "sizes": torch.tensor([[200.0, 200.0]])}  # fmt: skip


def found(boxes: list[list[float]], scores: list[float], labels: list[int]) -> dict[str, Tensor]:
    return {"boxes": torch.tensor(boxes).float().view(1, -1, 4), "scores": torch.tensor([scores]),
            "labels": torch.tensor([labels])}  # fmt: skip


def test_half_found_is_half() -> None:
    m = AveragePrecision()
    m.update(
        found([[0, 0, 50, 50], [0, 0, 0, 0]], [0.9, 0.0], [0, -1]),
        batch([[0, 0, 50, 50], [100, 100, 150, 150]], [0, 0]),
    )
    values = m.compute()
    # one of two found, nothing wrong: precision 1 up to a recall of 0.5, which is 51 of 101 places
    assert values["ap50"] == pytest.approx(100 * 51 / 101) and values["ap"] == pytest.approx(values["ap75"])


def test_the_overlap_that_counts() -> None:
    m = AveragePrecision()
    m.update(found([[0, 0, 50, 41]], [0.9], [0]), batch([[0, 0, 50, 50]], [0]))  # overlap 0.82
    values = m.compute()
    assert values["ap50"] == 100 and values["ap75"] == 100 and values["ap"] == pytest.approx(70)


def test_sizes_are_of_the_file_not_of_the_canvas() -> None:
    m = AveragePrecision()
    m.update(found([[0, 0, 50, 50]], [0.9], [0]), batch([[0, 0, 50, 50]], [0], scale=2.0))  # 25 x 25 in the file
    values = m.compute()
    assert values["ap_small"] == pytest.approx(100) and math.isnan(values["ap_medium"])


def test_a_find_in_a_crowd_is_no_mistake() -> None:
    for crowd, wanted in ((None, False), (1, True)):
        m = AveragePrecision()
        there = batch([[0, 0, 50, 50], [100, 100, 190, 190]], [0, 0], crowd=crowd)
        m.update(found([[110, 110, 130, 130], [0, 0, 50, 50]], [0.95, 0.9], [0, 0]), there)
        assert (m.compute()["ap50"] == pytest.approx(100)) is wanted


def test_random_boxes_against_numpy() -> None:
    rng = np.random.default_rng(3)
    m = AveragePrecision()
    images = []
    for _ in range(6):
        corner = rng.uniform(0, 120, (5, 2))
        there = np.hstack([corner, corner + rng.uniform(20, 70, (5, 2))]).astype(np.float32)
        trained = there + rng.normal(0, 6, there.shape).astype(np.float32)
        trained = np.clip(np.vstack([trained, rng.permutation(trained)[:2] + 30]), 0, 200).astype(np.float32)
        scores = rng.permutation(np.linspace(0.1, 0.9, 7)).astype(np.float32) + rng.uniform(0, 0.01, 1).astype(
            np.float32
        )
        images.append((there, trained, scores))
        m.update(found(trained.tolist(), scores.tolist(), [0] * 7), batch(there.tolist(), [0] * 5))
    assert m.compute()["ap50"] == pytest.approx(100 * average_precision(images, 0.5), abs=1e-6)


def average_precision(images: list[tuple[np.ndarray, np.ndarray, np.ndarray]], overlap: float) -> float:
    """COCO's, of one class: greedy by score, precision made falling, read at 101 places of recall."""
    hits: list[tuple[float, bool]] = []
    for there, made, scores in images:
        free = np.ones(len(there), bool)
        for i in np.argsort(-scores, kind="stable"):
            low = np.maximum(there[:, :2], made[i, :2])
            high = np.minimum(there[:, 2:], made[i, 2:])
            inner = np.clip(high - low, 0, None).prod(1)
            both = (there[:, 2:] - there[:, :2]).prod(1) + (made[i, 2:] - made[i, :2]).prod() - inner
            ratio = np.where(free, inner / both, -1)
            best = int(ratio.argmax())
            hit = bool(ratio[best] >= overlap)
            free[best] &= not hit
            hits.append((float(scores[i]), hit))
    right = np.array([h for _, h in sorted(hits, key=lambda p: -p[0])])
    total = sum(len(t) for t, _, _ in images)
    recall, precision = right.cumsum() / total, right.cumsum() / np.arange(1, len(right) + 1)
    precision = np.maximum.accumulate(precision[::-1])[::-1]
    places = np.searchsorted(recall, np.linspace(0, 1, 101), side="left")
    return float(np.mean([precision[p] if p < len(precision) else 0.0 for p in places]))
