"""Which samples a two-dimensional embedding shows. No torch."""

from __future__ import annotations

from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def embedded_rows(labels: Array, classes: int = 10, samples: int = 500, seed: int = 0) -> Array:
    """Samples of a few classes, the same number of each as far as there are so many: their numbers, int64 [n].

    Raises
    ------
    ValueError
        If there are too few of them for an embedding, or for a silhouette of their classes.

    Examples
    --------
    >>> embedded_rows(np.repeat([0, 1, 2], 50), classes=2, samples=10).shape
    (10,)
    """
    draw = np.random.default_rng(seed)
    chosen = np.sort(draw.permutation(np.unique(labels))[:classes])
    each = max(1, samples // max(1, len(chosen)))
    several = [draw.permutation(np.flatnonzero(labels == c))[:each] for c in chosen]
    rows: Array = np.concatenate(several) if several else np.zeros(0, np.int64)
    least = max(4, len(chosen) + 1)
    if len(rows) < least:
        raise ValueError(f"an embedding of {len(chosen)} classes needs {least} samples, and there are {len(rows)}")
    return rows
