"""`perturbed(…)`: a network whose weights lie at a distance from those that a phase left."""

from __future__ import annotations

from dataclasses import replace

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.plan import Perturbed
from kdplan.ir.spec import Param, Spec
from kdplan.resolve.arguments import bind, check_range
from kdplan.resolve.context import Context
from kdplan.resolve.derive.named import named, part
from kdplan.resolve.signals import family_error, weights
from kdplan.resolve.spread import spread
from kdplan.resolve.values import Family, NetValue, Value, describe
from kdplan.syntax import ast


def perturbed(spec: Spec, node: ast.Call, ctx: Context) -> NetValue:
    """The network that the call means.

    Raises
    ------
    PlanError
        KD0226, KD0230, KD0236, KD0237 for its arguments; KD0243, KD0244 for values that do not fit; KD0250 for what
        is no network.
    """
    given = {param.name: value for param, value in bind(spec, spread(node.args, ctx, "network"), node, ctx)}
    net = _network(given["network"], node, ctx)
    distance, seed = (_number(spec, name, given, node) for name in ("distance", "seed"))
    version = weights(net, ctx)
    assert isinstance(version, ir.Version)
    name = f"perturbed({version}, distance = {distance!r}, seed = {seed!r})"
    origin = Perturbed([version], distance, int(seed))
    network = replace(net.instance.network, name=name, origin=origin, reset=[], span=node.span)
    return named(network, net.instance.declared.module, node.span, ctx)


def _network(value: Value, node: ast.Call, ctx: Context) -> NetValue:
    if isinstance(value, Family):
        raise family_error(value)
    net = part(value, ctx) if isinstance(value, NetValue) else None
    if net is None or net.path:
        raise error("KD0250", value.span or node.span, what=describe(value))
    return net


def _number(spec: Spec, name: str, given: dict[str, Value], node: ast.Call) -> int | float:
    param = spec.param(name)
    assert isinstance(param, Param)
    if name not in given:
        assert isinstance(param.default, int)
        return param.default
    value = given[name]
    span = next((k.value.span for k in node.keywords if k.name == name), value.span or node.span)
    if not isinstance(value, ir.Const):
        what = f"`{name}` of `{spec.name}`"
        raise error("KD0244", span, what=what, wants="a number", found=describe(value))
    check_range(param, value, span, f"`{name}` of `{spec.name}`")
    assert isinstance(value.value, int | float)
    return value.value
