"""Which phases may be trained further than they were: those in which nothing reads the total length."""

from __future__ import annotations

from kdplan.ir.dag import Component, PhaseKey
from kdplan.ir.expr import Clock, walk
from kdplan.ir.plan import Phase

_OPEN_ENDED = frozenset({"constant", "steps"})
"""Schedules that are the same however long the phase will be."""


def extendable(phase: Phase) -> bool:
    """Whether a longer run of the phase begins with exactly the steps of a shorter one.

    >>> from kdplan.ir.expr import Const
    >>> from kdplan.ir.plan import Item, Recipe
    >>> cosine = Recipe(Item("sgd"), Item("cosine"), epochs=3)
    >>> extendable(Phase("p", [], [], [cosine], Const(1)))
    False
    """
    if any(r.epochs is None or r.schedule.name not in _OPEN_ENDED for r in phase.recipes):
        return False
    roots = (phase.loss, *phase.logged.values())
    return not any(isinstance(e, Clock) and e.name == "progress" for root in roots for e in walk(root))


def longer(before: PhaseKey, now: PhaseKey) -> tuple[int, int] | None:
    """The two numbers of epochs, if `now` is `before` with more epochs and nothing else changed."""
    old, new = _values(before.components), _values(now.components)
    if old.keys() != new.keys():
        return None
    changed = {path for path, c in new.items() if old[path].value != c.value}
    if not changed or not all(p.startswith("recipe/") and p.endswith("/epochs") for p in changed):
        return None
    lengths = {(int(old[p].value), int(new[p].value)) for p in changed}
    if len(lengths) != 1:
        return None
    first, second = lengths.pop()
    return (first, second) if second > first else None


def _values(components: list[Component]) -> dict[str, Component]:
    return {c.path: c for c in components}
