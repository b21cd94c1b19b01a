"""The error where a network is expected and something else stands."""

from __future__ import annotations

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


def versions_by(phase: str, module: Module) -> str | None:
    """The help for the bare name of a phase: the versions that it makes.

    A phase of its own names what it trains after `of`; one in the body of a network trains that.
    """
    declared = module.after_at.get(phase)
    names = sorted(names_in_of(declared.node)) if declared is not None and declared.kind in TRAINS else []
    for thing in module.scope.values():
        if isinstance(thing, Declared) and thing.kind in NAMED_AS_NETWORKS and phase in _phases_in(thing.node):
            names.append(thing.name)
    return f"Write {listing(f'{name}@{phase}' for name in names)}." if names else None


def _phases_in(node: ast.Declaration) -> set[str | None]:
    """The names of the phases in a network's body."""
    inner = [i for i in node.items or [] if isinstance(i, ast.Declaration) and i.kind in TRAINS]
    return {i.name or KINDS[i.kind].default_name for i in inner}
