"""What is measured at taps, looked at before anything trains: whether they are there, and are what the metrics read."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from kdplan.diagnostics.boundary import foreign
from kdplan.diagnostics.report import PlanError, Reporter, error, listing
from kdplan.graph.inspect import blank
from kdplan.graph.signals import shown
from kdplan.graph.trace import Traced, TraceError, trace
from kdplan.ir.outputs import SCORES
from kdplan.ir.plan import Item, Network, Plan, Row, Target, View
from kdplan.ir.user_code import CodeRefused
from kdplan.nn.catalog import METRICS


def check_measures(plan: Plan, reporter: Reporter) -> None:
    """KD0501 for taps that a measured network lacks, KD0508 for one that does not run on the data, KD0840 for metrics
    that read something else than what the tap gives."""
    traced: dict[str, Traced] = {}
    reported: set[str] = set()
    for row, view, metrics in _measured(plan):
        network = plan.networks[row.target.versions[0].network]
        content = repr((network.architecture, network.code, plan.data[view.data].shape, row.target.path))
        if row.target.path in SCORES or plan.data[view.data].shape is None or content in reported:
            continue
        try:
            _check(plan, metrics, row, view, network, traced)
        except CodeRefused as refused:
            reporter.add(refused.about(f"what is measured at `{row.label}`", row.target.span).diagnostics)
        except PlanError as problem:
            reported.add(content)
            reporter.add(problem.diagnostics)


def _measured(plan: Plan) -> Iterator[tuple[Row, View, list[Item]]]:
    """What is measured, where and by which metrics, at the top level and inside of phases."""
    for measure in plan.measures.values():
        for row in measure.rows:
            yield from ((row, view, measure.metrics) for view in measure.views)
    for phase in plan.phases.values():
        for v in phase.validations:
            base = phase.trainees[v.network].base
            yield Row(f"{base.network}.{v.path}", Target([base], v.path, span=v.span)), v.view, v.metrics


def _check(plan: Plan, metrics: list[Item], row: Row, view: View, network: Network, traced: dict[str, Traced]) -> None:
    shape = plan.data[view.data].shape
    assert shape is not None
    key = repr((network.architecture, network.code, shape))
    if key not in traced:
        try:
            traced[key] = trace(blank(network), torch.zeros(2, *shape))
        except TraceError as problem:
            shapes = f"images {shown((1, *shape))}"
            raise foreign("KD0508", row.target.span, problem, network=network.name, shapes=shapes) from problem
    taps = traced[key].taps
    if row.target.path not in taps:
        top = [t for t in taps if "." not in t and "#" not in t]
        help = f"Choose from {listing(top, 20)}."
        raise error("KD0501", row.target.span, network=network.name, tap=row.target.path, help=help)
    tap = taps[row.target.path]
    if tap.inner is None:
        value = tap.node.meta["val"]
        for index in tap.index:
            value = getattr(value, index) if isinstance(index, str) and not isinstance(value, dict) else value[index]
        for metric in metrics:
            _fits(plan, metric, row, view, value)


def _fits(plan: Plan, metric: Item, row: Row, view: View, value: object) -> None:
    kind = METRICS[metric.name].needs if metric.name in METRICS else "network"
    if kind == "network":
        return
    if not isinstance(value, Tensor):
        reason = f"`{row.label}` is not a tensor."
    elif value.dim() < 2 or not value.is_floating_point():
        reason = (
            f"`{row.label}` is not a feature: {str(value.dtype).removeprefix('torch.')} {shown(tuple(value.shape))}."
        )
    elif kind == "logits":
        count = len(view.classes.ids) if view.classes is not None else len(plan.data[view.data].classes)
        if value.dim() == 2 and (not count or value.shape[1] == count):
            return
        reason = f"`{row.label}` has shape {shown(tuple(value.shape))}, and the data {count} classes."
    elif (unit := metric.arguments.get("unit")) is not None and not 0 <= unit < value.shape[1]:
        reason = f"`{row.label}` has {value.shape[1]} units, counted from 0, and no unit {unit}."
    else:
        return
    raise error("KD0840", metric.span, metric=metric.name, reason=reason)
