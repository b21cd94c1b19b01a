"""Measures from numbers that are in the store; missing ones are computed by `kdplan.runtime.measures.compute`.

No torch here: a plan whose numbers are all known shows them at once.
"""

from __future__ import annotations

import math
import re
import statistics
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from kdplan.diagnostics.boundary import boundary
from kdplan.diagnostics.report import Gather, counted
from kdplan.ir.dag import PhaseKey
from kdplan.ir.plan import Item, Measure, Plan, Plot, Row
from kdplan.ir.versions import makers
from kdplan.runtime.claims.paired import cleaned, paired
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.measures.cells import Cell, cell_key, cell_of, snapshots, trained
from kdplan.runtime.measures.labels import described, label_of
from kdplan.runtime.measures.lines import ALL, Line, combined, lines
from kdplan.runtime.measures.results import (
    Curves,
    Drawn,
    Measured,
    MeasureResult,
    Number,
    Panel,
    ResultRow,
    as_measured,
    as_stored,
    pooled,
)
from kdplan.runtime.memory import freed_memory_kept
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store, StoreCorrupt
from kdplan.runtime.versions import Sources

T = TypeVar("T")

Numbers = Mapping[str, Measured]
"""A cell's key -> its number."""


def run_measures(
    plan: Plan,
    keys: Mapping[str, PhaseKey],
    store: Store,
    options: RunOptions | None = None,
    events: Events | None = None,
    repair: Callable[[Path], bool] | None = None,
) -> list[MeasureResult]:
    """All measures of a plan. Each distinct number is computed once, and kept in the store.

    Rows whose phases are not in the store are left out; `events.note` reports them. `events.measured` has each table
    as soon as it is complete. `repair` makes a damaged artifact anew, and says whether it could.

    Raises
    ------
    PlanError
        With what went wrong in any measure, once all others are complete.
    """
    options, events = options or RunOptions(), events or NoEvents()
    sources = Sources(plan, store, keys)
    results, failed = [], Gather()
    for measure in plan.measures.values():
        rows = [row for row in measure.rows if trained(sources, row.target)]
        if len(rows) < len(measure.rows):
            lost = len(measure.rows) - len(rows)
            events.note(f"{measure.name}: {lost} of {counted(len(measure.rows), 'network')} not trained yet")
        if not rows:
            continue
        with failed, boundary("KD0844", measure.span, name=measure.name):
            numbers = repaired(partial(numbers_of, sources, measure, rows, options, events.note), repair)
            result = _table(sources, measure, rows, numbers)
            result.plots = [_curves(sources, measure, p, result, options, events.note) for p in measure.plots]
            events.measured(measure.name, result)
            results.append(result)
    failed.raise_if_failed()
    return results


def repaired(compute: Callable[[], T], repair: Callable[[Path], bool] | None) -> T:
    """The value, computed again after each repair of an artifact that it reads."""
    while True:
        try:
            return compute()
        except StoreCorrupt as damage:
            if repair is None or damage.folder is None or not repair(damage.folder):
                raise


def numbers_of(
    sources: Sources, measure: Measure, rows: Sequence[Row], options: RunOptions, note: Callable[[str], None]
) -> dict[str, Measured]:
    """The numbers of all cells of a measure; missing ones are computed and stored."""
    numbers: dict[str, Measured] = {}
    missing: dict[str, Cell] = {}
    for cell in _cells(sources, measure, rows):
        key = cell_key(sources, cell)
        stored = sources.store.number("measures", key)
        if stored is not None:
            numbers[key] = as_measured(stored["value"])
        else:
            missing[key] = cell
    if missing:
        from kdplan.runtime.measures.compute import measure_cells

        with freed_memory_kept():
            for key, value, together in measure_cells(sources, missing, options, note):
                cell = missing[key]
                versions = ", ".join(str(v) for v in cell.target.versions)
                of = {sources.keys[m].key for v in cell.target.versions for m in makers(sources.plan, v)}
                entry = {"value": as_stored(value), "metric": cell.metric.name, "of": versions, "phases": sorted(of)}
                if together > 1:
                    entry["stack"] = together
                sources.store.keep_number("measures", key, entry)
                numbers[key] = value
    return numbers


