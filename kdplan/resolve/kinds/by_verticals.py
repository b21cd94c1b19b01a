"""`measure … by V` and `over V`: each row once for every vertical, on its samples, with scores cut to its classes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from kdplan.diagnostics.report import PlanError, error, listing
from kdplan.diagnostics.span import Span
from kdplan.ir.outputs import is_scores
from kdplan.ir.plan import ClassSet, Data, Network, Plan, Row, View
from kdplan.passes.metric_checks import class_count
from kdplan.resolve import axes
from kdplan.resolve.context import Context
from kdplan.resolve.values import VerticalsValue
from kdplan.syntax import ast

Found = tuple[ast.Expr, VerticalsValue]
"""Where verticals are named, and they."""


def verticals_among(names: Sequence[ast.Expr], ctx: Context) -> Found | None:
    """The one of the axes in `by` and `over` that is verticals.

    Raises
    ------
    PlanError
        KD0843 where there are several.
    NeedAxis
        Where a param with several values changes them.
    """
    verticals: list[Found] = []
    for e in names:
        try:
            if axes.is_named(e, ctx.module):
                continue
            value = ctx.eval(e, "any")
        except PlanError:
            continue  # whether there is such an axis is checked elsewhere
        if isinstance(value, VerticalsValue):
            if verticals and verticals[0][0].span.text != e.span.text:
                problem = "are not the only ones: a table takes one division"
                raise error("KD0843", e.span, name=e.span.text, problem=problem)
            verticals.append((e, value))
    return verticals[0] if verticals else None


def divided(rows: list[Row], at: ast.Expr, verticals: VerticalsValue, views: list[View], plan: Plan) -> list[Row]:
    """A network over all classes has a row for each vertical, a specialist one for its own.

    A specialist's index over the verticals is the table's line then and no part of its name.

    Raises
    ------
    PlanError
        KD0843 where verticals and data, or a network's classes, do not fit together.
    """
    name = at.span.text
    for view in views:
        if view.data != verticals.data.name or view.classes is not None:
            problem = f"divide the classes of `{verticals.data.name}`, and the measure is on other data"
            raise error("KD0843", view.span or at.span, name=name, problem=problem)
    parts = []
    for row in rows:
        networks = [plan.networks[v.network] for v in row.target.versions]
        for i, part in enumerate(verticals.parts):
            if not all(_covers(n, part, verticals.data, row, name, at.span) for n in networks):
                continue
            label = part.label if part.label is not None else i
            own = all(n.classes is not None and set(n.classes.ids) == set(part.ids) for n in networks)
            kept = {k: v for k, v in row.coordinates.items() if not (own and v == label and is_scores(row.target.path))}
            parts.append(replace(row, coordinates={**kept, name: label}, classes=part))
    return parts


def _covers(network: Network, part: ClassSet, data: Data, row: Row, name: str, span: Span) -> bool:
    """Whether a network's scores are of all classes of a part; False where they are of none of them."""
    if not is_scores(row.target.path):
        return True
    classes = network.classes
    if classes is None or classes.data != data.name:
        count = class_count(network)
        if count is None or count == len(data.classes):
            return True
        problem = f"are of {len(data.classes)} classes, and `{row.label}` is over {count} others"
        raise error("KD0843", row.target.span or span, name=name, problem=problem)
    known = set(classes.ids)
    lacks = [data.classes[i] for i in part.ids if i not in known]
    if lacks and len(lacks) < len(part.ids):
        problem = f"have a part of which `{row.label}` has only some classes: it lacks {listing(lacks)}"
        raise error("KD0843", row.target.span or span, name=name, problem=problem)
    return not lacks
