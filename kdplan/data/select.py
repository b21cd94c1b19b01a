"""Which samples of a source a view has: splits, classes, fractions and limits, all balanced over classes. No torch."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from pathlib import Path

import numpy as np

from kdplan.data.catalog import open_source
from kdplan.data.philox import SPLIT, words
from kdplan.data.protocol import protocol_of
from kdplan.data.sources.base import Array, Opened, Part, check_labels
from kdplan.data.view import SplitRule, ViewSpec
from kdplan.diagnostics.report import counted, error, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir.protocol import Protocol


def split_names(opened: Opened, rule: SplitRule | None) -> tuple[str, ...]:
    """The splits that a view of this source may name.

    >>> split_names(open_source("digits", {}, None), SplitRule("fraction", (("train", 0.9),)))
    ('train', 'val', 'test')
    """
    return tuple(opened.parts) if rule is None else _names(tuple(opened.parts), rule)


def split_sizes(name: str, opened: Opened, rule: SplitRule, span: Span | None = None) -> dict[str, int]:
    """How many samples are in each part that `rule` makes of a source.

    Raises
    ------
    PlanError
        KD0717 labels out of range, KD0721 and KD0727 a rule that cannot be met, KD0729 a part of it without samples.

    Examples
    --------
    >>> split_sizes("digits", open_source("digits", {}, None), SplitRule("fraction", (("train", 0.1),)))
    {'train': 142, 'val': 1295, 'test': 360}
    """
    divided = _divided(opened.parts)
    part = opened.parts[divided]
    labels = np.zeros(part.size, np.int64)
    if part.labels is not None:
        labels = check_labels(name, divided, part.labels(), len(opened.classes), span)
    sizes = {}
    for split in _names(tuple(opened.parts), rule):
        ruled = split == divided or split not in opened.parts or split in dict(rule.parts)
        rows = _apply_rule(rule, split, labels, opened.classes, span) if ruled else opened.parts[split].size
        sizes[split] = rows if isinstance(rows, int) else len(rows)
        if not sizes[split] and split in dict(rule.parts):
            raise error("KD0729", span, name=name, split=split)
    return sizes


def _names(parts: tuple[str, ...], rule: SplitRule) -> tuple[str, ...]:
    others = [name for name in parts if name != _divided(parts)]
    return tuple(dict.fromkeys([*(name for name, _ in rule.parts), _rest(parts), *others]))


def _rest(parts: tuple[str, ...]) -> str:
    """The part of what no other one takes: the source's own `test` stays what it is."""
    return "val" if "test" in parts and _divided(parts) != "test" else "test"


def _divided(parts: Collection[str]) -> str:
    return "train" if "train" in parts else next(iter(parts))


def choose(spec: ViewSpec, opened: Opened, span: Span | None = None) -> tuple[Part, Array]:
    """The part that a view reads and the rows it takes, int64 [n], ascending.

    Raises
    ------
    PlanError
        KD0716 no such split, KD0717 labels out of range, KD0727 a rule that cannot be met, KD0728 wrong classes,
        KD0729 nothing left.

    Examples
    --------
    >>> part, rows = choose(ViewSpec("digits", limit=30), open_source("digits", {}, None))
    >>> np.bincount(part.labels()[rows]).tolist()
    [3, 3, 3, 3, 3, 3, 3, 3, 3, 3]
    """
    known = split_names(opened, spec.rule)
    if spec.split not in known:
        raise error(
            "KD0716",
            span,
            name=spec.source,
            split=spec.split,
            nearest=nearest(spec.split, known),
            known=", ".join(known),
        )
    divided = _divided(opened.parts)
    ruled = spec.rule is not None and (
        spec.split not in opened.parts or spec.split == divided or spec.split in dict(spec.rule.parts)
    )
    name = divided if ruled else spec.split
    part = opened.parts[name]
    whole = not ruled and spec.classes is None and spec.fraction == 1 and spec.limit is None
    if part.labels is None:
        labels = np.zeros(part.size, np.int64)
    elif whole and part.inputs is None:
        return part, np.arange(part.size)  # labels come from folder names and are in range
    else:
        labels = check_labels(spec.source, name, part.labels(), len(opened.classes), span)
    rows = np.arange(part.size)
    if ruled:
        assert spec.rule is not None
        rows = _apply_rule(spec.rule, spec.split, labels, opened.classes, span)
    # What is left of each class does not depend on which classes are wanted: a view of some is a part of that of all.
    rows = _thin(rows, labels, spec, span)
    if spec.classes is not None:
        _check_classes(spec, part, opened, span)
        rows = rows[np.isin(labels[rows], spec.classes)]
    if len(rows) == 0:
        raise error("KD0729", span, name=spec.source, split=spec.split)
    return part, rows


def view_size(spec: ViewSpec, root: Path | None, *, cache: Path | None = None, span: Span | None = None) -> int:
    """How many samples a view has.

    >>> view_size(ViewSpec("digits", split="test"), None)
    360
    """
    opened = open_source(spec.source, dict(spec.args), root, cache=cache, span=span)
    simple = spec.rule is None and spec.classes is None and spec.fraction == 1 and spec.limit is None
    if simple and spec.split in opened.parts:
        return opened.parts[spec.split].size
    return len(choose(spec, opened, span)[1])


