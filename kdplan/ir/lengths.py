"""How long phases are, and which may be trained further than they were."""

from __future__ import annotations

from kdplan.ir.dag import Component, PhaseKey
from kdplan.ir.expr import StepCounter, walk
from kdplan.ir.optimizers import SCHEDULES
from kdplan.ir.plan import Phase, Plan, View

_OPEN_ENDED = frozenset(name for name, spec in SCHEDULES.items() if not (spec.reads_length or spec.reads_loss))
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
    return not any(isinstance(e, StepCounter) and e.name == "progress" for root in roots for e in walk(root))


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


def step_count(plan: Plan, phase: Phase) -> int:
    """Optimizer steps of a phase; for a plateau schedule the most that it may take."""
    recipe = phase.recipes[0]
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    batches = -(-view_size(plan, phase.streams[0]) // recipe.batch_of())
    return recipe.epochs * -(-batches // recipe.accumulate)


def view_size(plan: Plan, view: View) -> int:
    """Samples of a view, to within rounding of class subsets."""
    data = plan.data[view.data]
    size = data.sizes.get(view.split, 0)
    if view.split == "train":
        size = round(size * data.fraction)
    if data.limit is not None and view.split == "train":
        size = min(size, data.limit)
    if view.classes is not None and data.classes:
        size = round(size * len(view.classes.ids) / len(data.classes))
    return size
