"""Networks of several: `merge(…)`, `average(…)`, `ema(…)`, `ensemble(…)`."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Any, Literal, cast

from kdplan.diagnostics.report import error
from kdplan.ir import expr as ir
from kdplan.ir.functions import PLAN_FUNCTIONS
from kdplan.ir.origins import ENSEMBLE, Averaged, EmaOf, Ensembled, Joined, Merged
from kdplan.ir.plan import ClassSet, Item, Network
from kdplan.resolve.arguments import check_range, chosen, unknown_parameter
from kdplan.resolve.context import Context
from kdplan.resolve.derive.named import named, part
from kdplan.resolve.expected import no_network
from kdplan.resolve.kinds.model import outputs, over
from kdplan.resolve.signals import family_error, fixed_weights
from kdplan.resolve.values import Family, NetValue, Value
from kdplan.syntax import ast

_DECAY = next(p for p in PLAN_FUNCTIONS["ema"].params if p.name == "decay")


def from_networks(function: str, values: list[Value], node: ast.Call, ctx: Context) -> NetValue:
    """`merge(a@p, b@q)`, `average(…)`, `ema(n, decay)`, `ensemble(…)`: a network that is named by the call itself.

    Raises
    ------
    PlanError
        KD0253 where the networks differ in architecture; KD0274 where an ensemble's differ in classes.
    """
    nets: list[NetValue] = []
    for v in values:
        if isinstance(v, Family):
            raise family_error(v)
        if isinstance(v, NetValue):
            v = part(v, ctx)
        if not isinstance(v, NetValue) or v.path:
            raise no_network(v, v.span or node.span, ctx.module)
        nets.append(v)
    if function == "ensemble":
        return _ensemble(nets, node, ctx)
    first = nets[0].instance.network
    for net in nets[1:]:
        other = net.instance.network
        if (other.architecture.name, other.architecture.arguments) != (
            first.architecture.name,
            first.architecture.arguments,
        ):
            raise error("KD0253", net.span, function=function, first=nets[0].span.text, second=net.span.text)
    if function == "ema":
        decay = 0.999
        for k in node.keywords:
            value = ctx.eval(k.value, "any")
            if k.name != "decay" or not isinstance(value, ir.Const) or not isinstance(value.value, int | float):
                raise error(
                    "KD0230",
                    k.name_span,
                    function="`ema`",
                    name=k.name,
                    help="Write `decay = 0.999`, a number from 0 to 1.",
                )
            check_range(_DECAY, value, value.span or k.value.span, "`decay` of `ema`")
            decay = float(value.value)
        origin: Any = EmaOf(nets[0].instance.name, decay)
        name = f"ema({nets[0].instance.name}, decay = {decay!r})"
    else:
        versions = [fixed_weights(n, ctx) for n in nets]
        origin = Merged(versions) if function == "merge" else Averaged(versions)
        name = f"{function}({', '.join(map(str, versions))})"
    network = Network(name, first.architecture, first.role, first.classes, first.seed, origin, code=first.code)
    combined = named(network, nets[0].instance.declared.module, node.span, ctx)
    if function == "merge" and len({id(n.instance) for n in nets}) == 1:
        combined.instance.stands_for = nets[0].instance
    return combined


def _ensemble(nets: list[NetValue], node: ast.Call, ctx: Context) -> NetValue:
    """A network whose architecture holds those of its members, and whose weights are theirs.

    Raises
    ------
    PlanError
        KD0274 where members are over different classes.
    """
    mean, stacked = _joined(node, ctx)
    if stacked:
        return _stacked(nets, node, ctx)
    sets = _class_sets(nets, ctx)
    orders: list[list[int] | None] = []
    for net, own in zip(nets, sets, strict=True):
        first = sets[0]
        if own is not None and first is not None:
            fits = own.data == first.data and sorted(own.ids) == sorted(first.ids)
        else:
            sizes = {outputs(n.instance.network, ctx) for n in (nets[0], net)}
            fits = None in sizes or len(sizes) == 1
        if not fits:
            one, two = (over(n.instance.network, ctx) for n in (nets[0], net))
            raise error("KD0274", net.span if len(node.args) > 1 else node.span, first=nets[0].instance.name, one=one,
                        second=net.instance.name, two=two,
                        why="an ensemble averages scores of the same classes")  # fmt: skip
        known = own is not None and first is not None and own.ids != first.ids
        orders.append([own.ids.index(c) for c in first.ids] if known and own and first else None)
    return _of_members(nets, mean, orders if any(orders) else None, sets[0], node, ctx)


def _stacked(nets: list[NetValue], node: ast.Call, ctx: Context) -> NetValue:
    """An ensemble whose scores are its members' side by side, in the data's order: of a class of several the largest.

    Raises
    ------
    PlanError
        KD0274 where members do not say their classes, or are over those of several data sets.
    """
    first = nets[0].instance.network
    for net in nets:
        own = net.instance.network.classes
        if own is None or first.classes is None or own.data != first.classes.data:
            raise error("KD0274", net.span if len(node.args) > 1 else node.span, first=nets[0].instance.name,
                        one=over(first, ctx), second=net.instance.name, two=over(net.instance.network, ctx),
                        why="scores are concatenated by the classes of one data set")  # fmt: skip
    every = [c for n in nets if n.instance.network.classes is not None for c in n.instance.network.classes.ids]
    classes = ClassSet(first.classes.data if first.classes else "", sorted(set(every)))
    columns = [[i for i, c in enumerate(every) if c == k] for k in classes.ids]
    return _of_members(nets, "stacked", columns, classes, node, ctx)


def _of_members(
    nets: list[NetValue],
    mean: Joined,
    orders: Sequence[list[int] | None] | None,
    classes: ClassSet | None,
    node: ast.Call,
    ctx: Context,
) -> NetValue:
    versions = [fixed_weights(n, ctx) for n in nets]
    members = [[n.instance.network.architecture.name, n.instance.network.architecture.arguments] for n in nets]
    codes = [n.instance.network.code for n in nets]
    item = Item(ENSEMBLE, {"members": members, "mean": mean, "orders": orders}, span=node.span)
    name = f"ensemble({', '.join(map(str, versions))}, mean = {mean})"
    network = Network(name, item, classes=classes, origin=Ensembled(versions, mean), span=node.span)
    if any(codes):
        network.code = hashlib.sha256(repr(codes).encode()).hexdigest()
    return named(network, nets[0].instance.declared.module, node.span, ctx)


def _class_sets(nets: list[NetValue], ctx: Context) -> list[ClassSet | None]:
    """What each member's logits are over. One that does not say it is over all classes of the data set that another
    names, where it has as many, and else over that other one's classes."""
    known = next((c for n in nets if (c := n.instance.network.classes) is not None), None)
    if known is None:
        return [None] * len(nets)
    count = len(ctx.session.plan.data[known.data].classes)
    class_sets: list[ClassSet | None] = []
    for net in nets:
        size = outputs(net.instance.network, ctx)
        every = ClassSet(known.data, list(range(count))) if size == count else None
        same = known if size in (None, len(known.ids)) else None
        class_sets.append(net.instance.network.classes or every or same)
    return class_sets


def _joined(node: ast.Call, ctx: Context) -> tuple[Literal["probabilities", "logits"], bool]:
    """Of what an ensemble's mean is taken, and whether none is: scores then stand side by side."""
    params = {p.name: p for p in PLAN_FUNCTIONS["ensemble"].params if p.choices}
    settings = {name: p.default for name, p in params.items()}
    for k in node.keywords:
        if k.name not in params:
            raise unknown_parameter(k, "`ensemble`", [*params])
        settings[k.name] = chosen(params[k.name], k.value, ctx).value
    return cast(Literal["probabilities", "logits"], settings["mean"]), settings["join"] == "concat"
