"""The lines of a measure's table: which rows are averaged to one, and how."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass

from kdplan.ir.plan import Item, Measure, Plain, Row
from kdplan.nn.catalog import METRICS
from kdplan.runtime.measures.results import Measured, Number

ALL = "all"
"""The line of a table by verticals that has their mean."""


@dataclass(slots=True)
class Line:
    """One line of a table: coordinates, and the runs whose mean it is.

    A run is one row, or one row for each vertical on the line of all verticals.
    """

    coordinates: dict[str, Plain]
    runs: list[list[Row]]


def lines(measure: Measure, rows: Sequence[Row]) -> list[Line]:
    """The table's lines, in the order of the rows: those that differ only in averaged axes become one line.

    With verticals in `by` the last line is of all of them; with verticals in `over` it is the only one.
    """
    verticals = measure.verticals
    if not verticals:
        return _separate(measure, rows)
    separate = _separate(measure, rows) if verticals in measure.by else []
    return separate + _over_verticals(measure, rows)


def _separate(measure: Measure, rows: Sequence[Row]) -> list[Line]:
    """Lines on which every row is a run of its own."""
    by_name: dict[str, Line] = {}
    for row in rows:
        kept = {k: v for k, v in row.coordinates.items() if k not in measure.over or k == measure.verticals}
        by_name.setdefault(_text([row.label, kept]), Line(kept, [])).runs.append([row])
    return list(by_name.values())


def _over_verticals(measure: Measure, rows: Sequence[Row]) -> list[Line]:
    """Lines on which the rows of all verticals are one run."""
    verticals = measure.verticals
    coordinates: dict[str, dict[str, Plain]] = {}
    runs: dict[str, dict[str, list[Row]]] = {}
    for row in rows:
        kept = {k: v for k, v in row.coordinates.items() if k not in measure.over and k != verticals}
        averaged = {k: v for k, v in row.coordinates.items() if k not in kept and k != verticals}
        kept |= {verticals: ALL} if verticals in measure.by else {}
        name = _text([row.label, kept])
        coordinates.setdefault(name, kept)
        runs.setdefault(name, {}).setdefault(_text(averaged), []).append(row)
    return [Line(coordinates[name], list(several.values())) for name, several in runs.items()]


def _text(value: Plain) -> str:
    return json.dumps(value, sort_keys=True, default=str)


def combined(metric: Item, numbers: Sequence[Measured], run: Sequence[Row]) -> Measured:
    """One number of a run: its only row's; of several verticals their mean, or what all networks have together."""
    if len(numbers) == 1:
        return numbers[0]
    values = [Number.of([n]).mean for n in numbers]
    if metric.name in METRICS and METRICS[metric.name].needs == "network":
        return sum({repr(row.target): v for row, v in zip(run, values, strict=True)}.values())
    return Number.of(values).mean
