"""Measures from numbers that are in the store; what is missing is measured by `kdplan.runtime.measures.compute`.

No torch here: a plan whose numbers are all known shows them at once.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from kdplan.ir.dag import PhaseKey
from kdplan.ir.expr import Version
from kdplan.ir.plan import (
    Averaged,
    Copied,
    Ensembled,
    Fresh,
    Item,
    Loaded,
    Measure,
    Merged,
    Perturbed,
    Plan,
    Plot,
    Row,
    Target,
    View,
)
from kdplan.ir.versions import makers, slot_of
from kdplan.nn.catalog import METRICS
from kdplan.runtime.events import Events, NoEvents
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
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources

ALL = "all"
"""The line of a table by verticals that tells their mean."""
REVISION = 1
"""Raised whenever a metric, or how networks are run for it, gives other numbers."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number to be known: a metric of a target on a view."""

    target: Target
    view: View
    metric: Item
    cut: bool = False
    """The view is a part of what was asked for: scores are cut to its classes."""


def run_measures(
    plan: Plan,
    keys: Mapping[str, PhaseKey],
    store: Store,
    options: RunOptions | None = None,
    events: Events | None = None,
) -> list[MeasureResult]:
    """All measures of a plan. Each distinct number is measured once, and kept in the store.

    Rows whose phases are not in the store are left out; `events.note` says so.

    Raises
    ------
    PlanError
        KD0840 if a metric does not fit what it shall measure.
    """
    options, events = options or RunOptions(), events or NoEvents()
    sources = Sources(plan, store, keys)
    results = []
    for measure in plan.measures.values():
        rows = [row for row in measure.rows if _trained(sources, row.target)]
        if len(rows) < len(measure.rows):
            lost = len(measure.rows) - len(rows)
            events.note(f"Measure {measure.name}: {lost} of {len(measure.rows)} rows have no weights yet.")
        if not rows:
            continue
        numbers = _numbers(sources, measure, rows, options)
        result = _table(sources, measure, rows, numbers)
        result.plots = [_curves(sources, measure, p, result, options) for p in measure.plots]
        events.measured(measure.name, result)
        results.append(result)
    return results


def _trained(sources: Sources, target: Target) -> bool:
    phases = [name for v in target.versions for name in makers(sources.plan, v)]
    return all(sources.store.has(sources.keys[name].key) for name in phases)


def _numbers(sources: Sources, measure: Measure, rows: list[Row], options: RunOptions) -> dict[str, Measured]:
    """Key -> number, for every cell of a measure."""
    numbers: dict[str, Measured] = {}
    missing: dict[str, Cell] = {}
    for row in rows:
        for view in measure.views:
            for _, target in snapshots(sources.plan, row):
                for metric in measure.metrics:
                    cell = cell_of(row, target, view, metric)
                    key = cell_key(sources, cell)
                    found = sources.store.number("measures", key)
                    if found is not None:
                        numbers[key] = as_measured(found["value"])
                    else:
                        missing[key] = cell
    if missing:
        from kdplan.runtime.measures.compute import measure_cells

        with freed_memory_kept():
            for key, value in measure_cells(sources, missing, options):
                cell = missing[key]
                versions = ", ".join(str(v) for v in cell.target.versions)
                sources.store.keep_number(
                    "measures", key, {"value": as_stored(value), "metric": cell.metric.name, "of": versions}
                )
                numbers[key] = value
    return numbers


def snapshots(plan: Plan, row: Row) -> Iterator[tuple[str, Target]]:
    """A row's target as it was last, and as it was best where a phase chose that; one that names a snapshot stands
    alone, and counts as the last where the snapshot is a coordinate of the row."""
    target = row.target
    named = {v.snapshot for v in target.versions}
    name = named.pop() if len(named) == 1 else "last"
    yield ("last" if name.partition("=")[0] in row.coordinates else name), target
    phases = [plan.phases[v.phase] if v.phase is not None else None for v in target.versions]
    if all(v.snapshot == "last" for v in target.versions) and all(p is not None and p.validations for p in phases):
        yield "best", replace(target, versions=[replace(v, snapshot="best") for v in target.versions])


