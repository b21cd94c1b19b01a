"""What must fit between teachers that are amalgamated and their student: layers, images, classes."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import zip_longest

from kdplan.constructs.ask import Ask
from kdplan.diagnostics.report import error, joined, listing, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir.cuts import Layer
from kdplan.ir.plan import ClassSet
from kdplan.syntax import ast


def check_images(teachers: Sequence[ast.Expr], data: ast.Expr, span: Span, ask: Ask) -> None:
    """All teachers were trained on images of the size of the data's.

    Raises
    ------
    PlanError
        KD0293 where two teachers' differ, KD0296 where the data's are others.
    """
    shown = ask.images(data)
    known = [(t, shape) for t in teachers if (shape := ask.trained_on(t)) is not None]
    for teacher, shape in known[1:]:
        if shape != known[0][1]:
            raise error("KD0293", span, first=ask.name(known[0][0]), one=_size(known[0][1]), second=ask.name(teacher),
                        two=_size(shape))  # fmt: skip
    if known and known[0][1] != shown:
        raise error("KD0296", data.span, data=data.span.text, found=_size(shown), teacher=ask.name(known[0][0]),
                    wanted=_size(known[0][1]))  # fmt: skip


def _size(shape: Sequence[int]) -> str:
    return "×".join(map(str, shape))


def check_teachers(teachers: Sequence[ast.Expr], span: Span, ask: Ask) -> list[Layer]:
    """The layers that all teachers have, their scores among them: these may be over different numbers of classes.

    Raises
    ------
    PlanError
        KD0292 where two teachers differ in a layer.
    """
    first = ask.layers(teachers[0])
    for teacher in teachers[1:]:
        other = ask.layers(teacher)
        for i, (a, b) in enumerate(zip_longest(first, other)):
            behind = i >= _scores(first)
            same = a is not None and b is not None and a.paths == b.paths and a.layers == b.layers
            if not same or (not behind and a.shape != b.shape):
                one, two = (_described(ask.name(t), at) for t, at in ((teachers[0], a), (teacher, b)))
                raise error("KD0292", span, one=one, two=two)
    return first


def _described(name: str, layer: Layer | None) -> str:
    return f"`{name}` has no further layer" if layer is None else f"`{name}` has `{layer.path}` ({_size(layer.shape)})"


def _scores(layers: Sequence[Layer]) -> int:
    """Which of a network's layers gives its scores: the last one with weights."""
    return max((i for i, at in enumerate(layers) if at.layers), default=0)


# ---- which layers


def chosen(
    node: ast.Declaration,
    student: ast.Expr,
    teachers: Sequence[ast.Expr],
    common: Sequence[Layer],
    own: Sequence[Layer],
    ask: Ask,
) -> list[str]:
    """The layers that are amalgamated, in the network's order: as written, or all that have weights.

    Raises
    ------
    PlanError
        KD0295 for a layer that the student or a teacher lacks, or that not everything passes through.
    """
    written = ask.setting("layers")
    sides = [(student, own), *((t, common) for t in teachers)]
    if written is None or written == ["auto"]:
        span = next((i.value.span for i in node.items or [] if isinstance(i, ast.Setting) and i.name == "layers"),
                     node.head_span)  # fmt: skip
        paths = [at.path for at in own[: _scores(own)] if at.layers and len(at.shape) in (1, 3)]
        if not paths:
            raise error("KD0295", span, path="with weights", network=ask.name(student), help="")
    else:
        items = {i.name: i.value for i in node.items or [] if isinstance(i, ast.Setting)}["layers"]
        nodes = items.items if isinstance(items, ast.List) else [items]
        span = items.span
        for path, at in zip(written, nodes, strict=True):
            _check(path, at.span, sides, ask)
        position = {p: i for i, layer in enumerate(own) for p in layer.paths}
        paths = sorted(dict.fromkeys(written), key=lambda p: position[p])
    for path in paths:
        _check(path, span, sides, ask)
    return paths


def _check(path: str, span: Span, sides: Sequence[tuple[ast.Expr, Sequence[Layer]]], ask: Ask) -> None:
    for network, layers in sides:
        before = layers[: _scores(layers)]
        if not any(path in at.paths for at in before):
            known = [at.path for at in before if at.layers]
            near = nearest(path, [p for at in before for p in at.paths])
            help = f"Did you mean `{near}`?" if near else f"Choose from {listing(known, 20)}."
            raise error("KD0295", span, path=path, network=ask.name(network), help=help)


