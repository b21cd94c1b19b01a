"""Several values from one expression: comprehensions, `[*]`, lists and ranges spread out where many may stand."""

from __future__ import annotations

from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.resolve.context import Context
from kdplan.resolve.values import ClassesValue, ListValue, Several, Value, VerticalsValue, describe
from kdplan.syntax import ast


def spread(nodes: list[ast.Expr], ctx: Context, want: str = "signal", lists: bool = True) -> list[Value]:
    """Values of arguments or list items: comprehensions and `[*]` give all of theirs, and so do `lists`."""
    values: list[Value] = []
    for node in nodes:
        if isinstance(node, ast.Comprehension):
            values.extend(comprehend(node, ctx, want))
            continue
        value = ctx.eval(node, want)
        values.extend(value.items if isinstance(value, Several | ListValue if lists else Several) else [value])
    return values


def comprehend(node: ast.Comprehension, ctx: Context, want: str, loop: int = 0) -> list[Value]:
    """The values of a comprehension, from its loop number `loop` on; the last loop varies fastest."""
    if loop == len(node.loops):
        return [ctx.eval(node.element, want)]
    head = node.loops[loop]
    values: list[Value] = []
    for turn, item in enumerate(iterate(ctx.eval(head.values, "any"), head.values.span)):
        inner = ctx.child(names={**ctx.names, head.name: item}, site=(*ctx.site, id(node), turn))
        values.extend(comprehend(node, inner, want, loop + 1))
    return values


def iterate(value: Value, span: Span) -> list[Value]:
    """The items of a list or of verticals.

    Raises
    ------
    PlanError
        KD0238 for what has no items.
    """
    if isinstance(value, ListValue | Several):
        return value.items
    if isinstance(value, VerticalsValue):
        return [ClassesValue(p, value.data, span) for p in value.parts]
    raise error("KD0238", span, what=describe(value))