def cell_of(row: Row, target: Target, view: View, metric: Item) -> Cell:
    """What a metric of a row's target is measured on: a view, or the row's part of it."""
    if row.classes is None:
        return Cell(target, view, metric)
    return Cell(target, replace(view, classes=row.classes), metric, cut=True)


def _lines(measure: Measure, rows: list[Row]) -> list[tuple[dict[str, Any], list[list[Row]]]]:
    """The table's lines: coordinates, and runs, each of the rows whose mean it is.

    Rows that differ only in averaged axes become one line. With verticals there is a line of all of them: a run then
    has one row for each.
    """
    lines: dict[str, tuple[dict[str, Any], dict[str, list[Row]]]] = {}
    whole = measure.verticals
    for every in (False, True) if whole else (False,):
        if whole and not every and whole not in measure.by:
            continue
        for number, row in enumerate(rows):
            kept = {k: v for k, v in row.coordinates.items() if k not in measure.over or (k == whole and not every)}
            run = {k: v for k, v in row.coordinates.items() if k not in kept}
            if every:
                kept.pop(whole, None)
                run.pop(whole, None)
                if whole in measure.by:
                    kept[whole] = ALL
            else:
                run["row"] = number  # equal rows stay runs of their own
            at, which = (json.dumps(v, sort_keys=True, default=str) for v in ([row.label, kept], run))
            lines.setdefault(at, (kept, {}))[1].setdefault(which, []).append(row)
    return [(kept, list(runs.values())) for kept, runs in lines.values()]


def _together(metric: Item, numbers: list[Measured], rows: list[Row]) -> Measured:
    """One number of a run: its only row's; of several verticals their mean, or what all networks have together."""
    if len(numbers) == 1:
        return numbers[0]
    values = [Number.of([n]).mean for n in numbers]
    if metric.name in METRICS and METRICS[metric.name].needs == "network":
        return sum({repr(row.target): v for row, v in zip(rows, values, strict=True)}.values())
    return Number.of(values).mean


def _table(sources: Sources, measure: Measure, rows: list[Row], numbers: dict[str, Measured]) -> MeasureResult:
    """Rows that differ only in averaged axes become one."""
    result = MeasureResult(measure.name, [label_of(m) for m in measure.metrics], [described(v) for v in measure.views])
    averaged = [axis for axis in measure.over if axis != measure.verticals]
    result.over = [axis for axis in averaged if any(axis in row.coordinates for row in rows)]
    result.verticals = measure.verticals
    result.by = [str(axis) for axis in measure.by]
    for view in measure.views:
        for kept, runs in _lines(measure, rows):
            values: dict[str, dict[str, list[Measured]]] = {}
            drawn: dict[str, list[Drawn]] = {}
            first = runs[0][0]
            for run, metric in product(runs, measure.metrics):
                found: dict[str, list[Measured]] = {}
                for row in run:
                    for snapshot, target in snapshots(sources.plan, row):
                        number = numbers[cell_key(sources, cell_of(row, target, view, metric))]
                        found.setdefault(snapshot, []).append(number)
                        if isinstance(number, Drawn) and target is row.target and len(run) == 1:
                            drawn.setdefault(label_of(metric), []).append(number)
                for snapshot, several in found.items():
                    together = _together(metric, several, run)
                    values.setdefault(snapshot, {}).setdefault(label_of(metric), []).append(together)
            for label, plots in drawn.items():
                one = pooled(plots)
                shown = kept if one is not None else first.coordinates
                one = one or plots[0]
                title = first.label + "".join(f", {k} = {v}" for k, v in shown.items())
                title += f" on {described(view)}" if len(measure.views) > 1 else ""
                result.panels.append(Panel(title, label, one.kind, one.data))
            filled = {s: {m: Number.of(v) for m, v in found.items()} for s, found in values.items()}
            result.rows.append(ResultRow(first.label, kept, filled, described(view)))
    return result


