"""Constructs: what their declarations lower to, resolved in a scope of their own."""

from __future__ import annotations

from kdplan.constructs.table import CONSTRUCTS
from kdplan.diagnostics.report import Gather
from kdplan.diagnostics.span import Span
from kdplan.ir.kinds import NETWORKS
from kdplan.passes.load import Declared
from kdplan.resolve.answers import Answers
from kdplan.resolve.context import Context, Session, remember
from kdplan.resolve.kinds.data import unique_name
from kdplan.resolve.kinds.network import network_of_construct
from kdplan.resolve.kinds.phase import make_phase
from kdplan.resolve.values import Bound, ConstructInstance, NetValue


def construct_instance(thing: Declared, bound: Bound, span: Span, ctx: Context) -> ConstructInstance:
    """What one member of a construct lowers to, made once; its phases are entered into the plan."""
    key = (thing, thing.name, tuple(repr(label) for label, _ in bound.values()))

    def build(inner: Context) -> ConstructInstance:
        construct, before = None, None
        while before != frozenset(inner.reads):  # names show every axis that any of the phases reads
            if construct is not None:
                _forget(construct, inner.session)
            before = frozenset(inner.reads)
            construct = _make(thing, bound, inner)
        assert construct is not None
        for net in construct.networks.values():
            inner.session.plan.networks[net.name] = net.network
        for phase in construct.phases.values():
            inner.session.plan.phases[phase.name] = phase.phase
            inner.session.construct_spans[phase.name] = thing.node.head_span
            phase.phase.construct = phase.name.rpartition("@")[0]
        return construct

    return remember(ctx.in_module(thing.module), key, thing.kind, span, build)


def _forget(construct: ConstructInstance, session: Session) -> None:
    """Remove what calls have made of a construct's networks that are called otherwise now."""
    networks = session.plan.networks
    gone = {net.name for net in construct.networks.values()} | {p.name for p in construct.phases.values()}
    for name in [n for n in networks if n in session.derived]:
        if any(v.network in gone or v.phase in gone for v in networks[name].origin.parents()):
            del networks[name], session.derived[name]
            gone.add(name)


def _make(thing: Declared, bound: Bound, ctx: Context) -> ConstructInstance:
    lower = CONSTRUCTS[thing.kind].phases
    assert lower is not None
    local = ctx.child(names={**ctx.names, **{n: v for n, (_, v) in bound.items()}})
    lowered = lower(thing.node, Answers(thing.node, local))
    construct = ConstructInstance(thing, unique_name(thing, thing.name, ctx), {})
    gather = Gather()
    for node in lowered:
        if gather.failed:
            break  # what goes on from a phase that cannot be made fails with it
        with gather:
            inner = Declared(node, thing.module)
            inside = local.child(phases=dict(construct.phases))
            if node.kind in NETWORKS:
                _network(inner, bound, construct, inside)
                continue
            construct.phases[inner.name] = make_phase(inner, bound, None, inside, construct.name)
    gather.raise_if_failed()
    return construct


def _network(inner: Declared, bound: Bound, construct: ConstructInstance, ctx: Context) -> None:
    """A network of a construct, which later declarations know by its name; a student stands for the one after `of`."""
    of = construct.declared.node.clause("of")
    net = network_of_construct(inner, bound, construct.name, ctx)
    if inner.kind == "student" and of is not None:
        base = ctx.eval(of.exprs[0], "network")
        if isinstance(base, NetValue):
            net.stands_for = base.instance
    construct.networks[inner.name] = net
    ctx.names[inner.name] = NetValue(net, None, (), inner.node.head_span)
