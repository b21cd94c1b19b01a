"""`branched(…)`: a network whose part from one place on is there several times."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.branches import BRANCHED, PARTS
from kdplan.ir.plan import Copied, Item, Network
from kdplan.ir.spec import Spec
from kdplan.passes.apply import weights
from kdplan.passes.arithmetic import check_range, check_required, integer, plain, too_many, unknown_parameter
from kdplan.passes.derived import named, part
from kdplan.passes.session import Context
from kdplan.passes.settings import item as as_item
from kdplan.passes.values import ModelValue, NetValue, Value
from kdplan.syntax import ast

Hash = Callable[[Path], str]


def branched(
    spec: Spec, node: ast.Call, ctx: Context, model: Callable[[Value, ast.Expr, Context], ModelValue], file_hash: Hash
) -> ModelValue | NetValue:
    """A model of its own where the plain network is a model, or fresh; else a network that begins with its weights.

    Raises
    ------
    PlanError
        KD0226, KD0230, KD0236, KD0237 for its arguments; KD0243, KD0244 for values that do not fit.
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
    fresh = net is not None and net.version is None and net.instance.fresh and not net.path
    if net is not None and net.path:
        raise error("KD0250", first.span, what=f"`{first.span.text}`")
    base = base_of(net, found, first, ctx, model)
    gate = as_item("gate", ctx.eval(given["gate"], "gate"), given["gate"], "gate", ctx) if "gate" in given else None
    count = ir.Const(integer(ctx.eval(given["count"], "any"), given["count"].span)) if "count" in given else None
    param = spec.param("count")
    assert param is not None
    if count is not None:
        check_range(param, count, given["count"].span, "`count`, the number of branches,")
    gate = gate or Item("gate")
    arguments: dict[str, Any] = {
        "base": [base.item.name, base.item.arguments],
        "at": place(given["from"], first),
        "count": count.value if count is not None else param.default,
        "gate": [gate.name, gate.arguments],
        "shape": shape_of(given["shape"], ctx),
    }
    made = ModelValue(Item(BRANCHED, arguments, span=node.span), base.classes, base.code, node.span)
    made.codes = {p: h for p in PARTS if (h := code_hash(arguments[p][0], file_hash))}
    made.spans = {"from": given["from"].span} | ({"gate": given["gate"].span} if "gate" in given else {})
    if net is None:
        return made
    if fresh:
        made.seed = net.instance.network.seed
        return made
    version = weights(net, ctx)
    assert isinstance(version, ir.Version)
    text = ", ".join(f"{k} = {v}" for k, v in arguments.items() if k != "base")
    network = Network(f"branched({version}, {text})", made.item, classes=made.classes, span=node.span)
    network.origin, network.codes, network.spans = Copied(version, grown=True), made.codes, made.spans
    network.code = code_of(made.codes)
    return named(network, net.instance.declared.module, node.span, ctx)


def code_of(codes: dict[str, str]) -> str | None:
    """One hash of a network's own code, given that of each of its parts."""
    return hashlib.sha256(repr(sorted(codes.items())).encode()).hexdigest() if codes else None


def code_hash(factory: str, file_hash: Hash) -> str | None:
    """The hash of the user's file that a factory is in, if it is in one."""
    where, _, _ = factory.rpartition(":")
    return file_hash(Path(where)) if where.endswith(".py") else None


def base_of(
    net: NetValue | None,
    found: Value,
    node: ast.Expr,
    ctx: Context,
    model: Callable[[Value, ast.Expr, Context], ModelValue],
) -> ModelValue:
    """The plain network's architecture."""
    if net is None:
        return model(found, node, ctx)
    network = net.instance.network
    return ModelValue(network.architecture, network.classes, None, node.span)


def place(node: ast.Expr, base: ast.Expr) -> str:
    """`layer3`, `net.layer3`, `layers[2]`: where branches begin, as a path within the network that `base` means."""
    words: list[str] = []
    e = node
    while isinstance(e, ast.Attr) or (isinstance(e, ast.Pick) and len(e.picks) == 1):
        if isinstance(e, ast.Attr):
            words.append(e.word)
        else:
            key = e.picks[0]
            if not isinstance(key, ast.Number | ast.String):
                raise error("KD0251", node.span, what="this")
            words.append(str(key.value))
        e = e.base
    if not isinstance(e, ast.Name):
        raise error("KD0251", node.span, what="this")
    while isinstance(base, ast.Call | ast.Version | ast.Pick | ast.Attr):
        base = base.function if isinstance(base, ast.Call) else base.base
    named_again = isinstance(base, ast.Name) and base.name == e.name and words
    return ".".join(reversed(words if named_again else [*words, e.name]))


def shape_of(node: ast.Expr, ctx: Context) -> list[int]:
    """Channels, height and width of images, as a setting gives them."""
    value = plain(ctx.eval(node, "any"), node.span)
    fits = isinstance(value, list) and all(isinstance(v, int) and not isinstance(v, bool) and v > 0 for v in value)
    if not fits or not value:
        raise error("KD0244", node.span, what="`shape`", wants="channels, height and width", found=node.span.text)
    return list(value)
