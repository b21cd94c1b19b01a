"""The cells of a measure: one metric of one target on one view, and the key under which the store keeps its number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace

from kdplan.ir.expr import Version
from kdplan.ir.plan import Item, Plain, Plan, Row, Target, View
from kdplan.ir.versions import kept_of, makers
from kdplan.nn.catalog import METRICS
from kdplan.passes.keys import content, view_content
from kdplan.runtime.versions import Sources

REVISION = 3
"""Raised whenever a metric, or how networks are run for it, gives other numbers."""


@dataclass(frozen=True, slots=True)
class Cell:
    """One number of a measure: a metric of a target on a view."""

    target: Target
    view: View
    metric: Item
    cut: bool = False
    """Whether the view is a part of the measure's view, so that scores are cut to its classes."""


def cell_of(row: Row, target: Target, view: View, metric: Item) -> Cell:
    """The cell of a metric of a row's target: on a view, or on the row's part of it."""
    if row.classes is None:
        return Cell(target, view, metric)
    return Cell(target, replace(view, classes=row.classes), metric, cut=True)


def snapshots(plan: Plan, row: Row) -> Iterator[tuple[str, Target]]:
    """A row's target under its snapshot's name, and under `best` where validation chose one.

    A target that names a snapshot has that one only; it counts as `last` where the snapshot is a coordinate of the row.
    """
    target = row.target
    named = {v.snapshot for v in target.versions}
    name = named.pop() if len(named) == 1 else "last"
    yield ("last" if name.partition("=")[0] in row.coordinates else name), target
    if all(v.snapshot == "last" and v.phase is not None and "best" in kept_of(plan, v) for v in target.versions):
        yield "best", replace(target, versions=[replace(v, snapshot="best") for v in target.versions])


def trained(sources: Sources, target: Target) -> bool:
    """Whether the store holds every phase whose weights the target has."""
    phases = [name for v in target.versions for name in makers(sources.plan, v)]
    return all(sources.store.has(sources.keys[name].key) for name in phases)


def cell_key(sources: Sources, cell: Cell) -> str:
    """A hash of everything that the number depends on; names are no part of it."""
    plan, metric = sources.plan, cell.metric
    versions = [[content(plan, sources.keys, v), _classes(plan, v)] for v in cell.target.versions]
    parts: list[Plain] = [REVISION, cell.target.join, cell.target.path, versions, _data(plan, cell.view)]
    parts.append([METRICS[metric.name].content if metric.name in METRICS else metric.name, metric.arguments])
    if metric.name in METRICS and METRICS[metric.name].needs == "transfer":
        parts.append(_data(plan, replace(cell.view, split="train")))
    return hashlib.sha256(json.dumps(parts, sort_keys=True, default=str).encode()).hexdigest()[:40]


def _classes(plan: Plan, version: Version) -> list[int] | None:
    classes = plan.networks[version.network].classes
    return classes.ids if classes is not None else None


def _data(plan: Plan, view: View) -> list[Plain]:
    """The part of a view that a metric reads: samples, whether with labels, and the protocol."""
    data = plan.data[view.data]
    if view.split != "train":
        data = replace(data, fraction=1.0, limit=None)  # which choose training images
    protocol = [data.protocol.name, data.protocol.arguments] if data.protocol is not None else None
    return [view_content(data, view), view.unlabelled, protocol]
