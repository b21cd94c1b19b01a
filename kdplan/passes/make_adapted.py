"""`adapted(…)`: a network with linear maps behind some of its layers."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.plan import Copied, Item, Network
from kdplan.ir.spec import Spec
from kdplan.passes.apply import weights
from kdplan.passes.arithmetic import check_required, plain, too_many, unknown_parameter
from kdplan.passes.derived import named, part
from kdplan.passes.make_branched import base_of, code_hash, code_of, place, shape_of
from kdplan.passes.session import Context
from kdplan.passes.values import ListValue, ModelValue, NetValue, Value, describe
from kdplan.syntax import ast


def adapted(
    spec: Spec,
    node: ast.Call,
    ctx: Context,
    model: Callable[[Value, ast.Expr, Context], ModelValue],
    file_hash: Callable[[Path], str],
) -> ModelValue | NetValue:
    """A model of its own where the plain network is a model, or fresh; else a network that begins with its weights.

    Raises
    ------
    PlanError
        KD0226, KD0230, KD0236, KD0237 for its arguments; KD0244 for values that do not fit.
    """
    names = [p.name for p in spec.params]
    if len(node.args) > 1:
        raise too_many(node.args[1].span, f"`{spec.name}`", names)
    given: dict[str, ast.Expr] = {}
    for k in node.keywords:
        if k.name not in names[1:] or k.name in given:
            raise unknown_parameter(k, f"`{spec.name}`", names, given=k.name in given)
        given[k.name] = k.value
    check_required(spec, {*given, *names[: len(node.args)]}, node.span)
    first = node.args[0]
    found = ctx.eval(first, "model")
    net = part(found, ctx) if isinstance(found, NetValue) else None
    if net is not None and net.path:
        raise error("KD0250", first.span, what=f"`{first.span.text}`")
    fresh = net is not None and net.version is None and net.instance.fresh
    base = base_of(net, found, first, ctx, model)
    settings = dict(base.item.arguments)
    arguments: dict[str, Any] = {
        "base": [base.item.name, settings],
        "behind": _places(given["behind"], first),
        "shape": shape_of(given["shape"], ctx),
    }
    if "entries" in given:
        path, of = _entries(given["entries"], first, ctx)
        arguments["entries"] = [path, of]
        settings["classes"] = len(of)
    made = ModelValue(Item(ADAPTED, arguments, span=node.span), base.classes, base.code, node.span)
    code = code_hash(base.item.name, file_hash)
    made.codes = {"base": code} if code else {}
    if net is None:
        return made
    if fresh:
        made.seed = net.instance.network.seed
        return made
    version = weights(net, ctx)
    assert isinstance(version, ir.Version)
    text = ", ".join(f"{k} = {v}" for k, v in arguments.items() if k != "base")
    network = Network(f"adapted({version}, {text})", made.item, classes=made.classes, span=node.span)
    network.origin, network.codes = Copied(version, grown=True), made.codes
    network.code = code_of(made.codes)
    return named(network, net.instance.declared.module, node.span, ctx)


def _places(node: ast.Expr, base: ast.Expr) -> list[str]:
    items = node.items if isinstance(node, ast.List) else [node]
    found = []
    for item in items:
        if isinstance(item, ast.Comprehension):
            raise error("KD0251", item.span, what="this")
        found.append(place(item, base))
    return found


def _entries(node: ast.Expr, base: ast.Expr, ctx: Context) -> tuple[str, list[int]]:
    """`[fc, [0, 1, 1]]`: a layer, and the class of each of its outputs."""
    wants = "a layer, and for each of its outputs the number of a class"
    if not isinstance(node, ast.List) or len(node.items) != 2 or isinstance(node.items[0], ast.Comprehension):
        raise error("KD0244", node.span, what="`entries`", wants=wants, found="something else")
    value = ctx.eval(node.items[1], "any") if not isinstance(node.items[1], ast.Comprehension) else None
    of = plain(value, node.span) if isinstance(value, ListValue) else None
    if not isinstance(of, list) or not of or not all(type(i) is int for i in of) or {*of} != {*range(max(of) + 1)}:
        raise error("KD0244", node.span, what="`entries`", wants=wants, found=describe(value) if value else "a list")
    return place(node.items[0], base), of
