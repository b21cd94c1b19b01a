"""Functions of plans: parts of networks, networks made of networks, seeds, class sets, records."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.plan import ClassSet
from kdplan.ir.seed import fold
from kdplan.ir.spec import Spec
from kdplan.passes.load import Module
from kdplan.resolve.arguments import plain, too_many, unknown_parameter
from kdplan.resolve.arithmetic import integer
from kdplan.resolve.context import Context
from kdplan.resolve.derive.adapted import adapted
from kdplan.resolve.derive.branched import branched
from kdplan.resolve.derive.combined import from_networks
from kdplan.resolve.derive.perturbed import perturbed
from kdplan.resolve.signals import signal
from kdplan.resolve.spread import spread
from kdplan.resolve.values import (
    Applied,
    Case,
    ClassesValue,
    ListValue,
    NetValue,
    Part,
    Several,
    Value,
    VerticalsValue,
    describe,
)
from kdplan.syntax import ast


def plan_function(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    """The value of a call of a function of plans: `fold`, `upto`, `merge`, `branched` …"""
    return _FUNCTIONS[spec.name](spec, node, ctx)


def _case(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    if node.args:
        raise error("KD0227", node.args[0].span, function="case")
    return Case({k.name: ctx.eval(k.value, "any") for k in node.keywords}, node.span)


def _values(spec: Spec, node: ast.Call, ctx: Context) -> list[Value]:
    """The arguments' values, of which there must be one (KD0237)."""
    values = spread(node.args, ctx, "network" if spec.params[0].type == "network" else "any")
    if not values:
        raise error("KD0237", node.span, function=spec.name, name=spec.params[0].name)
    return values


def _fold(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    first, *rest = _values(spec, node, ctx)
    seed = integer(first, node.args[0].span)
    return ir.Const(fold(seed, *[plain(v, node.span) for v in rest]), span=node.span)


def _combined(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    return from_networks(spec.name, _values(spec, node, ctx), node, ctx)


def _union(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    values = _values(spec, node, ctx)
    sets = [v for v in values if isinstance(v, ClassesValue)]
    other = next((v for v in values if not isinstance(v, ClassesValue) or v.data.name != sets[0].data.name), None)
    if other is not None:
        raise error("KD0249", other.span or node.span, wants="class sets of one data set", found=describe(other))
    ids = sorted({i for s in sets for i in s.classes.ids})
    return ClassesValue(ClassSet(sets[0].data.name, ids), sets[0].data, node.span)


def _count(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    return ir.Const(_size(_values(spec, node, ctx)), span=node.span)


def _size(values: list[Value]) -> int:
    """How many classes, verticals or items there are."""
    one = values[0]
    if len(values) == 1 and isinstance(one, ClassesValue):
        return len(one.classes.ids)
    if len(values) == 1 and isinstance(one, VerticalsValue):
        return len(one.parts)
    if len(values) == 1 and isinstance(one, ListValue | Several):
        return len(one.items)
    return len(values)


def _upto(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    if not node.args:
        raise error("KD0237", node.span, function="upto", name="tap")
    nets: list[NetValue] = []
    for arg, net in [(a, v) for a in node.args for v in spread([a], ctx, "network")]:
        if not isinstance(net, NetValue) or not net.path:
            raise error("KD0251", arg.span, what=describe(net))
        if nets and (net.instance is not nets[0].instance or str(net.version) != str(nets[0].version)):
            raise error("KD0254", arg.span, name=nets[0].instance.declared.name)
        nets.append(net)
    since: list[str] = []
    for keyword in node.keywords:
        if keyword.name != "from":
            raise unknown_parameter(keyword, "`upto`", ["from"])
        taps = keyword.value.items if isinstance(keyword.value, ast.List) else [keyword.value]
        since = [_tap_path(tap, nets[0].instance.declared.name, ctx.module) for tap in taps]
    return Part(nets, since, node.span)


def _through(spec: Spec, node: ast.Call, ctx: Context) -> Value:
    """A tap whose network is entered at another tap."""
    names = ["x", "tap", "from"]
    given = dict(zip(names, node.args, strict=False))
    if len(node.args) > 2:
        raise too_many(node.args[2].span, "`through`", names)
    for k in node.keywords:
        if k.name not in names or k.name in given:
            raise unknown_parameter(k, "`through`", names, given=k.name in given)
        given[k.name] = k.value
    for name in names:
        if name not in given:
            raise error("KD0237", node.span, function="through", name=name)
    x = signal(ctx.eval(given["x"]), ctx)
    net = ctx.eval(given["tap"], "network")
    if not isinstance(net, NetValue) or not net.path:
        raise error("KD0251", given["tap"].span, what=describe(net))
    since = _tap_path(given["from"], net.instance.declared.name, ctx.module)
    return Applied(replace(net, path=()), [x], net.path, node.span, (id(node), *ctx.site), since)


def _tap_path(node: ast.Expr, network: str, module: Module) -> str:
    """`layer1`, `small.layer1`, `common.small.layer1` or `small.fpn["0"]` as a path within the network."""
    words: list[str] = []
    e = node
    while isinstance(e, ast.Attr | ast.Pick | ast.Version):
        if isinstance(e, ast.Attr):
            words.append(e.word)
        elif isinstance(e, ast.Pick) and len(e.picks) == 1 and isinstance(e.picks[0], ast.String | ast.Number):
            words.append(str(e.picks[0].value))
        elif isinstance(e, ast.Pick) and words:
            pass  # an index of the network, not of a tap
        elif not isinstance(e, ast.Version):
            break
        e = e.base
    if not isinstance(e, ast.Name):
        raise error("KD0251", node.span, what="this")
    words.append(e.name)
    words.reverse()
    return ".".join(words[_naming(words, network, module) :])


def _naming(words: list[str], network: str, module: Module) -> int:
    """How many words of a tap name the network and the files that it is in: none where the path stands alone."""
    for i, word in enumerate(words[:-1]):
        if word == network:
            return i + 1
        inner = module.scope.get(word)
        if not isinstance(inner, Module):
            break
        module = inner
    return 0


_FUNCTIONS: dict[str, Callable[[Spec, ast.Call, Context], Value]] = {
    "case": _case,
    "upto": _upto,
    "through": _through,
    "fold": _fold,
    "union": _union,
    "count": _count,
    "perturbed": perturbed,
    "branched": branched,
    "adapted": adapted,
    "merge": _combined,
    "average": _combined,
    "ema": _combined,
    "ensemble": _combined,
}
"""One rule for each row of `kdplan.ir.functions.PLAN_FUNCTIONS`."""