def _curves(sources: Sources, measure: Measure, plot: Plot, result: MeasureResult, options: RunOptions) -> Curves:
    """The numbers that a plot shows: those of the table, and its baseline's."""
    y = label_of(plot.y)
    curves = Curves(plot.x, y, {}, view=described(measure.views[0]))
    for row in result.rows:
        averaged = plot.x == measure.verticals and row.coordinates.get(plot.x) == ALL
        if row.view == curves.view and plot.x in row.coordinates and not averaged and y in row.values.get("last", {}):
            rest = "".join(f", {k} = {v}" for k, v in row.coordinates.items() if k != plot.x)
            point = (row.coordinates[plot.x], row.values["last"][y])
            curves.lines.setdefault(row.label + rest, []).append(point)
    rows = [row for row in plot.baseline if _trained(sources, row.target)]
    if rows:
        level = replace(measure, rows=rows, metrics=[plot.y], views=measure.views[:1], plots=[], by=[])
        for row in _table(sources, level, rows, _numbers(sources, level, rows, options)).rows:
            rest = "".join(f", {k} = {v}" for k, v in row.coordinates.items())
            curves.levels[row.label + rest] = row.values["last"][y]
    return curves


def label_of(metric: Item) -> str:
    """A metric as tables name it.

    >>> label_of(Item("topk", {"k": 3})), label_of(Item("top1"))
    ('topk(k = 3)', 'top1')
    >>> label_of(Item("siblings", {"groups": [[0, 1], [2, 3]]}))
    'siblings(groups = 2 parts #72b5)'
    """
    settings = ", ".join(f"{name} = {_short(value)}" for name, value in metric.arguments.items())
    return f"{metric.name}({settings})" if settings else metric.name


def _short(value: Any) -> str:
    """A setting's value; of a partition of classes the number of its parts, and a word that tells it from others."""
    if isinstance(value, list) and all(isinstance(part, list) for part in value):
        return f"{len(value)} parts #{hashlib.sha256(json.dumps(value).encode()).hexdigest()[:4]}"
    return str(value)


def described(view: View) -> str:
    """How messages and tables call a view: `digits.test`, `cifar[animals].train`.

    >>> described(View("digits", "test"))
    'digits.test'
    """
    part = f"[{view.classes.label or len(view.classes.ids)}]" if view.classes is not None else ""
    return f"{view.data}{part}.{'unlabelled' if view.unlabelled else view.split}"


def cell_key(sources: Sources, cell: Cell) -> str:
    """A hash of everything that the number depends on; names are no part of it."""
    content: list[Any] = [
        REVISION,
        cell.target.join,
        cell.target.path,
        [_version(sources, v) for v in cell.target.versions],
        _view(sources.plan, cell.view),
        [cell.metric.name, cell.metric.arguments],
    ]
    if cell.metric.name in METRICS and METRICS[cell.metric.name].needs == "transfer":
        content.append(_view(sources.plan, replace(cell.view, split="train")))
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()[:40]


def _version(sources: Sources, version: Version) -> list[Any]:
    network = sources.plan.networks[version.network]
    classes = network.classes.ids if network.classes is not None else None
    if version.phase is not None:
        return [sources.keys[version.phase].key, slot_of(sources.plan, version), version.snapshot, classes]
    item = network.architecture
    content: list[Any] = [item.name, item.arguments, network.seed, network.code, classes, network.origin.kind]
    content += [network.reset] if network.reset else []
    match network.origin:
        case Loaded(_, fingerprint):
            return [*content, fingerprint]
        case Copied(origin, branch):
            return [*content, _version(sources, origin), *([] if branch is None else [branch])]
        case Merged(versions) | Averaged(versions) | Ensembled(versions):
            return [*content, *(_version(sources, v) for v in versions)]
        case Perturbed(versions, distance, seed):
            return [*content, _version(sources, versions[0]), distance, seed]
        case Fresh():
            return content
        case _:
            return [*content, _version(sources, Version(network.origin.network))]


def _view(plan: Plan, view: View) -> list[Any]:
    data = plan.data[view.data]
    items = [data.source, *data.augment, *(i for i in (data.split, data.protocol) if i is not None)]
    part = [data.fraction, data.limit] if view.split == "train" else []
    classes = view.classes.ids if view.classes is not None else None
    return [
        [[item.name, item.arguments] for item in items],
        data.normalize,
        data.fingerprint,
        data.seed,
        part,
        [view.split, classes, view.unlabelled],
    ]
