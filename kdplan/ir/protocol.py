"""Protocols of open-set recognition: which templates are compared with which. No torch.

A template is a set of samples of one subject. A protocol is a list of folds (IJB-A calls them splits), each with pairs
of templates to verify, and with probes to be looked up in a gallery.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Template:
    """Samples (row numbers) of one subject, and of each the medium (a photo, a video) that it comes from."""

    subject: int
    rows: Sequence[int]
    media: Sequence[int]


@dataclass(frozen=True, slots=True)
class Fold:
    """One split of a protocol, with T templates of R samples altogether.

    Parameters
    ----------
    subjects : int64 [T]
    rows, owners : int64 [R]
        Samples, and the template that each belongs to.
    weights : float64 [R]
        What each sample counts in its template: media count alike, and the samples of a medium share what it counts.
    pairs : int64 [P, 2]
        Templates to be verified.
    gallery, probes : int64 [G], [Q]
        Templates to be searched, and those that are looked up.
    """

    subjects: Array
    rows: Array
    owners: Array
    weights: Array
    pairs: Array
    gallery: Array
    probes: Array

    @property
    def impostors(self) -> int:
        """Pairs of different subjects."""
        return int((self.subjects[self.pairs[:, 0]] != self.subjects[self.pairs[:, 1]]).sum())

    @property
    def enrolled(self) -> int:
        """Subjects in the gallery."""
        return len(np.unique(self.subjects[self.gallery]))


Protocol = tuple[Fold, ...]


def fold(
    templates: Sequence[Template],
    pairs: Sequence[tuple[int, int]] | Array,
    gallery: Sequence[int],
    probes: Sequence[int],
) -> Fold:
    """A fold from its templates.

    Examples
    --------
    >>> one = fold([Template(0, [4, 5, 6], [0, 0, 1]), Template(1, [2], [0])], [(0, 1)], [0], [1])
    >>> one.weights.tolist(), one.impostors
    ([0.25, 0.25, 0.5, 1.0], 1)
    """
    weights = []
    for t in templates:
        _, medium, count = np.unique(np.asarray(t.media, np.int64), return_inverse=True, return_counts=True)
        weights.append(1.0 / (count[medium] * len(count)))
    sizes = [len(t.rows) for t in templates]
    return Fold(
        np.array([t.subject for t in templates], np.int64),
        np.concatenate([np.asarray(t.rows, np.int64) for t in templates]),
        np.repeat(np.arange(len(templates)), sizes),
        np.concatenate(weights),
        np.asarray(pairs, np.int64).reshape(-1, 2),
        np.asarray(gallery, np.int64),
        np.asarray(probes, np.int64),
    )