def _cells(sources: Sources, measure: Measure, rows: Sequence[Row]) -> Iterator[Cell]:
    for row in (*rows, *(row for row in measure.baseline if trained(sources, row.target))):
        for view in measure.views_of(row):
            for _, target in snapshots(sources.plan, row):
                for metric in measure.metrics:
                    yield cell_of(row, target, view, metric)


def _table(sources: Sources, measure: Measure, rows: Sequence[Row], numbers: Numbers) -> MeasureResult:
    """The table of some rows of a measure."""
    names = [_named(measure, i) for i in range(len(measure.views))]
    result = MeasureResult(measure.name, [label_of(m) for m in measure.metrics], names)
    averaged = [axis for axis in measure.over if axis != measure.verticals]
    result.over = [axis for axis in averaged if any(axis in row.coordinates for row in rows)]
    result.verticals = measure.verticals
    result.by = [str(axis) for axis in measure.by]
    result.baseline = measure.baseline[0].label if measure.baseline else ""
    baseline = Baseline(sources, measure)
    for i, name in enumerate(names):
        for line in lines(measure, rows):
            result.rows.append(_result_row(sources, measure, baseline, line, i, name, numbers))
            on = f" on {name}" if len(names) > 1 else ""
            for metric in measure.metrics:
                result.panels += _panels(sources, measure, line, i, metric, numbers, on)
    return result


def _named(measure: Measure, i: int) -> str:
    """The name of a measure's i-th view; where rows have their own, without coordinates: those are the rows'."""
    name = described(measure.views[i])
    return re.sub(r"\[[^\]]*=[^\]]*\]", "", name) if any(row.views for row in measure.rows) else name


class Baseline:
    """The trained rows of a measure's baseline, by the values of the axes along which it has several."""

    def __init__(self, sources: Sources, measure: Measure) -> None:
        self.sources, self.measure = sources, measure
        rows = [row for row in measure.baseline if trained(sources, row.target)]
        axes = dict.fromkeys(axis for row in measure.baseline for axis in row.coordinates)
        self.axes = [a for a in axes if len({str(row.coordinates.get(a)) for row in measure.baseline}) > 1]
        self.rows: dict[tuple[str, ...], list[Row]] = {}
        for row in rows:
            self.rows.setdefault(self._at(row, self.axes), []).append(row)

    @staticmethod
    def _at(row: Row, axes: Sequence[str]) -> tuple[str, ...]:
        return tuple(str(row.coordinates.get(axis)) for axis in axes)

    def partners(self, row: Row) -> list[Row]:
        """The rows that a row is compared with: at its own values of these axes, and never itself."""
        known = [axis for axis in self.axes if axis in row.coordinates]
        if len(known) == len(self.axes):
            alike = self.rows.get(self._at(row, self.axes), [])
        else:  # the row stands for all values of an axis that it lacks
            every = [other for rows in self.rows.values() for other in rows]
            alike = [other for other in every if self._at(other, known) == self._at(row, known)]
        return [other for other in alike if other.target != row.target]

    def number(self, row: Row, i: int, metric: Item, numbers: Numbers) -> float | None:
        """The mean of a metric on the i-th view over a row's partners; None without any."""
        values = []
        for partner in self.partners(row):
            _, target = next(iter(snapshots(self.sources.plan, partner)))
            view = self.measure.views_of(partner)[i]
            values.append(Number.of([numbers[cell_key(self.sources, cell_of(partner, target, view, metric))]]).mean)
        return statistics.fmean(values) if values else None