def view_protocol(spec: ViewSpec, root: Path | None, span: Span | None = None) -> Protocol | None:
    """What is compared with what in this view; sample numbers are the view's own. None where nothing is.

    Raises
    ------
    PlanError
        KD0728 for classes of a source with a protocol of its own, KD0754 where no templates can be made.

    Examples
    --------
    >>> from kdplan.data.protocol import ProtocolRule
    >>> view = ViewSpec("digits", split="test", classes=(7, 8, 9), protocol=ProtocolRule(splits=2))
    >>> [len(fold.subjects) for fold in view_protocol(view, None)]
    [35, 35]
    """
    opened = open_source(spec.source, dict(spec.args), root, span=span)
    if spec.protocol is None:
        if opened.protocol is None:
            return None
        if spec.classes is not None:
            raise error("KD0728", span, name=spec.source, why="its protocol needs all classes")
        return opened.protocol()
    part, rows = choose(spec, opened, span)
    if part.labels is None:
        raise error("KD0754", span, why="the data has no labels")
    return protocol_of(spec.protocol, part.labels()[rows], opened.classes, span)


def _ranks(labels: Array, rows: Array, seed: int, purpose_slot: int) -> Array:
    """The rank [n] of each of `rows` in a random order of its own class."""
    a, b, _, _ = words(rows.astype(np.int64), seed=seed, epoch=0, purpose=SPLIT, slot=purpose_slot)
    random = a << 31 | b >> 1
    at = np.lexsort((random, labels[rows]))
    sorted_labels = labels[rows][at]
    starts = np.flatnonzero(np.r_[True, sorted_labels[1:] != sorted_labels[:-1]]) if len(rows) else np.zeros(0, int)
    sizes = np.diff(np.r_[starts, len(rows)])
    ranks = np.empty(len(rows), np.int64)
    ranks[at] = np.arange(len(rows)) - np.repeat(starts, sizes)
    return ranks


def balanced(labels: Array, classes: Sequence[str], each: int, seed: int, span: Span | None = None) -> Array:
    """`each` samples of every class, drawn with `seed`: their numbers, int64 [n], ascending.

    Raises
    ------
    PlanError
        KD0845 if a class has fewer.

    Examples
    --------
    >>> rows = balanced(np.repeat([0, 1], 50), ["a", "b"], each=3, seed=0)
    >>> len(rows), (rows < 50).sum()
    (6, np.int64(3))
    """
    counts = np.bincount(labels, minlength=len(classes))
    short = np.flatnonzero(counts < each)
    if len(short):
        c = int(short[0])
        name = classes[c] if classes else str(c)
        raise error("KD0845", span, wanted=each, name=name, found=counted(int(counts[c]), "image"))
    rows = np.arange(len(labels))
    return rows[_ranks(labels, rows, seed, 3) < each]


def _apply_rule(rule: SplitRule, split: str, labels: Array, classes: Sequence[str], span: Span | None) -> Array:
    rows = np.arange(len(labels))
    ranks = _ranks(labels, rows, rule.seed, 1)
    counts = np.bincount(labels, minlength=max(len(classes), 1))
    if rule.kind == "per_class":
        wanted = int(sum(n for _, n in rule.parts))
        short = np.flatnonzero(counts < wanted)
        if len(short):
            c = int(short[0])
            raise error("KD0727", span, wanted=wanted, label=classes[c] if classes else "the set", found=int(counts[c]))
    elif (total := sum(f for _, f in rule.parts)) > 1 + 1e-9:
        raise error("KD0721", span, owner="fraction", arg="the sum", expected="at most 1", found=f"{total:g}")
    start = np.zeros(len(counts))
    for name, amount in rule.parts:
        end = start + (amount if rule.kind == "per_class" else amount * counts)
        if name == split:
            # Rounding each bound alike makes neighbouring parts meet without a gap.
            return rows[(ranks >= np.rint(start)[labels]) & (ranks < np.rint(end)[labels])]
        start = end
    return rows[ranks >= np.rint(start)[labels]]


def _check_classes(spec: ViewSpec, part: Part, opened: Opened, span: Span | None) -> None:
    assert spec.classes is not None
    count = len(opened.classes)
    if part.objects is not None:
        raise error("KD0728", span, name=spec.source, why="an image with boxes has no single class")
    if part.labels is None or count == 0:
        raise error("KD0728", span, name=spec.source, why="it has no classes")
    outside = [c for c in spec.classes if not 0 <= c < count]
    if outside:
        raise error("KD0728", span, name=spec.source, why=f"class {outside[0]} is not in 0..{count - 1}")
    if len(set(spec.classes)) != len(spec.classes):
        raise error("KD0728", span, name=spec.source, why="a class is listed twice")


def _thin(rows: Array, labels: Array, spec: ViewSpec, span: Span | None) -> Array:
    if not 0 < spec.fraction <= 1 or (spec.limit is not None and spec.limit < 1):
        bad = "limit" if 0 < spec.fraction <= 1 else "fraction"
        value = spec.limit if bad == "limit" else spec.fraction
        raise error(
            "KD0721",
            span,
            owner=spec.source,
            arg=bad,
            found=value,
            expected="an integer, at least 1" if bad == "limit" else "above 0 and at most 1",
        )
    if spec.fraction == 1 and spec.limit is None:
        return rows
    ranks = _ranks(labels, rows, spec.seed, 2)
    if spec.fraction < 1:
        counts = np.bincount(labels[rows], minlength=1)
        # Every class that is there keeps at least one sample.
        keep = ranks < np.maximum(np.rint(counts * spec.fraction), 1)[labels[rows]]
        rows, ranks = rows[keep], ranks[keep]
    if spec.limit is not None and spec.limit < len(rows):
        # Round by round over the classes; which classes get the last, incomplete round is drawn, not alphabetical.
        tie = words(labels[rows], seed=spec.seed, epoch=0, purpose=SPLIT, slot=3)[0]
        rows = np.sort(rows[np.lexsort((labels[rows], tie, ranks))[: spec.limit]])
    return rows
