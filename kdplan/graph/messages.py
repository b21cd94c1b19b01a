"""Errors about signals that several steps of the lowering report, and how they name shapes and classes."""

from __future__ import annotations

from kdplan.diagnostics.report import PlanError, error
from kdplan.graph.signals import Signal, shown
from kdplan.ir import expr as ir


def other_classes(a: Signal, b: Signal, e: ir.Call) -> PlanError:
    """KD0503: two signals are over different classes."""

    def words(s: Signal) -> str:
        count = len(s.classes[1]) if s.classes else s.count
        of = f" of {s.classes[0]}" if s.classes else ""
        return f"{s.role if s.role != 'number' else 'numbers'} over {count} classes{of} (`{s.name}`)"

    return error("KD0503", e.span, first=words(a).capitalize(), second=words(b))


def mismatch(e: ir.Op | ir.Call, signals: tuple[Signal, Signal], at: tuple[int, int], differ: str = "") -> PlanError:
    """KD0502: two arguments of `e`, at the positions `at`, have shapes that do not fit together."""
    one, two = (s.shape for s in signals)
    first, second = (_written(e.args[i], s) for i, s in zip(at, signals, strict=True))
    first, second = first or "one side", second or "the other"
    alike = len(one) == len(two) and len(one) in (2, 4)
    fitted, like = (second, first) if not _trained(e.args[at[0]]) and _trained(e.args[at[1]]) else (first, second)
    help = f"Write `fit({fitted}, like = {like})`." if alike and first != second else None
    if differ == "size" and two[2] == two[3]:
        help = f"Write `resize({first}, size = {two[2]})`."
    differ = differ or ("dimensions" if len(one) != len(two) else "channels" if one[1] != two[1] else "size")
    return error("KD0502", e.span, first=first, second=second, one=shown(one), two=shown(two), differ=differ, help=help)


def _trained(node: ir.Expr) -> bool:
    """Whether a signal is of a network that the phase trains: it is the one that an adapter should fit."""
    return any(isinstance(n, ir.Tap) and isinstance(n.of, ir.InTraining) for n in ir.walk(node))


def _written(node: ir.Expr, signal: Signal) -> str:
    return (node.span.text if node.span else "") or signal.name
