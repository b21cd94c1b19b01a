"""Networks that an expression makes of others (`merge(…)`), one for equal expressions; branches of networks."""

from __future__ import annotations

from dataclasses import replace

from kdplan.diagnostics.report import error, listing
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.branches import BRANCH, branches, split
from kdplan.ir.origins import Copied
from kdplan.ir.plan import Item, Network
from kdplan.passes.load import Declared, Module
from kdplan.resolve.context import Context
from kdplan.resolve.signals import check_indexed, fixed_weights
from kdplan.resolve.values import ListValue, NetInstance, NetValue, Several, Value, describe
from kdplan.syntax import ast


def named(network: Network, module: Module, span: Span, ctx: Context) -> NetValue:
    """A network by the name that says how it is made."""
    ctx.session.plan.networks.setdefault(network.name, network)
    carrier = Declared(_declaration(span, network.name), module)
    instance = NetInstance(carrier, network, {}, as_declared=ir.Version(network.name, None), fresh=False)
    same = ctx.session.derived.setdefault(instance.name, instance)
    return NetValue(same, ir.Version(network.name, None), (), span)


def _declaration(span: Span, name: str) -> ast.Declaration:
    return ast.Declaration(span, "derived", span, name, span, None, None, [], [], None, None, span)


# ---- branches


def part(net: NetValue, ctx: Context) -> NetValue:
    """`one.branch[0]` as a network of its own: the plain network with the weights of that branch; others as they are.

    `one.gated` is what `one` itself gives.
    """
    network = net.instance.network
    check_indexed(net, ".".join(net.path), net.span)
    inside, rest = split(network, ".".join(net.path))
    path = tuple(rest.split(".")) if rest else ()
    if not inside:
        return replace(net, path=path)
    version = fixed_weights(net, ctx)
    index = int(inside.partition(".")[2])
    factory, arguments = network.architecture.arguments["base"]
    plain = Network(
        f"branch({version}, {index})",
        Item(factory, dict(arguments), span=net.span),
        network.role,
        network.classes,
        origin=Copied(version, index),
        code=network.codes.get("base"),
        span=network.span,
    )
    branch = named(plain, net.instance.declared.module, net.span, ctx)
    return replace(branch, path=path, coordinates=net.coordinates)


def is_branches(value: Value) -> bool:
    """Whether a value is `one.branch`, which takes an index."""
    return isinstance(value, NetValue) and value.path == (BRANCH,) and branches(value.instance.network) > 0


def pick_branch(base: NetValue, p: ast.Expr, node: ast.Pick, ctx: Context) -> Value:
    """`one.branch[0]`, `one.branch[*]`, `one.branch[1..2]`.

    Raises
    ------
    PlanError
        KD0402 where there is no such branch.
    """
    count = branches(base.instance.network)

    def one(index: int) -> NetValue:
        coordinates = {**base.coordinates, BRANCH: index}
        return replace(base, path=(BRANCH, str(index)), span=node.span, coordinates=coordinates)

    if isinstance(p, ast.Coordinate) and p.name != BRANCH:
        raise error("KD0409", p.span, name=p.name, family=node.base.span.text, help=f"Write `{BRANCH}`.")
    if isinstance(p, ast.All) or (isinstance(p, ast.Coordinate) and isinstance(p.value, ast.All)):
        return Several([one(i) for i in range(count)], node.span)
    pick = p.value if isinstance(p, ast.Coordinate) else p
    value = ctx.eval(pick, "any")
    many = isinstance(value, ListValue | Several)
    picked: list[NetValue] = []
    for v in value.items if isinstance(value, ListValue | Several) else [value]:
        index = v.value if isinstance(v, ir.Const) else None
        if not isinstance(index, int) or isinstance(index, bool):
            raise error("KD0244", pick.span, what="the number of a branch", wants="an integer", found=describe(v))
        if not 0 <= index < count:
            raise error("KD0402", pick.span, text=node.span.text, name=node.base.span.text,
                        known=listing([str(i) for i in range(count)]))  # fmt: skip
        picked.append(one(index))
    return Several([*picked], node.span) if many else picked[0]
