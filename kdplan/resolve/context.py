"""What one resolution of a plan works with: the plan under construction, coordinates, and what has been made so far."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from kdplan.constructs.table import NAMED_AS_NETWORKS
from kdplan.diagnostics.report import PlanError, Reporter, error
from kdplan.diagnostics.span import Span
from kdplan.ir.cuts import Cut, Layer
from kdplan.ir.plan import Data, Network, Plan
from kdplan.passes.load import Declared, Module
from kdplan.resolve.budget import Budget
from kdplan.resolve.values import DataValue, Lazy, NetInstance, PhaseInstance, Value
from kdplan.syntax import ast

T = TypeVar("T")
Rule = Callable[[Any, "Context", str], Value]
"""Expression, context, what is wanted → value."""


Key = tuple[Declared, *tuple[object, ...]]
"""What is made once: a declaration, and what else it depends on."""


class NeedAxis(Exception):
    """Something reads an axis whose coordinate is not chosen: whoever enumerates instances must fork over it."""

    def __init__(self, axis: Declared) -> None:
        self.axis = axis
        super().__init__(axis.name)


@dataclass
class PhaseFrame:
    """What surrounds an expression inside a phase."""

    name: str
    streams: list[tuple[str, DataValue]]
    trainable: dict[NetInstance, int]
    calls: dict[tuple[int, ...], int] = field(default_factory=dict)
    """Where in the plan a call of a network stands -> its number, from 1."""


@dataclass
class Session:
    """State shared by everything that resolves one plan."""

    reporter: Reporter
    root: Path | None
    describe: Callable[[Data, Span], None]
    """Fills in a data set's classes, shape, sizes and fingerprint."""
    tables: Mapping[str, Mapping[str, Any]]
    rules: Mapping[type[ast.Expr], Rule]
    """How each kind of expression is evaluated: `kdplan.resolve.evaluate.RULES`."""
    cuts: Callable[[Network, Sequence[int]], list[Cut]]
    """Where a network can be cut in two, for images of a shape: given here, since finding it needs torch."""
    layers: Callable[[Network, Sequence[int]], list[Layer]]
    """The values of a network through which everything passes, likewise."""
    plan: Plan = field(default_factory=Plan)
    budget: Budget = field(default_factory=Budget)
    """What may still be made."""
    memo: dict[Key, dict[tuple[Declared, ...], dict[tuple[int, ...], Any]]] = field(default_factory=dict)
    active: dict[Key, Span] = field(default_factory=dict)
    failed: dict[Key, PlanError] = field(default_factory=dict)
    names: dict[str, object] = field(default_factory=dict)
    derived: dict[str, NetInstance] = field(default_factory=dict)
    """Networks that a call made (`merge(…)`), by the name that the call gives them."""
    read: set[Declared] = field(default_factory=set)
    """Params whose values were read."""
    ancestors: dict[tuple[str, Path | None, str], list[list[int]]] = field(default_factory=dict)
    """File of a hierarchy, folder of the plan that names it, and data set -> classes with those above them."""
    construct_spans: dict[str, Span] = field(default_factory=dict)
    """Phases of constructs -> where the construct stands: they are shown together."""

    def count_instance(self, span: Span) -> None:
        """Call this before a network or a phase is made (KD1101)."""
        self.budget.instance(len(self.plan.networks) + len(self.plan.phases), span)


@dataclass
class Context:
    """Where an expression is evaluated: its file, local names, chosen coordinates and surrounding phase."""

    session: Session
    module: Module
    names: dict[str, Value | Lazy] = field(default_factory=dict)
    coords: dict[Declared, int] = field(default_factory=dict)
    reads: set[Declared] = field(default_factory=set)
    phase: PhaseFrame | None = None
    site: tuple[int, ...] = ()
    """The calls of the plan's functions, and the turns of comprehensions, that lead to the expression."""
    exclude: str | None = None
    phases: dict[str, PhaseInstance] = field(default_factory=dict)
    """Phases of the construct that is being lowered, by their names within it."""

    def child(self, **changes: object) -> Context:
        """The same with some fields changed; `dataclasses.replace` takes a tenth of a large plan's time."""
        copy = object.__new__(Context)
        copy.__dict__.update(self.__dict__)
        copy.__dict__.update(changes)
        return copy

    def eval(self, node: ast.Expr, want: str = "signal") -> Value:
        """The value of an expression; `want` names the table of choices that a bare name may come from.

        Raises
        ------
        PlanError
            Where a name, a function or an index does not fit.
        NeedAxis
            Where an axis is read whose coordinate is open.
        """
        budget = self.session.budget
        budget.ticks -= 1
        if budget.ticks < 0:
            budget.look(node.span)
        return self.session.rules[type(node)](node, self, want)

    def in_module(self, module: Module) -> Context:
        """The same, for a declaration of another file: local names and the phase are left behind."""
        return Context(self.session, module, coords=self.coords, reads=self.reads)

    def coordinate(self, axis: Declared) -> int:
        """The chosen index on a param axis; that it was read is written down."""
        if axis not in self.coords:
            raise NeedAxis(axis)
        self.reads.add(axis)
        return self.coords[axis]


