"""Constructs: what their declarations lower to, resolved in a scope of their own."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kdplan.diagnostics.report import Gather, error
from kdplan.diagnostics.span import Span
from kdplan.ir.cuts import Cut
from kdplan.ir.kinds import KINDS
from kdplan.lower import Ask, stages
from kdplan.passes import make_phase, settings
from kdplan.passes.load import Declared
from kdplan.passes.make_data import unique_name
from kdplan.passes.session import Context, remember
from kdplan.passes.values import ConstructInstance, DataValue, NetValue, Value, describe
from kdplan.syntax import ast

LOWERINGS: dict[str, Callable[[ast.Declaration, Ask], list[ast.Declaration]]] = {"stages": stages.lower}


def instance(thing: Declared, bound: dict[str, tuple[Any, Value]], span: Span, ctx: Context) -> ConstructInstance:
    """What one member of a construct lowers to, made once; its phases are entered into the plan."""
    key = (thing, thing.name, tuple(repr(label) for label, _ in bound.values()))

    def build(inner: Context) -> ConstructInstance:
        before: frozenset[Declared] | None = None
        while before != frozenset(inner.reads):  # names show every axis that any of the phases reads
            before = frozenset(inner.reads)
            made = _make(thing, bound, inner)
        for phase in made.phases.values():
            inner.session.plan.phases[phase.name] = phase.phase
            inner.session.places[phase.name] = thing.node.head_span
            phase.phase.construct = phase.name.rpartition("@")[0]
        return made

    return remember(ctx.in_module(thing.module), key, thing.kind, span, build)


def _make(thing: Declared, bound: dict[str, tuple[Any, Value]], ctx: Context) -> ConstructInstance:
    local = ctx.child(names={**ctx.names, **{n: v for n, (_, v) in bound.items()}})
    lowered = LOWERINGS[thing.kind](thing.node, _Asked(thing.node, local))
    made = ConstructInstance(thing, unique_name(thing, thing.name, ctx), {})
    gather = Gather()
    for node in lowered:
        if gather.failed:
            break  # what goes on from a phase that cannot be made fails with it
        with gather:
            inner = Declared(node, thing.module)
            inside = local.child(phases=dict(made.phases))
            made.phases[inner.name] = make_phase.make(inner, bound, None, inside, made.name)
    gather.raise_if_failed()
    return made


@dataclass
class _Asked:
    """The answers to a construct's questions, at one point of the axes."""

    node: ast.Declaration
    ctx: Context

    def setting(self, name: str) -> Any:
        spec = KINDS[self.node.kind].setting(name)
        assert spec is not None, name
        for item in self.node.items or []:
            if isinstance(item, ast.Setting) and item.name == name:
                return settings.read(spec, item.value, self.ctx)
        return None

    def cuts(self, network: ast.Expr) -> list[Cut]:
        found = self.ctx.eval(network, "network")
        if not isinstance(found, NetValue) or found.path:
            raise error("KD0250", network.span, what=describe(found))
        on = self.node.clause("on")
        assert on is not None
        data = self.ctx.eval(on.exprs[0], "any")
        if not isinstance(data, DataValue):
            raise error("KD0244", on.exprs[0].span, what="what stands after `on`", wants="data", found=describe(data))
        if data.data.shape is None:
            raise error("KD0514", on.exprs[0].span, name=data.data.name)
        return self.ctx.session.cuts(found.instance.network, data.data.shape)
