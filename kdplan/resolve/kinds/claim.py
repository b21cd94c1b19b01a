"""`claim`: what a plan expects of its numbers."""

from __future__ import annotations

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import Gather, error
from kdplan.ir import expr as ir
from kdplan.ir.plan import Claim, Comparison, Relation
from kdplan.passes.load import Declared
from kdplan.resolve import axes, setting_values
from kdplan.resolve.arithmetic import is_number
from kdplan.resolve.context import Context, expand
from kdplan.resolve.kinds.results import Point, check_axis, check_once, measure_metrics, point, rows_of
from kdplan.syntax import ast

RELATIONS: dict[str, Relation] = {">": ">", "<": "<", "==": "=="}


def claim(thing: Declared, ctx: Context) -> Claim:
    """A claim, with the rows of both sides of each of its comparisons.

    Raises
    ------
    PlanError
        KD0860 for what compares nothing, KD0861 for another operator, KD0862 for `==` without a margin, KD0863 for a
        trend that has no axis, and what measures raise.
    """
    node = thing.node
    of, on, by, over = (node.clause(w) for w in ("of", "on", "by", "over"))
    assert of is not None and on is not None
    gather = Gather()
    named = [e for clause in (by, over) if clause for e in clause.exprs]
    with gather:
        check_once(named, thing.name)
    averaged, paired = ([e.span.text for e in clause.exprs] if clause else [] for clause in (over, by))
    settings: dict[str, object] = {}
    for item in node.items or []:
        if isinstance(item, ast.Setting) and (spec := KINDS["claim"].setting(item.name)) is not None:
            with gather:
                settings[item.name] = setting_values.read(spec, item.value, ctx)
    metrics = []
    with gather:
        metrics = measure_metrics(node, ctx)
    first: Point | None = None
    with gather:
        first = next(expand(ctx, lambda inner: point(on, [], inner), axes.size))
    trend, margin = settings.get("trend"), settings.get("margin", 0.0)
    assert isinstance(margin, int | float)
    if trend is not None and len(averaged) != 1:
        with gather:
            raise error("KD0863", node.head_span, name=thing.name)
    comparisons = []
    for e in of.exprs:
        with gather:
            comparisons.append(_comparison(e, trend, margin, on, first, ctx))
    rows = [row for c in comparisons for row in (*c.left, *c.right)]
    for e in named:
        with gather:
            check_axis(e, thing, rows, ctx)
    gather.raise_if_failed()
    assert first is not None
    return Claim(
        thing.name,
        comparisons,
        first.views,
        metrics,
        [] if trend is not None else averaged,
        paired if "seed" in paired else ["seed", *paired],
        averaged[0] if trend is not None else "",
        float(margin),
        span=node.head_span,
    )


def _comparison(
    e: ast.Expr, trend: object, margin: float, on: ast.Clause, first: Point | None, ctx: Context
) -> Comparison:
    compares = isinstance(e, ast.Binary) and e.op in ("<", ">", "<=", ">=", "==", "!=")
    if trend is not None:
        if compares:
            raise error("KD0863", e.span, name=e.span.text)
        relation: Relation = "rising" if trend == "rising" else "falling"
        return Comparison(rows_of(e, on, first, ctx), relation, text=e.span.text, span=e.span)
    if not isinstance(e, ast.Binary) or not compares:
        raise error("KD0860", e.span)
    if e.op not in RELATIONS:
        raise error("KD0861", e.span, op=e.op)
    if e.op == "==" and not margin:
        raise error("KD0862", e.span)
    if _number(e.left, ctx) is not None:
        raise error("KD0860", e.span, help="Write the version first, then the number.")
    bound = _number(e.right, ctx)
    right = rows_of(e.right, on, first, ctx) if bound is None else []
    left = rows_of(e.left, on, first, ctx)
    return Comparison(left, RELATIONS[e.op], right, bound, text=e.span.text, span=e.span)


def _number(node: ast.Expr, ctx: Context) -> float | None:
    """The number that a side of a comparison is, if it is one."""
    if not isinstance(node, ast.Number | ast.Negate | ast.Binary | ast.Name):
        return None
    value = next(expand(ctx, lambda inner: inner.eval(node, "any"), axes.size))
    return float(value.value) if isinstance(value, ir.Const) and is_number(value) else None  # type: ignore[arg-type]
