"""`measure` and `export`: what is read off the trained networks."""

from __future__ import annotations

from typing import Any

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.plan import Export, Item, Measure, Row, Target, View
from kdplan.passes import axes
from kdplan.passes.apply import family_error, weights
from kdplan.passes.load import Declared
from kdplan.passes.session import Context, expand
from kdplan.passes.settings import item as as_item
from kdplan.passes.spread import spread
from kdplan.passes.values import DataValue, Family, NetValue, Several, Value, describe
from kdplan.syntax import ast


def measure(thing: Declared, ctx: Context) -> Measure:
    """A measure, with one row for every version that its `of` selects at every point of the axes that these read."""
    node = thing.node
    of, on, by, over = (node.clause(w) for w in ("of", "on", "by", "over"))
    assert of is not None and on is not None
    rows: list[Row] = []
    for e in of.exprs:
        for found in expand(ctx, lambda inner, e=e: (_rows(e, inner)), axes.size):  # type: ignore[misc]
            rows.extend(found)
    return Measure(
        thing.name,
        rows,
        [_measured_view(v, on, ctx) for v in spread(on.exprs, ctx, "any")],
        measure_metrics(node, ctx),
        [e.span.text for e in by.exprs] if by else [],
        [e.span.text for e in over.exprs] if over else ["seed"],
        span=node.head_span,
    )


def _rows(e: ast.Expr, ctx: Context) -> list[Row]:
    value = ctx.eval(e, "network")
    values = value.items if isinstance(value, Several) else [value]
    found = []
    for v in values:
        target = _target(v, e, ctx)
        net: Any = v
        coords = {**axes.coordinates(ctx), **net.instance.coordinates, **net.coordinates}
        found.append(Row(_label(net), target, coords))
    return found


def _label(net: NetValue) -> str:
    """`small@kd`, without coordinates: those stand beside it."""
    version = net.version or net.instance.as_declared
    name = net.instance.declared.name
    text = name
    if net.version is not None and version is not None:
        phase = version.phase.partition("[")[0].rpartition("@")[2] if version.phase else "init"
        text = f"{name}@{phase}"
    if version is not None and version.snapshot != "last":
        text += f"[{version.snapshot}]"
    return ".".join([text, *net.path])


def _target(v: Value, e: ast.Expr, ctx: Context) -> Target:
    if isinstance(v, Family):
        raise family_error(v)
    if not isinstance(v, NetValue):
        raise error("KD0250", e.span, what=describe(v))
    version = weights(v, ctx)
    assert isinstance(version, ir.Version)
    return Target([version], ".".join(v.path), span=e.span)


def _measured_view(v: Value, on: ast.Clause, ctx: Context) -> View:
    if not isinstance(v, DataValue):
        raise error("KD0244", v.span or on.word_span, what="what stands after `on`", wants="data", found=describe(v))
    if v.split is None:
        raise error("KD0703", v.span, name=v.data.name, example=f"{v.span.text}.test")
    if v.unlabelled:
        raise error("KD0702", v.span, name=v.span.text)
    return View(v.data.name, v.split, v.classes, False, span=v.span)


def measure_metrics(node: ast.Declaration, ctx: Context) -> list[Item]:
    """The metrics that a measure's body lists.

    Raises
    ------
    PlanError
        KD0257 where it lists none.
    """
    nodes: list[ast.Expr] = list(node.listing or [])
    for item in node.items or []:
        raise error("KD0258", item.span)
    if not nodes:
        raise error("KD0257", node.head_span)
    return [as_item("metric", ctx.eval(n, "metric"), n, "metric") for n in nodes]


def export(thing: Declared, ctx: Context) -> Export:
    """An export: exactly one network.

    Raises
    ------
    PlanError
        KD0404 where the expression means several.
    """
    clause = thing.node.clause("=")
    assert clause is not None
    e = clause.exprs[0]
    found = [t for targets in expand(ctx, lambda inner: _rows(e, inner), axes.size) for t in targets]
    if len(found) != 1:
        example = f"{found[0].label}{axes.suffix({}, found[0].coordinates)}" if found else ""
        raise error("KD0404", e.span, text=f"export {thing.name}", count=len(found), example=example)
    return Export(thing.name, found[0].target, span=thing.node.head_span)
