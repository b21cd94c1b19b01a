"""The sizes of batches that are computed from the data's sizes are those that training reads."""

from __future__ import annotations

import itertools

import pytest

from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.view import ViewSpec
from kdplan.ir.lengths import epoch_count, part_sizes, steps_per_epoch
from kdplan.ir.plan import Item, Recipe
from kdplan.runtime.streams import Streams, split


@pytest.mark.parametrize("drop_last", [False, True])
@pytest.mark.parametrize("accumulate", [1, 2, 3])
@pytest.mark.parametrize("sizes", [(41,), (40,), (41, 23), (60, 10), (33, 100)])
def test_parts_are_those_of_the_loop(sizes: tuple[int, ...], accumulate: int, drop_last: bool) -> None:
    batch: int | list[int] = 10 if len(sizes) == 1 else [10, 3]
    recipe = Recipe(Item("sgd"), epochs=4, batch=batch, accumulate=accumulate, drop_last=drop_last)
    loaders = [
        Loader(open_view(ViewSpec("digits", limit=n), None), recipe.batch_of(i) * accumulate, 0, train=True,
               drop_last=drop_last, stream=i)
        for i, n in enumerate(sizes)
    ]  # fmt: skip
    streams = Streams(loaders)
    assert streams.steps == steps_per_epoch(recipe, sizes[0])
    seen = {
        tuple(len(part[f"labels_{i}"]) for i in range(len(sizes)))
        for epoch in range(4)
        for step in streams.epoch(epoch)
        for part in split(step, recipe.batch_of())
    }
    assert part_sizes(recipe, sizes) == seen


def test_a_phase_of_steps_ends_within_an_epoch() -> None:
    for steps, epochs in ((1, 1), (2, 1), (3, 2), (5, 3)):
        assert epoch_count(Recipe(Item("sgd"), steps=steps, batch=50), 100) == epochs
    short = Recipe(Item("sgd"), steps=2, batch=20)
    assert part_sizes(short, [41]) == {(20,)}, "the last batch is never read"
    assert list(itertools.chain(*part_sizes(Recipe(Item("sgd"), steps=3, batch=20), [41]))).count(1) == 1
