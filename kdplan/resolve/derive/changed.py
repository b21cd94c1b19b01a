"""Networks whose weights are those of one version, changed by numbers: `perturbed(…)`."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.origins import Origin
from kdplan.ir.spec import Param, Spec
from kdplan.resolve.arguments import bind, check_range
from kdplan.resolve.context import Context
from kdplan.resolve.derive.named import named, part
from kdplan.resolve.expected import no_network
from kdplan.resolve.signals import family_error, fixed_weights
from kdplan.resolve.spread import spread
from kdplan.resolve.values import Family, NetValue, Value, describe
from kdplan.syntax import ast

Number = int | float


def changed(
    spec: Spec, node: ast.Call, ctx: Context, origin: Callable[[ir.Version, Mapping[str, Number]], Origin]
) -> NetValue:
    """The network that a call means: the architecture of its first argument with an origin of its own.

    Parameters
    ----------
    spec
        The function's row: a network first, then numbers.
    origin
        From the version and the numbers by name to where the weights come from.

    Raises
    ------
    PlanError
        KD0226, KD0230, KD0236, KD0237 for its arguments; KD0243, KD0244 for values that do not fit; KD0250 for what
        is no network.
    """
    first, *rest = spec.params
    given = {param.name: value for param, value in bind(spec, spread(node.args, ctx, "network"), node, ctx)}
    net = _network(given[first.name], node, ctx)
    numbers = {param.name: _number(spec, param, given, node) for param in rest}
    version = fixed_weights(net, ctx)
    name = f"{spec.name}({', '.join([str(version), *(f'{n} = {v!r}' for n, v in numbers.items())])})"
    start = origin(version, numbers)
    network = replace(net.instance.network, name=name, origin=start, reset=[], span=node.span)
    return named(network, net.instance.declared.module, node.span, ctx)


def _network(value: Value, node: ast.Call, ctx: Context) -> NetValue:
    if isinstance(value, Family):
        raise family_error(value)
    net = part(value, ctx) if isinstance(value, NetValue) else None
    if net is None or net.path:
        raise no_network(value, value.span or node.span, ctx.module)
    return net


def _number(spec: Spec, param: Param, given: dict[str, Value], node: ast.Call) -> Number:
    if param.name not in given:
        assert isinstance(param.default, int | float)
        return param.default
    value = given[param.name]
    span = next((k.value.span for k in node.keywords if k.name == param.name), value.span or node.span)
    what = f"`{param.name}` of `{spec.name}`"
    if not isinstance(value, ir.Const):
        raise error("KD0244", span, what=what, wants="a number", found=describe(value))
    check_range(param, value, span, what)
    assert isinstance(value.value, int | float)
    return value.value
