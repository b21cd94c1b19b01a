"""Lines of a table: rows that differ in averaged axes are one, verticals have lines of their own and one together."""

from __future__ import annotations

import pytest

from kdplan.ir.expr import Version
from kdplan.ir.plan import Item, Measure, Row, Target
from kdplan.runtime.measures.lines import combined, lines


def rows(verticals: bool) -> list[Row]:
    """Two seeds of two networks, each on two verticals or on all classes."""
    return [
        Row(name, Target([Version(name)]), {"seed": seed} | ({"v": part} if verticals else {}))
        for name in ("a", "b")
        for seed in (0, 1)
        for part in (("x", "y") if verticals else ("",))
    ]


def shown(measure: Measure) -> list[tuple[str, object, int, int]]:
    """Label, vertical, number of runs, rows of a run."""
    table = lines(measure, measure.rows)
    return [(n.runs[0][0].label, n.coordinates.get("v"), len(n.runs), len(n.runs[0])) for n in table]


def test_seeds_are_one_line() -> None:
    assert shown(Measure("t", rows(False), [], [])) == [("a", None, 2, 1), ("b", None, 2, 1)]


def test_equal_rows_are_runs_of_their_own() -> None:
    assert shown(Measure("t", rows(False)[:1] * 3, [], [])) == [("a", None, 3, 1)]


def test_verticals_by_and_over() -> None:
    by = Measure("t", rows(True), [], [], by=["v"], verticals="v")
    one_each = [("a", "x", 2, 1), ("a", "y", 2, 1), ("b", "x", 2, 1), ("b", "y", 2, 1)]
    assert shown(by) == [*one_each, ("a", "all", 2, 2), ("b", "all", 2, 2)]
    over = Measure("t", rows(True), [], [], over=["seed", "v"], verticals="v")
    assert shown(over) == [("a", None, 2, 2), ("b", None, 2, 2)]


@pytest.mark.parametrize(("metric", "value"), [("top1", 3.0), ("parameters", 6.0)])
def test_sizes_add_up_and_scores_are_averaged(metric: str, value: float) -> None:
    one, two = Row("a", Target([Version("a")])), Row("b", Target([Version("b")]))
    assert combined(Item(metric), [2.0, 4.0], [one, two]) == value
    assert combined(Item("parameters"), [2.0, 2.0], [one, one]) == 2.0
