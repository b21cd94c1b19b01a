"""Protocols of open-set recognition made from labels. No torch."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdplan.data.philox import SPLIT, order, words
from kdplan.data.sources.base import Array
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.protocol import Fold, Protocol, Template, fold

_SLOT = 7
"""Keeps these draws apart from those of splits and fractions, which have the same purpose."""


@dataclass(frozen=True, slots=True)
class ProtocolRule:
    """`protocol = templates(size = 3, splits = 10, pairs = 10000, seed = 0)`: a protocol made from labels.

    Parameters
    ----------
    size : int
        Samples in a template.
    splits : int
        How often templates and pairs are drawn anew.
    subjects : int, optional
        Classes drawn for each split; all by default.
    pairs : int
        At most so many pairs of one subject, and so many of two, in a split.
    seed : int
    """

    size: int = 3
    splits: int = 10
    subjects: int | None = None
    pairs: int = 10_000
    seed: int = 0


def protocol_of(rule: ProtocolRule, labels: Array, names: Sequence[str], span: Span | None = None) -> Protocol:
    """A protocol from the labels [N] of a view's samples.

    In every split each class's samples are put into a random order and cut into templates; a rest is not used.
    The first template of a class is enrolled in the gallery and the others are looked up; all pairs of templates are
    verified, or `rule.pairs` of either kind drawn at random. Each sample is a medium of its own.

    Raises
    ------
    PlanError
        KD0754 where a class has not enough samples for two templates, or there are fewer than two classes.

    Examples
    --------
    >>> (first, _) = protocol_of(ProtocolRule(size=2, splits=2), np.repeat([0, 1], 6), "ab")
    >>> first.subjects.tolist(), len(first.pairs), first.impostors, first.gallery.tolist()
    ([0, 0, 0, 1, 1, 1], 15, 9, [0, 3])
    """
    present, counts = np.unique(labels, return_counts=True)
    if len(present) < max(2, rule.subjects or 2):
        why = f"{rule.subjects or 2} subjects are needed, and the view has {len(present)}"
        raise error("KD0754", span, why=why)
    if counts.min() < 2 * rule.size:
        poor = int(counts.argmin())
        need = f"two templates of {rule.size} need {2 * rule.size}"
        why = f"`{names[present[poor]]}` has {counts[poor]} samples, and {need}"
        raise error("KD0754", span, why=why)
    return tuple(_drawn(rule, labels, present, number) for number in range(rule.splits))


def _drawn(rule: ProtocolRule, labels: Array, present: Array, number: int) -> Fold:
    seed = rule.seed
    shuffled = order(len(labels), seed=seed, epoch=number, stream=_SLOT, purpose=SPLIT)
    if rule.subjects is not None:
        chosen = order(len(present), seed=seed, epoch=number, stream=_SLOT + 1, purpose=SPLIT)[: rule.subjects]
        present = np.sort(present[chosen])
    templates: list[Template] = []
    gallery: list[int] = []
    for subject in present.tolist():
        own = shuffled[labels[shuffled] == subject]
        gallery.append(len(templates))
        for start in range(0, len(own) - rule.size + 1, rule.size):
            rows = np.sort(own[start : start + rule.size])
            templates.append(Template(subject, rows.tolist(), range(rule.size)))
    subjects = np.array([t.subject for t in templates])
    pairs = np.stack(np.triu_indices(len(templates), 1), axis=1)
    same = subjects[pairs[:, 0]] == subjects[pairs[:, 1]]
    random = words(np.arange(len(pairs)), seed=seed, epoch=number, purpose=SPLIT, stream=_SLOT + 2)[0]
    kept = []
    for kind in (same, ~same):
        rows = np.flatnonzero(kind)
        kept.append(np.sort(rows[np.argsort(random[rows], kind="stable")[: rule.pairs]]))
    probes = sorted(set(range(len(templates))) - set(gallery))
    return fold(templates, pairs[np.concatenate(kept)], gallery, probes)
