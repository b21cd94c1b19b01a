"""How long phases are, and which may be trained further than they were."""

from __future__ import annotations

import math
from collections.abc import Sequence

from kdplan.ir.dag import Component, PhaseKey
from kdplan.ir.expr import StepCounter, walk
from kdplan.ir.optimizers import SCHEDULES
from kdplan.ir.plan import Phase, Plan, Recipe, View

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


def steps_per_epoch(recipe: Recipe, size: int, stream: int = 0) -> int:
    """Steps in which a stream of `size` samples is read once.

    >>> from kdplan.ir.plan import Item
    >>> [steps_per_epoch(Recipe(Item("sgd"), batch=64, drop_last=d), 100) for d in (False, True)]
    [2, 1]
    """
    batch = recipe.batch_of(stream) * recipe.accumulate
    return size // batch if recipe.drop_last else -(-size // batch)


def step_count(plan: Plan, phase: Phase) -> int:
    """Optimizer steps of a phase; for a plateau schedule the most that it may take."""
    return _steps(phase.recipes[0], view_size(plan, phase.streams[0]))


def _steps(recipe: Recipe, size: int) -> int:
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    return recipe.epochs * steps_per_epoch(recipe, size)


def epoch_count(recipe: Recipe, size: int) -> int:
    """Epochs that a phase ends, the last one perhaps early, where its first stream has `size` samples.

    >>> from kdplan.ir.plan import Item
    >>> epoch_count(Recipe(Item("sgd"), steps=5, batch=50), 100)
    3
    """
    return -(-_steps(recipe, size) // max(1, steps_per_epoch(recipe, size)))


def part_sizes(recipe: Recipe, sizes: Sequence[int]) -> set[tuple[int, ...]]:
    """How many samples of each stream the loss may be computed on at once, where the streams have `sizes` samples.

    A step reads `accumulate` batches at once and cuts them into parts; the last step of an epoch may have fewer.

    >>> from kdplan.ir.plan import Item
    >>> sorted(part_sizes(Recipe(Item("sgd"), batch=20, accumulate=2, epochs=1), [101]))
    [(1,), (20,)]
    >>> sorted(part_sizes(Recipe(Item("sgd"), batch=[20, 10], epochs=1), [40, 15]))
    [(20, 5), (20, 10)]
    """
    streams = range(len(sizes))
    per_epoch = [max(1, steps_per_epoch(recipe, size, i)) for i, size in enumerate(sizes)]
    batches = [recipe.batch_of(i) * recipe.accumulate for i in streams]
    parts: set[tuple[int, ...]] = set()
    for at in _positions(_steps(recipe, sizes[0]), per_epoch):
        step = [min(batches[i], sizes[i] - at[i] * batches[i]) for i in streams]
        count = -(-step[0] // recipe.batch_of())
        for part in range(count):
            first = min(recipe.batch_of(), step[0] - part * recipe.batch_of())
            parts |= _shard_sizes((first, *(n // count + (part < n % count) for n in step[1:])), recipe.shards)
    return parts


def _shard_sizes(part: tuple[int, ...], shards: int) -> set[tuple[int, ...]]:
    """How many samples of each stream the shards of a part have.

    >>> sorted(_shard_sizes((10, 9), 4))
    [(2, 2), (3, 2), (3, 3)]
    >>> sorted(_shard_sizes((2, 9), 4))
    [(1, 4), (1, 5)]
    """
    count = max(1, min(shards, part[0]))
    return {tuple(n // count + (shard < n % count) for n in part) for shard in range(count)}


def _positions(total: int, per_epoch: Sequence[int]) -> set[tuple[int, ...]]:
    """Where in their epochs the streams are at the steps that differ: all but the last step of an epoch are alike."""
    positions = set()
    for step in range(min(total, math.lcm(*per_epoch), _MOST)):
        at = [step % n for n in per_epoch]
        positions.add(tuple(p if p == n - 1 else 0 for p, n in zip(at, per_epoch, strict=True)))
    return positions


_MOST = 1 << 20
"""Steps that are looked at: streams of other lengths meet in all ways long before."""


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