def channels(
    node: ast.Declaration,
    paths: Sequence[str],
    teacher: Sequence[Layer],
    student: Sequence[Layer],
    count: int,
    ask: Ask,
) -> dict[str, tuple[int, int]]:
    """The teachers' channels and the student's at each layer; KD0297 warns of widths that make little sense."""
    counts = {p: (_at(p, teacher).shape[0], _at(p, student).shape[0]) for p in paths}
    outside = [f"`{p}` ({b}, teachers {a})" for p, (a, b) in counts.items() if not a < b < count * a]
    if outside:
        ask.warn("KD0297", node.head_span, layers=joined(outside, 4), count=count)
    return counts


def _at(path: str, layers: Sequence[Layer]) -> Layer:
    return next(at for at in layers if path in at.paths)


# ---- scores


@dataclass
class Scores:
    """How the teachers' scores become the student's.

    Attributes
    ----------
    layer
        The student's layer that gives its scores.
    tap
        What learns the teachers' scores: the student's own, or those of entries.
    kept
        For each teacher the columns that count; None for all.
    entries
        Where classes have several entries: for each entry the student's class that it is of.
    """

    layer: str
    tap: str = "logits"
    kept: list[list[int] | None] = field(default_factory=list)
    entries: list[int] | None = None


def scores(student: ast.Expr, teachers: Sequence[ast.Expr], own: Sequence[Layer], span: Span, ask: Ask) -> Scores:
    """What the student learns at its end.

    Raises
    ------
    PlanError
        KD0298 where classes are not said, or the student's are not its teachers'; KD0294 for one class of two names.
    """
    sets = [_classes(t, ask) for t in teachers]
    mine = _classes(student, ask)
    for teacher, classes in zip(teachers, sets, strict=True):
        if classes.data != mine.data:
            raise error("KD0298", span, why=f"`{ask.name(teacher)}` is over classes of `{classes.data}` and "
                        f"`{ask.name(student)}` over some of `{mine.data}`", help="Use one data set.")  # fmt: skip
    _check_names(mine, span, ask)
    every = [c for s in sets for c in s.ids]
    lacks = ClassSet(mine.data, [c for c in dict.fromkeys(every) if c not in mine.ids])
    more = ClassSet(mine.data, [c for c in mine.ids if c not in every])
    if lacks.ids or more.ids:
        why = f"`{ask.name(student)}` lacks {listing(ask.class_names(lacks), 6)} of its teachers' classes"
        if more.ids:
            why = f"no teacher of `{ask.name(student)}` has {listing(ask.class_names(more), 6)}"
        raise error("KD0298", student.span, why=why, help="Give the student the classes of all its teachers.")
    layer = own[_scores(own)].path
    if len(set(every)) == len(every):
        return Scores(layer, kept=[None] * len(sets))
    if ask.setting("scores") == "one":
        seen: set[int] = set()
        kept: list[list[int] | None] = []
        for classes in sets:
            new = [i for i, c in enumerate(classes.ids) if c not in seen]
            kept.append(new if len(new) < len(classes.ids) else None)
            seen |= set(classes.ids)
        return Scores(layer, kept=kept)
    return Scores(layer, f"{layer}.layer", [None] * len(sets), [mine.ids.index(c) for c in every])


def _classes(network: ast.Expr, ask: Ask) -> ClassSet:
    classes = ask.classes(network)
    if classes is None:
        raise error("KD0298", network.span, why=f"`{ask.name(network)}` does not declare the classes of its scores",
                    help="Declare its classes: `classes = half[0]`, `classes = dogs.classes`.")  # fmt: skip
    return classes


def _check_names(classes: ClassSet, span: Span, ask: Ask) -> None:
    """KD0294 where two of the classes have names that differ in signs and capitals only."""
    seen: dict[str, str] = {}
    for name in ask.class_names(classes):
        word = re.sub(r"[\W_]+", "", name).casefold() or name
        if word in seen and seen[word] != name:
            raise error("KD0294", span, first=seen[word], second=name, data=classes.data)
        seen[word] = name