def _result_row(
    sources: Sources, measure: Measure, baseline: Baseline, line: Line, i: int, on: str, numbers: Numbers
) -> ResultRow:
    """A line's number of every snapshot and metric on the i-th view, over its runs."""
    values: dict[str, dict[str, list[Measured]]] = {}
    for run in line.runs:
        for metric in measure.metrics:
            for snapshot, several in _of_run(sources, measure, run, i, metric, numbers).items():
                one = combined(metric, several, run)
                values.setdefault(snapshot, {}).setdefault(label_of(metric), []).append(one)
    means = {s: {m: Number.of(v) for m, v in by_metric.items()} for s, by_metric in values.items()}
    for metric in measure.metrics if measure.baseline else ():
        partners = [baseline.number(run[0], i, metric, numbers) for run in line.runs]
        for by_metric in means.values():
            number = by_metric[label_of(metric)]
            pairs = [(v, p) for v, p in zip(number.values, partners, strict=True) if p is not None]
            finite = [v - p for v, p in pairs if math.isfinite(v - p)]
            if finite:
                scale = max(abs(p) for _, p in pairs)
                number.delta = paired(cleaned(finite, scale))
    return ResultRow(line.runs[0][0].label, line.coordinates, means, on)


def _of_run(
    sources: Sources, measure: Measure, run: Sequence[Row], i: int, metric: Item, numbers: Numbers
) -> dict[str, list[Measured]]:
    """Snapshot -> the number of each row of a run."""
    values: dict[str, list[Measured]] = {}
    for row in run:
        view = measure.views_of(row)[i]
        for snapshot, target in snapshots(sources.plan, row):
            values.setdefault(snapshot, []).append(numbers[cell_key(sources, cell_of(row, target, view, metric))])
    return values


def _panels(
    sources: Sources, measure: Measure, line: Line, i: int, metric: Item, numbers: Numbers, on: str
) -> list[Panel]:
    """The plot of a metric that draws one: of all runs where they can be added up, or else of the first."""
    rows = [run[0] for run in line.runs if len(run) == 1]
    cells = [cell_of(row, row.target, measure.views_of(row)[i], metric) for row in rows]
    values = [numbers[cell_key(sources, cell)] for cell in cells]
    plots = [value for value in values if isinstance(value, Drawn)]
    if not plots:
        return []
    first, total = line.runs[0][0], pooled(plots)
    plot = total or plots[0]
    coordinates = line.coordinates if total is not None else first.coordinates
    title = first.label + _listed(coordinates) + on
    return [Panel(title, label_of(metric), plot.kind, plot.data)]


def _curves(
    sources: Sources,
    measure: Measure,
    plot: Plot,
    result: MeasureResult,
    options: RunOptions,
    note: Callable[[str], None],
) -> Curves:
    """The numbers that a plot shows: those of the table, and its baseline's."""
    y = label_of(plot.y)
    curves = Curves(plot.x, y, {}, view=_named(measure, 0), band=plot.band)
    for row in result.rows:
        averaged = plot.x == measure.verticals and row.coordinates.get(plot.x) == ALL
        if row.view == curves.view and plot.x in row.coordinates and not averaged:
            name = row.label + _listed({k: v for k, v in row.coordinates.items() if k != plot.x})
            curves.lines.setdefault(name, []).append((row.coordinates[plot.x], _shown(row)[y]))
    rows = [row for row in plot.baseline if trained(sources, row.target)]
    if rows:
        first = [replace(row, views=row.views[:1]) for row in rows]
        level = replace(measure, rows=first, metrics=[plot.y], views=measure.views[:1], plots=[], by=[], baseline=[])
        for row in _table(sources, level, first, numbers_of(sources, level, first, options, note)).rows:
            curves.levels[row.label + _listed(row.coordinates)] = _shown(row)[y]
    return curves


def _shown(row: ResultRow) -> dict[str, Number]:
    """The numbers of a row that a plot shows: of the last weights, or of the one snapshot that the row names."""
    return row.values["last"] if "last" in row.values else next(iter(row.values.values()))


def _listed(coordinates: Mapping[str, object]) -> str:
    return "".join(f", {axis} = {value}" for axis, value in coordinates.items())
