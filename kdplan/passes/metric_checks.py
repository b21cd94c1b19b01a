"""Metrics and what they are measured of: more scores than classes, superclasses that are not there, too few images."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from kdplan.data.catalog import open_source
from kdplan.data.of_plan import view_of_data
from kdplan.data.select import balanced, choose
from kdplan.diagnostics.report import Reporter
from kdplan.ir.outputs import is_scores
from kdplan.ir.plan import Data, Item, Measure, Network, Plan, Row, Validation, View
from kdplan.ir.spec import Param
from kdplan.nn.catalog import METRICS, MODELS, MetricSpec, reads_groups

_OUTSIDE = {
    "transfer": "it trains a classifier of its own",
    "network": "it is the same after every epoch",
}
"""Kinds of metrics that are not measured inside of a phase."""


def check_metrics(plan: Plan, measure: Measure | Validation, networks: Iterable[Row], reporter: Reporter) -> None:
    """KD0243 for more scores than there are classes, KD0704 and KD0244 for superclasses, KD0846 for what is
    not measured inside of a phase."""
    views = measure.every_view() if isinstance(measure, Measure) else [measure.view]
    rows = list(networks)
    for metric in measure.metrics:
        spec = METRICS.get(metric.name)
        if spec is None:
            continue
        _scores(plan, spec, metric, rows, reporter)
        if spec.needs in _OUTSIDE and isinstance(measure, Validation):
            reporter.report("KD0846", metric.span, metric=metric.name, reason=_OUTSIDE[spec.needs])
        for view in views:
            if reads_groups(metric) and view.data in plan.data:
                _groups(plan.data[view.data], metric, reporter)


def _scores(plan: Plan, spec: MetricSpec, metric: Item, rows: list[Row], reporter: Reporter) -> None:
    setting = spec.param("k")
    if spec.needs != "logits" or setting is None:
        return
    k = metric.arguments.get("k", setting.default)
    for row in rows:
        counts = [class_count(plan.networks[v.network]) for v in row.target.versions if v.network in plan.networks]
        if not is_scores(row.target.path) or not counts or None in counts:
            continue
        known = [c for c in counts if c is not None]
        most = sum(known) if row.target.join == "concat" else min(known)
        owner = f"`{row.label}`"
        if row.classes is not None and len(row.classes.ids) < most:
            most, owner = len(row.classes.ids), f"vertical `{row.classes.label}`"
        if isinstance(k, int) and k > most:
            what, limit = f"`k` of `{metric.name}`", f"at most {most}, the classes of {owner}"
            reporter.report("KD0243", metric.span, what=what, limit=limit, value=k)
            return


def class_count(network: Network) -> int | None:
    """How many classes a network's scores are over; None where nothing says it.

    >>> class_count(Network("n", Item("digits_net"))), class_count(Network("n", Item("net.py:net")))
    (10, None)
    """
    if network.classes is not None:
        return len(network.classes.ids)
    given = network.architecture.arguments.get("classes")
    if given is None and network.architecture.name in MODELS:
        setting: Param | None = MODELS[network.architecture.name].param("classes")
        given = setting.default if setting is not None else None
    return given if isinstance(given, int) else None


def _groups(data: Data, metric: Item, reporter: Reporter) -> None:
    given = metric.arguments.get("groups")
    if given is None:
        if not data.superclasses:
            help = (
                f"Write `{metric.name}(groups = V)`, with `verticals V of {data.name} {{ low = 0..4  high = 5..9 }}`."
            )
            reporter.report("KD0704", metric.span, name=data.name, help=help)
    elif not _is_grouping(given, len(data.classes)):
        reporter.report(
            "KD0244", metric.span, what=f"`groups` of `{metric.name}`", wants=f"verticals of `{data.name}`",
            found="another value",
        )  # fmt: skip
        return
    elif METRICS[metric.name].param("part") is not None and "part" not in metric.arguments:
        reporter.report("KD0237", metric.span, function=metric.name, name="part")
    count, part = len(data.superclasses if given is None else given), metric.arguments.get("part", 0)
    if 0 < count <= part:
        what = f"`part` of `{metric.name}`"
        reporter.report("KD0243", metric.span, what=what, limit=f"at most {count - 1}", value=part)


def _is_grouping(given: object, count: int) -> bool:
    """Whether a value is lists of class numbers."""
    if not isinstance(given, list) or not all(isinstance(ids, list) and ids for ids in given):
        return False
    return all(isinstance(i, int) and 0 <= i < count for ids in given for i in ids)


def check_transfer(views: list[View], metrics: list[Item], data: dict[str, Data], root: Path | None) -> None:
    """Whether the training images that a classifier asks for are there.

    Raises
    ------
    PlanError
        KD0845 where a class has fewer, KD0716 where the data has no `train` part.
    """
    for metric in metrics:
        if metric.name not in METRICS or METRICS[metric.name].needs != "transfer":
            continue
        for view in views:
            train = replace(view, split="train")
            spec = view_of_data(data[view.data], train)
            opened = open_source(spec.source, dict(spec.args), root, span=view.span)
            part, rows = choose(spec, opened, view.span)
            each = metric.arguments.get("per_class")
            if part.labels is None or each is None:
                continue
            labels = part.labels()[rows]
            names = opened.classes
            if view.classes is not None:
                columns = {c: i for i, c in enumerate(view.classes.ids)}
                labels = np.array([columns[c] for c in labels.tolist()])
                names = tuple(names[c] for c in view.classes.ids)
            balanced(labels, names, each, 0, metric.span)


def lint_features(plan: Plan, measure: Measure, reporter: Reporter) -> None:
    """KD0760 for scores of classes where features are meant."""
    kinds = {METRICS[m.name].needs for m in measure.metrics if m.name in METRICS and m.name != "tsne"}
    if not kinds & {"features", "transfer"}:
        return
    reported: set[str] = set()
    for row in measure.rows:
        trained = any(class_count(plan.networks[v.network]) for v in row.target.versions)
        if is_scores(row.target.path) and trained and row.label not in reported:
            reported.add(row.label)
            reporter.report("KD0760", row.target.span, version=row.label)
