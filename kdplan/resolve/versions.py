"""Versions `N@P`, and members of families of networks or phases."""

from __future__ import annotations

from dataclasses import replace

from kdplan.constructs.table import LADDERS, TRAINS
from kdplan.diagnostics.report import PlanError, error, listing, suggestion
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.origins import EmaOf
from kdplan.ir.versions import read_versions
from kdplan.passes.load import Declared
from kdplan.resolve.context import Context
from kdplan.resolve.expected import no_network
from kdplan.resolve.kinds.construct import construct_instance
from kdplan.resolve.kinds.network import network_instance
from kdplan.resolve.kinds.phase import phase_instance
from kdplan.resolve.signals import phases_that_train
from kdplan.resolve.values import (
    Bound,
    Family,
    NetInstance,
    NetValue,
    PhaseInstance,
    Routing,
    Several,
    Value,
)
from kdplan.syntax import ast


def member(family: Family, bound: Bound, span: Span, ctx: Context) -> Value:
    """One member of a family of networks, or a network as one member of a family of phases left it."""
    if family.declared.kind in TRAINS:
        assert family.net is not None
        return left_by(family.net, family.declared, bound, span, ctx)
    instance = network_instance(family.declared, bound, span, ctx)
    return NetValue(instance, None, (), span, {n: label for n, (label, _) in bound.items()})


def version(base: Value, node: ast.Version, ctx: Context) -> Value:
    """`base@phase`.

    Raises
    ------
    PlanError
        KD0302 where no such phase trains the network.
    """
    if isinstance(base, Several):
        return Several([version(b, node, ctx) for b in base.items], node.span)
    if isinstance(base, Routing):
        return Routing(base.part_of, [version(b, node, ctx) for b in base.items], node.span)
    if not isinstance(base, NetValue):
        if isinstance(base, Family):
            raise error(
                "KD0401", base.span, name=base.declared.name, slots=listing(s.name for s in base.declared.slots)
            )
        raise no_network(base, node.base.span, ctx.module)
    instance = base.instance
    if node.phase == "init":
        return NetValue(
            instance, ir.Version(instance.name, None, span=node.span), base.path, node.span, base.coordinates
        )
    inner = base.construct.phases if base.construct is not None else ctx.phases
    if base.construct is not None and node.phase in base.construct.networks:
        network = base.construct.networks[node.phase]
        if _stood_for(network) is _stood_for(instance):
            written = f"{base.left_by}@{node.phase}"
            return NetValue(network, network.as_declared, base.path, node.span, base.coordinates, written)
    own = instance.phases.get(node.phase) if base.construct is None else None
    own = own or inner.get(node.phase)
    if own is not None:
        if instance not in own.trained:
            base = replace(base, instance=_stood_for(instance))
        return _trained_by(base, own, node.span, node.phase)
    if base.construct is not None:
        raise _no_such_stage(base, node)
    declared = ctx.module.after_at.get(node.phase) or instance.declared.module.after_at.get(node.phase)
    if declared is None or declared.kind not in TRAINS:
        raise _no_such_phase(base, node, ctx)
    if declared.node.slots:
        return Family(declared, base, node.span)
    return left_by(base, declared, {}, node.span, ctx)


def _stood_for(instance: NetInstance) -> NetInstance:
    """The network as it was declared, of which this one is another form."""
    while instance.stands_for is not None:
        instance = instance.stands_for
    return instance


def left_by(base: NetValue, declared: Declared, bound: Bound, span: Span, ctx: Context) -> Value:
    """A network as a phase or ladder left it.

    Raises
    ------
    PlanError
        KD0307 where the phase does not train the network.
    """
    if declared.kind in LADDERS:
        construct = construct_instance(declared, bound, span, ctx)
        trainable = [p for p in construct.phases.values() if base.instance in p.trained]
        net = _trained_by(base, (trainable or [*construct.phases.values()])[-1], span, declared.name)
        net.construct = construct
    else:
        net = _trained_by(base, phase_instance(declared, bound, None, span, ctx), span, declared.name)
    net.coordinates.update({n: label for n, (label, _) in bound.items()})
    return net


def _trained_by(base: NetValue, phase: PhaseInstance, span: Span, word: str) -> NetValue:
    slot = phase.trained.get(base.instance)
    origin = base.instance.network.origin
    if slot is None and isinstance(origin, EmaOf) and _is_ema_of(base.instance.name, origin, phase):
        slot = -1  # an EMA copy is no trainee
    if slot is None:
        names = listing(n.declared.name for n in phase.trained)
        raise error("KD0307", span, phase=phase.name, name=base.instance.name, trainees=names)
    network = phase.phase.trainees[slot].base.network if slot >= 0 else base.instance.name
    trained = ir.Version(network, phase.name, span=span)
    written = f"{base.left_by or base.instance.declared.name}@{word}"
    forms = [
        n for n in phase.trained if n.name == network and n.network.architecture != base.instance.network.architecture
    ]
    return NetValue(
        forms[0] if forms else base.instance,
        trained,
        base.path,
        span,
        {**base.coordinates, **phase.coordinates},
        written,
    )


def _no_such_stage(base: NetValue, node: ast.Version) -> Exception:
    assert base.construct is not None
    known = [*base.construct.phases]
    help = suggestion(node.phase, known)
    return error("KD0302", node.phase_span, phase=node.phase, name=f"{base.left_by}", help=help)


def _is_ema_of(network: str, origin: EmaOf, phase: PhaseInstance) -> bool:
    """Whether a moving average is read in a phase that trains the network which it averages."""
    trained = any(m.base.network == origin.network for m in phase.phase.trainees)
    return trained and any(v.network == network and v.phase is None for v in read_versions(phase.phase))


def _no_such_phase(base: NetValue, node: ast.Version, ctx: Context) -> Exception:
    name = base.instance.declared.name
    if ctx.module.knows_of(node.phase):
        return PlanError([])
    phases = [*base.instance.phases, *phases_that_train(name, ctx)]
    help = suggestion(node.phase, phases) or f"Write `{name}@init` for its initial weights."
    return error("KD0302", node.phase_span, phase=node.phase, name=name, help=help)
