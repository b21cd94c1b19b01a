"""The error where a network is expected and something else stands."""

from __future__ import annotations

import re

from kdplan.constructs.table import KINDS, NAMED_AS_NETWORKS, TRAINS
from kdplan.diagnostics.report import PlanError, error, listing
from kdplan.diagnostics.span import Span
from kdplan.passes.load import Declared, Module
from kdplan.resolve.signals import names_in_of
from kdplan.resolve.values import Applied, Builtin, FunctionValue, NetValue, Value, describe
from kdplan.syntax import ast


def no_network(value: Value, span: Span, module: Module) -> PlanError:
    """KD0250, with what to write where the value comes from a network or is named as a phase is."""
    help = None
    if isinstance(value, NetValue):
        help = f"Write `{value.left_by or value.instance.declared.name}`."
        span = value.span or span
    elif isinstance(value, Applied):
        help = f"Write `{value.net.left_by or value.net.instance.declared.name}`."
    elif isinstance(value, Builtin | FunctionValue):
        help = versions_by(span.text, module)
    return error("KD0250", span, what=describe(value), help=help)


def by_itself(thing: Declared, span: Span, near: str | None) -> PlanError | None:
    """KD0235 for a declaration that reads its own name after `=`; None where the name `near` is meant instead.

    For a network, what to write depends on the phase after `@`: one that trains this network, another one, or none.
    """
    if thing.kind not in NAMED_AS_NETWORKS:
        rename = f"Name the {thing.kind} that it begins from, and not itself." if thing.kind == "recipe" else None
        return None if near else error("KD0235", span, name=thing.name, help=rename)
    after = re.match(r"@(\w+)", span.source.text[span.end : span.end + 100])
    phase = after[1] if after else ""
    trained = _trained_by(phase, thing.module)
    if thing.name in trained:
        version = f"{thing.name}@{phase}"
        help = f"Name an architecture here, and write `{version}` where the weights that `{phase}` leaves are meant."
    elif trained:
        help = f"Did you mean {listing(f'{name}@{phase}' for name in trained)}?"
    elif near and not phase:
        return None
    else:
        help = f"Name an architecture, or a version of another network: `{thing.kind} {thing.name} = other@phase`."
    return error("KD0235", span, name=thing.name, help=help)


def versions_by(phase: str, module: Module) -> str | None:
    """The help for the bare name of a phase: the versions that it makes.

    A phase of its own names what it trains after `of`; one in the body of a network trains that.
    """
    names = _trained_by(phase, module)
    return f"Write {listing(f'{name}@{phase}' for name in names)}." if names else None


def _trained_by(phase: str, module: Module) -> list[str]:
    """The names of the networks that a phase trains, wherever it stands."""
    declared = module.after_at.get(phase)
    names = sorted(names_in_of(declared.node)) if declared is not None and declared.kind in TRAINS else []
    for thing in module.scope.values():
        if isinstance(thing, Declared) and thing.kind in NAMED_AS_NETWORKS and phase in _phases_in(thing.node):
            names.append(thing.name)
    return names


def _phases_in(node: ast.Declaration) -> set[str | None]:
    """The names of the phases in a network's body."""
    inner = [i for i in node.items or [] if isinstance(i, ast.Declaration) and i.kind in TRAINS]
    return {i.name or KINDS[i.kind].default_name for i in inner}
