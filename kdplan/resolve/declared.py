"""What a declared name stands for, kind by kind."""

from __future__ import annotations

from collections.abc import Callable

from kdplan.diagnostics.span import Span
from kdplan.passes.load import Declared
from kdplan.resolve import axes
from kdplan.resolve.context import Context, check_sound, cycle
from kdplan.resolve.kinds.data import data_value
from kdplan.resolve.kinds.model import model_value
from kdplan.resolve.kinds.network import network_instance
from kdplan.resolve.kinds.recipe import recipe_value
from kdplan.resolve.kinds.verticals import verticals_value
from kdplan.resolve.spread import iterate
from kdplan.resolve.values import (
    Family,
    FunctionValue,
    Label,
    Lazy,
    NetValue,
    Value,
)
from kdplan.syntax import ast


def value(thing: Declared, span: Span, ctx: Context, want: str) -> Value:
    """The value of a declared name."""
    check_sound(thing)
    rule = _OF_KIND.get(thing.kind)
    if rule is not None:
        return rule(thing, span, ctx)
    if thing.kind in ("param", "def"):
        if thing.node.params is not None:
            return FunctionValue(thing, span)
        make = _param if thing.kind == "param" else _definition
        return _once(thing, span, ctx, lambda: make(thing, ctx, want))
    if thing.slots:
        return Family(thing, None, span)
    return NetValue(network_instance(thing, {}, span, ctx), None, (), span)


_OF_KIND: dict[str, Callable[[Declared, Span, Context], Value]] = {
    "data": data_value,
    "verticals": verticals_value,
    "recipe": recipe_value,
    "model": model_value,
}
"""Kinds with a value of their own kind."""


def _once(thing: Declared, span: Span, ctx: Context, make: Callable[[], Value]) -> Value:
    """`make`, which must not need the declaration's own value.

    Raises
    ------
    PlanError
        KD0303, KD0235 where it does.
    """
    key = (thing, "value")
    active = ctx.session.active
    if key in active:
        raise cycle(ctx.session, key, span)
    active[key] = span
    try:
        return make()
    finally:
        del active[key]


def _param(thing: Declared, ctx: Context, want: str) -> Value:
    ctx.session.read.add(thing)
    if axes.is_axis(thing):
        index = ctx.coordinate(thing)
        item = axes.items(thing, ctx)[index]
        if not isinstance(item, Lazy):
            return item
        return ctx.in_module(item.module).child(exclude=thing.name).eval(item.node, want)
    given = axes.given(thing)
    exclude = thing.name if given.module is thing.module else None
    return ctx.in_module(given.module).child(exclude=exclude).eval(given.node, want)


def _definition(thing: Declared, ctx: Context, want: str) -> Value:
    clause = thing.node.clause("=")
    assert clause is not None
    # no site: a definition has one value, wherever it is read
    return ctx.child(module=thing.module, names={}, exclude=thing.name, site=()).eval(clause.exprs[0], want)


def slot_items(family: Declared, slot: ast.Slot, names: dict[str, Value], ctx: Context) -> list[tuple[Label, Value]]:
    """The members of one slot: how each is shown, and its value."""
    inner = ctx.in_module(family.module).child(names=dict(names))
    members = iterate(inner.eval(slot.values, "any"), slot.values.span)
    return [(axes.label(v, i), v) for i, v in enumerate(members)]
