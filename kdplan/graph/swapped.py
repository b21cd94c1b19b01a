"""Calls whose student and teacher are most likely swapped.

Either the teacher learns and the student does not, or the teacher is a part of its student: a branch, say, that all
branches together learn from. Whoever names both arguments means what they say.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

from torch import fx
from torch.utils._pytree import tree_leaves

from kdplan.diagnostics.report import Diagnostic, PlanError, Reporter
from kdplan.diagnostics.span import Source, Span
from kdplan.graph.signals import Signal
from kdplan.ir import expr as ir
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.plan import Phase
from kdplan.syntax import ast
from kdplan.syntax.parse import parse
from kdplan.syntax.write import write

Swapped = dict[int, tuple[tuple[str, ...], str]]
"""Calls by their position among a phase's expressions, with the names of their parameters and what looks wrong."""

FROZEN = "the teacher learns in this phase, and the student does not"
PART = "the teacher learns as a part of the student"


@dataclass(frozen=True)
class Sides:
    """What a call is given as student and as teacher: the names of nodes."""

    call: ir.Call
    parameters: tuple[str, ...]
    student: tuple[str, ...]
    teacher: tuple[str, ...]


def parameters_of(call: ir.Call, code: Callable[..., Any] | None = None) -> tuple[str, ...]:
    """The names of a call's positional parameters: by the function's row, or by the signature of a user's `code`.

    >>> parameters_of(ir.Call("attention", []))
    ('student', 'teacher')
    """
    if code is None:
        spec = FUNCTIONS[call.function]
        return () if spec.more else tuple(p.name for p in spec.params if p.type == "signal")
    try:
        return tuple(inspect.signature(code).parameters)
    except (TypeError, ValueError):
        return ()


def sides(
    call: ir.Call, parameters: tuple[str, ...], args: Iterable[Signal], keywords: Mapping[str, Signal]
) -> Sides | None:
    """What a call compares, where its function has a student and a teacher: both, or each `…_from` and `…_to`."""
    given = {**dict(zip(parameters, args, strict=False)), **keywords}
    pairs = {n: _other(n) for n in given if "student" in n and _other(n) in given}
    if not pairs:
        return None

    def nodes(names: Iterable[str]) -> tuple[str, ...]:
        values = tree_leaves([given[n].value for n in names])
        return tuple(v.name for v in values if isinstance(v, fx.Node))

    return Sides(call, parameters, nodes(pairs), nodes(pairs.values()))


def swapped(
    compared: Iterable[Sides], reached: Mapping[str, set[str]], trainable: Collection[str]
) -> list[tuple[Sides, str]]:
    """The calls that look swapped, with what looks wrong.

    Parameters
    ----------
    compared
        The calls.
    reached
        Node → the parameters that autograd goes back to from it; nodes that nothing needs are missing.
    trainable
        Names of the parameters that the phase trains.
    """
    wanted = set(trainable)

    def learnt(names: Iterable[str]) -> set[str]:
        return wanted & {p for n in names for p in reached[n]}

    known = [c for c in compared if all(n in reached for n in (*c.student, *c.teacher))]
    both = [(c, learnt(c.student), learnt(c.teacher)) for c in known]
    return [
        (c, PART if student else FROZEN)
        for c, student, teacher in both
        if teacher and (not student or teacher < student)
    ]


def positions(phase: Phase, calls: Iterable[tuple[Sides, str]]) -> Swapped:
    """Where calls stand among a phase's expressions."""
    at = {id(c.call): (c.parameters, reason) for c, reason in calls}
    return {i: at[id(e)] for i, e in enumerate(_expressions(phase)) if id(e) in at} if at else {}


def warnings(phase: Phase, calls: Swapped) -> list[Diagnostic]:
    """KD0363 for the calls of a phase at these positions, which another phase with the same graph may have given."""
    reporter = Reporter()
    for i, e in enumerate(_expressions(phase) if calls else ()):
        if i in calls and isinstance(e, ir.Call):
            names, reason = calls[i]
            call = _written(e.span)
            if call is None or not _named(call):
                name = e.function.rpartition(":")[2]
                reporter.report("KD0363", e.span, function=name, reason=reason, call=_fixed(call, names))
    return reporter.diagnostics


def _expressions(phase: Phase) -> Iterator[ir.Expr]:
    for root in (phase.loss, *phase.logged.values()):
        yield from ir.walk(root)


def _other(name: str) -> str:
    return name.replace("student", "teacher") if "student" in name else name.replace("teacher", "student")


def _written(span: Span | None) -> ast.Call | None:
    """The call that stands at a location."""
    try:
        clause = parse(Source("", f"def call = {span.text}")).declarations[0].clause("=") if span is not None else None
    except PlanError:
        return None
    call = clause.exprs[0] if clause is not None else None
    return call if isinstance(call, ast.Call) else None


def _is_side(name: str) -> bool:
    return "student" in name or "teacher" in name


def _named(call: ast.Call) -> bool:
    """Whether a call names its student and its teacher."""
    names = {k.name for k in call.keywords if _is_side(k.name)}
    return bool(names) and all(_other(n) in names for n in names)


def _fixed(call: ast.Call | None, names: tuple[str, ...]) -> str:
    """The call with both sides swapped; "" where the text does not say which argument is which.

    >>> call = Source("a.kd", "kd(big.logits, small.logits, temperature = 4)")
    >>> _fixed(_written(Span(call, 0, 45)), ("student", "teacher"))
    'kd(small.logits, big.logits, temperature = 4)'
    """
    if call is None or any(isinstance(a, ast.Comprehension) for a in call.args):
        return ""
    by_name = {**dict(zip(names, call.args, strict=False)), **{k.name: k.value for k in call.keywords}}
    if any(_is_side(n) and _other(n) not in by_name for n in by_name):
        return ""

    def new(name: str, value: ast.Expr) -> ast.Expr:
        return by_name[_other(name)] if _is_side(name) else value

    args = [new(name, a) for name, a in zip(names, call.args, strict=False)] + call.args[len(names) :]
    return write(replace(call, args=args, keywords=[replace(k, value=new(k.name, k.value)) for k in call.keywords]))
