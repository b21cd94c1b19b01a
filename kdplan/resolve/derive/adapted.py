"""`adapted(…)`: a network with linear maps behind some of its layers."""

from __future__ import annotations

from typing import Any

from kdplan.diagnostics.report import error
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.spec import Spec
from kdplan.resolve.arguments import plain
from kdplan.resolve.code import code_hash
from kdplan.resolve.context import Context
from kdplan.resolve.derive.growth import growth, path_in, shape_of
from kdplan.resolve.values import ListValue, ModelValue, NetValue, describe
from kdplan.syntax import ast


def adapted(spec: Spec, node: ast.Call, ctx: Context) -> ModelValue | NetValue:
    """A model of its own where the plain network is a model, or fresh; else a network that begins with its weights.

    Raises
    ------
    PlanError
        KD0226, KD0230, KD0236, KD0237 for its arguments; KD0244 for values that do not fit.
    """
    call = growth(spec, node, ctx)
    given, first, base = call.given, node.args[0], call.base.item
    settings = dict(base.arguments)
    arguments: dict[str, Any] = {
        "base": [base.name, settings],
        "behind": _paths(given["behind"], first),
        "shape": shape_of(given["shape"], ctx),
    }
    if "entries" in given:
        path, of = _entries(given["entries"], first, ctx)
        arguments["entries"] = [path, of]
        settings["classes"] = len(of)
    return call.result(ADAPTED, arguments, {"base": code_hash(base.name)})


def _paths(node: ast.Expr, base: ast.Expr) -> list[str]:
    items = node.items if isinstance(node, ast.List) else [node]
    paths = []
    for item in items:
        if isinstance(item, ast.Comprehension):
            raise error("KD0251", item.span, what="this")
        paths.append(path_in(item, base))
    return paths


def _entries(node: ast.Expr, base: ast.Expr, ctx: Context) -> tuple[str, list[int]]:
    """`[fc, [0, 1, 1]]`: a layer, and the class of each of its outputs."""
    wants = "a layer, and for each of its outputs the number of a class"
    if not isinstance(node, ast.List) or len(node.items) != 2 or isinstance(node.items[0], ast.Comprehension):
        raise error("KD0244", node.span, what="`entries`", wants=wants, found="another value")
    value = ctx.eval(node.items[1], "any") if not isinstance(node.items[1], ast.Comprehension) else None
    of = plain(value, node.span) if isinstance(value, ListValue) else None
    if not isinstance(of, list) or not of or not all(type(i) is int for i in of) or {*of} != {*range(len({*of}))}:
        raise error("KD0244", node.span, what="`entries`", wants=wants, found=describe(value) if value else "a list")
    return path_in(node.items[0], base), of
