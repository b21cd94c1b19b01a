"""`branched(…)`: a network whose part from one tap on is there several times."""

from __future__ import annotations

from typing import Any

from kdplan.ir import expr as ir
from kdplan.ir.branches import BRANCHED, PARTS
from kdplan.ir.plan import Item
from kdplan.ir.spec import Spec
from kdplan.resolve.arguments import check_range
from kdplan.resolve.arithmetic import integer
from kdplan.resolve.code import code_hash
from kdplan.resolve.context import Context
from kdplan.resolve.derive.growth import growth, path_in, shape_of
from kdplan.resolve.setting_values import item as as_item
from kdplan.resolve.values import ModelValue, NetValue
from kdplan.syntax import ast


def branched(spec: Spec, node: ast.Call, ctx: Context) -> ModelValue | NetValue:
    """A model of its own where the plain network is a model, or fresh; else a network that begins with its weights.

    Raises
    ------
    PlanError
        KD0226, KD0230, KD0236, KD0237 for its arguments; KD0243, KD0244 for values that do not fit.
    """
    call = growth(spec, node, ctx)
    given = call.given
    gate = as_item("gate", ctx.eval(given["gate"], "gate"), given["gate"], "gate", ctx) if "gate" in given else None
    gate = gate or Item("gate")
    arguments: dict[str, Any] = {
        "base": [call.base.item.name, call.base.item.arguments],
        "at": path_in(given["from"], node.args[0]),
        "count": _count(spec, given, ctx),
        "gate": [gate.name, gate.arguments],
        "shape": shape_of(given["shape"], ctx),
    }
    codes = {p: code_hash(arguments[p][0]) for p in PARTS}
    return call.result(BRANCHED, arguments, codes, {k: given[k].span for k in ("from", "gate") if k in given})


def _count(spec: Spec, given: dict[str, ast.Expr], ctx: Context) -> int:
    param = spec.param("count")
    assert param is not None
    if "count" not in given:
        assert isinstance(param.default, int)
        return param.default
    count = integer(ctx.eval(given["count"], "any"), given["count"].span)
    check_range(param, ir.Const(count), given["count"].span, "`count`, the number of branches,")
    return count
