"""The cells of a measure: one metric of one target on one view, and the key under which the store keeps its number."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

from kdplan.ir.expr import Version
from kdplan.ir.plan import (
    Averaged,
    Copied,
    Ensembled,
    Fresh,
    Item,
    Loaded,
    Merged,
    Perturbed,
    Plan,
    Row,
    Target,
    View,
)
from kdplan.ir.versions import makers, slot_of
from kdplan.nn.catalog import METRICS
from kdplan.runtime.versions import Sources

REVISION = 1
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
    phases = [plan.phases[v.phase] if v.phase is not None else None for v in target.versions]
    if all(v.snapshot == "last" for v in target.versions) and all(p is not None and p.validations for p in phases):
        yield "best", replace(target, versions=[replace(v, snapshot="best") for v in target.versions])


def trained(sources: Sources, target: Target) -> bool:
    """Whether the store holds every phase whose weights the target has."""
    phases = [name for v in target.versions for name in makers(sources.plan, v)]
    return all(sources.store.has(sources.keys[name].key) for name in phases)


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
