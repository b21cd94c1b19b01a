"""Names in values of `--set` that mean nothing: what the param itself is says what may be written."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdplan.constructs.table import NAMED_AS_NETWORKS
from kdplan.diagnostics.report import PlanError, error, suggestion
from kdplan.diagnostics.span import Span
from kdplan.ir.functions import FUNCTIONS
from kdplan.passes.load import Declared, Module
from kdplan.syntax import ast

SET = "--set "
"""How the source of such a value is called, before the param's name."""


def literal_type(value: ast.Expr | None) -> str:
    """The type of a value as it is written; "" where that is no number, string or boolean."""
    if isinstance(value, ast.Negate):
        return literal_type(value.operand)
    if isinstance(value, ast.Name):
        return "a boolean" if value.name in ("true", "false") else ""
    return "a number" if isinstance(value, ast.Number) else "a string" if isinstance(value, ast.String) else ""


def not_given(name: str, span: Span, module: Module, tables: Mapping[str, Mapping[str, Any]]) -> PlanError | None:
    """The error for a name in a value of `--set` that means nothing; None for any other name.

    KD0244 where the param is a number, a string or a boolean, else KD0205, with names of the kind that the param has.
    """
    if not span.source.path.startswith(SET):
        return None
    param = span.source.path.removeprefix(SET)
    value = Span(span.source, span.source.text.index("=") + 2, len(span.source.text))
    if value.text.startswith("["):
        value = span
    own = next((_own(declared.node) for declared in module.param(param)), None)
    wants = literal_type(own)
    if wants:
        string = wants == "a string"
        wants += " in double quotes" if string else ""
        help = f"Write `--set '{param}=\"{value.text}\"'`." if string else None
        help = None if value is span else help
        return error("KD0244", value, what=f"`{param}`", wants=wants, found=f"`{value.text}`", help=help)
    known = _alike(own, module, tables) if isinstance(own, ast.Name) else list(module.scope)
    return error("KD0205", span, name=name, help=suggestion(name, known) if isinstance(own, ast.Name) else None)


def _own(param: ast.Declaration) -> ast.Expr | None:
    """The value that a param is declared with, or the first of its values."""
    clause = param.clause("=") or param.clause("in")
    value = clause.exprs[0] if clause else None
    return value.items[0] if isinstance(value, ast.List) and value.items else value


def _alike(own: ast.Name, module: Module, tables: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The names of the same kind as a param's own: declarations of that kind, functions with the same kind of result,
    or the rows of a table."""
    declared = module.scope.get(own.name)
    if isinstance(declared, Declared):
        kinds = NAMED_AS_NETWORKS if declared.kind in NAMED_AS_NETWORKS else (declared.kind,)
        return [n for n, d in module.scope.items() if isinstance(d, Declared) and d.kind in kinds]
    if own.name in FUNCTIONS:
        return [n for n, spec in FUNCTIONS.items() if spec.result == FUNCTIONS[own.name].result]
    return sorted({n for table in tables.values() if own.name in table for n in table})
