"""Numbers and declarations as views print them, at the edges that the examples in docstrings leave out."""

from __future__ import annotations

import pytest

from kdplan.ir.dag import SYMBOLS, Cost
from kdplan.ir.plan import Item, Recipe
from kdplan.view import words


@pytest.mark.parametrize(
    ("number", "text"),
    [
        (0, "0"),
        (0.5, "0.50"),
        (999.4, "999"),
        (999.6, "1.00 k"),
        (9_996, "10.0 k"),
        (999_499, "999 k"),
        (999_600, "1.00 M"),
    ],
)
def test_counts_have_three_digits(number: float, text: str) -> None:
    assert words.count(number) == text


@pytest.mark.parametrize(
    ("seconds", "text"), [(59.4, "59 s"), (59.5, "1:00"), (3599.4, "59:59"), (3599.6, "1:00:00"), (86_399.9, "1 d 0 h")]
)
def test_lengths_of_time_are_rounded_before_they_are_split(seconds: float, text: str) -> None:
    assert words.seconds(seconds) == text


def test_recipes_of_steps_and_of_several_batch_sizes() -> None:
    assert words.recipe(Recipe(Item("adam"), steps=1, batch=[64, 448])) == "1 step, adam, batch 64 and 448"


def test_every_action_is_counted_in_one_order() -> None:
    actions = [*reversed(SYMBOLS), "run"]
    expected = "2 to run, 1 cached, 1 to extend, 1 to resume, 1 to rerun, 1 blocked"
    assert words.tally(actions) == expected  # type: ignore[arg-type]
    assert words.tally([]) == "no phases"


def test_totals_have_no_time_where_one_phase_has_none() -> None:
    known, unknown = Cost(1, 1, 10, 3, 0, 0, 5, 2.0), Cost(1, 1, 20, 2, 0, 0, 7)
    assert words.total([known, known, None]) == {"steps": 6, "flops": 60, "disk_bytes": 10, "seconds": 4.0}
    assert words.total([known, unknown])["seconds"] is None


def test_output_to_a_pipe_is_wide() -> None:
    assert words.console().width == 200
