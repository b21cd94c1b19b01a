"""Arithmetic of numbers and signals: `+`, `-`, `*` …, folded where both sides are numbers."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, cast

from kdplan.diagnostics.report import Diagnostic, PlanError, error
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.operators import OPERATORS
from kdplan.resolve.context import Context
from kdplan.resolve.signals import signal
from kdplan.resolve.values import Value, describe
from kdplan.syntax import ast

_FOLDED_CALLS: dict[str, Callable[..., Any]] = {
    "exp": math.exp,
    "log": math.log,
    "sqrt": math.sqrt,
    "abs": abs,
    "min": min,
    "max": max,
}


def is_number(value: object) -> bool:
    """Whether a value is a constant number; booleans are none."""
    return isinstance(value, ir.Const) and isinstance(value.value, int | float) and not isinstance(value.value, bool)


def integer(value: Value, span: Span) -> int:
    """The integer that a value is.

    Raises
    ------
    PlanError
        KD0249 where it is none.
    """
    if isinstance(value, ir.Const) and isinstance(value.value, int) and not isinstance(value.value, bool):
        return value.value
    shown = str(value.value) if is_number(value) and isinstance(value, ir.Const) else describe(value)
    raise error("KD0249", span, wants="an integer", found=shown)


def binary(node: ast.Binary, ctx: Context, want: str) -> Value:
    """`a op b`: folded where both are numbers. Sums are walked without recursion, since they may be very long."""
    spine: list[ast.Binary] = []
    left: ast.Expr = node
    while isinstance(left, ast.Binary):
        spine.append(left)
        left = left.left
    value: Value | None = None
    problems: dict[Diagnostic, None] = {}
    failed = False
    try:
        value = ctx.eval(left)
    except PlanError as problem:
        failed = True
        problems.update(dict.fromkeys(problem.diagnostics))
    for step in reversed(spine):
        try:
            right = ctx.eval(step.right)
            value = _two(step.op, value, right, step, ctx) if value is not None else None
        except PlanError as problem:
            failed = True
            problems.update(dict.fromkeys(problem.diagnostics))
    if failed:
        raise PlanError([*problems])
    assert value is not None
    return value


def _two(op: str, left: Value, right: Value, node: ast.Binary, ctx: Context) -> Value:
    """One operation. A difference is a sum with a negated term, so that long ones stay flat."""
    a, b = _operand(op, left, node, ctx), _operand(op, right, node, ctx)
    if isinstance(a, ir.Const) and isinstance(b, ir.Const):
        numbers: tuple[Any, Any] = a.value, b.value
        if op == "**":
            ctx.session.budget.power(*numbers, node.span)
        return _folded(lambda: OPERATORS[op](*numbers) * 1, [a, b], node.span, ctx)  # masks are 1 and 0
    if op == "-":
        op, b = "+", ir.Const(-b.value, span=b.span) if isinstance(b, ir.Const) else _negative(b, b.span, ctx)  # type: ignore
    if op in "+*" and isinstance(a, ir.Op) and a.op == op and len(a.args) < 1000:
        return ctx.session.budget.tree(ir.Op(a.op, [*a.args, b], span=node.span), node.span, longer=a)
    return ctx.session.budget.tree(ir.Op(cast(Any, op), [a, b], span=node.span), node.span)


def _negative(e: ir.Expr, span: Span | None, ctx: Context) -> ir.Op:
    return ctx.session.budget.tree(ir.Op("neg", [e], span=span), span)


def _operand(op: str, side: Value, node: ast.Binary, ctx: Context) -> ir.Expr:
    """A number or a signal (KD0244 for other constants)."""
    if not isinstance(side, ir.Const):
        return signal(side, ctx)
    if not is_number(side):
        raise error("KD0244", side.span or node.span, what=f"`{op}`", wants="numbers and signals", found=describe(side))
    return side


def _folded(compute: Callable[[], Any], parts: list[ir.Const], span: Span, ctx: Context) -> ir.Const:
    try:
        value = compute()
    except (ArithmeticError, ValueError) as e:
        raise error("KD0241", span, what=str(e)) from None
    if isinstance(value, complex) or (isinstance(value, float) and not math.isfinite(value)):
        raise error("KD0241", span, what=f"its value is {value}")
    ctx.session.budget.number(value, span)
    return ir.Const(value, span=_origin(parts, span))


def _origin(parts: list[ir.Const], span: Span) -> Span:
    """Where a folded number comes from: a param's own line if just one part was written elsewhere."""
    outside = [
        p.span for p in parts if p.span and not (p.span.source is span.source and span.start <= p.span.start < span.end)
    ]
    return outside[0] if len(outside) == 1 else span


def negate(node: ast.Negate, ctx: Context, want: str) -> Value:
    """`-a`: folded where it is a number.

    Raises
    ------
    PlanError
        As `signal`, for what is no signal.
    """
    value = ctx.eval(node.operand)
    if is_number(value):
        assert isinstance(value, ir.Const)
        return _folded(lambda: -cast(Any, value).value, [value], node.span, ctx)
    return _negative(signal(value, ctx), node.span, ctx)


def call_of_numbers(function: str, values: Sequence[Value], span: Span, ctx: Context) -> ir.Const | None:
    """The number that `exp`, `log`, `sqrt`, `abs`, `min` or `max` gives; None where it is a call on signals.

    `min` and `max` of one number are calls on signals: of its elements.

    Raises
    ------
    PlanError
        KD0241 where the result is no finite number.
    """
    numbers = [cast(ir.Const, v) for v in values if is_number(v)]
    if function not in _FOLDED_CALLS or not values or len(numbers) < len(values):
        return None
    if len(numbers) == 1 and function in ("min", "max"):
        return None
    return _folded(lambda: _FOLDED_CALLS[function](*[n.value for n in numbers]), numbers, span, ctx)


def total(values: Sequence[Value], span: Span, ctx: Context) -> ir.Expr:
    """`sum(…)` of numbers and signals; 0 where there are none.

    Raises
    ------
    PlanError
        KD0241 where the sum is no finite number, KD0246 and others of `signal` for what is no signal.
    """
    if not values:
        return ir.Const(0, span=span)
    if all(is_number(v) for v in values):
        numbers = [cast(ir.Const, v) for v in values]
        return _folded(lambda: sum(cast(Any, n.value) for n in numbers), numbers, span, ctx)
    if len(values) == 1:
        return signal(values[0], ctx)
    return ctx.session.budget.tree(ir.Op("+", [signal(v, ctx) for v in values], span=span), span)