def remember(ctx: Context, key: Key, what: str, span: Span, make: Callable[[Context], T]) -> T:
    """`make`, once for each choice of the coordinates that it reads.

    Raises
    ------
    PlanError
        KD0303 where making it needs itself; or the error that it failed with before.
    """
    session = ctx.session
    check_sound(key[0])
    tables = session.memo.setdefault(key, {})
    for axes, rows in tables.items():
        at = tuple(ctx.coords.get(axis, -1) for axis in axes)
        if at in rows:
            ctx.reads.update(axes)
            return rows[at]  # type: ignore[no-any-return]
    if key in session.failed:
        raise session.failed[key]
    if key in session.active:
        raise cycle(session, key, span)
    session.active[key] = span
    inner = ctx.child(reads=set())
    try:
        value = make(inner)
    except PlanError as e:
        session.failed[key] = e
        raise
    finally:
        del session.active[key]
        ctx.reads.update(inner.reads)
    axes = tuple(sorted(inner.reads, key=lambda d: (d.module.source.path, d.node.span.start)))
    tables.setdefault(axes, {})[tuple(ctx.coords[a] for a in axes)] = value
    return value


def check_sound(thing: Declared) -> None:
    """Stop, silently, at a declaration whose form is wrong: that was reported already."""
    if id(thing.node) in thing.module.broken:
        raise PlanError([])


_PLURALS = {
    "phase": "Phases",
    "recipe": "Recipes",
    "def": "Definitions",
    "model": "Models",
    "data": "Data sets",
    "param": "Params",
}


def cycle(session: Session, key: Key, span: Span) -> PlanError:
    """KD0303: what is being made needs itself. Keys begin with a declaration."""
    keys = list(session.active)
    around = [k[0] for k in keys[keys.index(key) :]]
    kinds = {d.kind for d in around}
    names = [d.name for d in around]
    what = _PLURALS.get(kinds.pop(), "Declarations") if len(kinds) == 1 else "Declarations"
    if len(around) == 1:
        help = (
            "Write `self`: in its body the network is not known by its name."
            if around[0].kind in NAMED_AS_NETWORKS
            else None
        )
        return error("KD0235", span, name=names[0], help=help)
    network, at, _ = span.text.partition("@")
    help = None if at else "Remove one of these references."
    return error("KD0303", span, what=what, cycle=" → ".join([*names, names[0]]), network=network, help=help)


def expand(ctx: Context, make: Callable[[Context], T], size: Callable[[Context, Declared], int]) -> Iterator[T]:
    """`make` at every point of the axes that it reads, in the order of their values.

    Raises
    ------
    PlanError
        KD1101 where these are too many.
    """
    waiting: list[tuple[dict[Declared, int], int]] = [(dict(ctx.coords), 1)]
    while waiting:
        coords, times = waiting.pop()
        try:
            value = make(ctx.child(coords=coords, reads=set()))
        except NeedAxis as need:
            count = size(ctx, need.axis)
            ctx.session.budget.points(times * count, need.axis.node.head_span)
            waiting.extend(({**coords, need.axis: i}, times * count) for i in reversed(range(count)))
            continue
        yield value


def pinned(ctx: Context, pins: dict[Declared, int], make: Callable[[Context], T]) -> T:
    """`make` with some coordinates fixed; reading those does not give the reader their axes."""
    inner = ctx.child(coords={**ctx.coords, **pins}, reads=set())
    value = make(inner)
    ctx.reads.update(inner.reads - set(pins))
    return value
