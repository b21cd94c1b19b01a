"""What is measured at taps, looked at before anything trains: whether they are there, and are what the metrics read."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from kdplan.diagnostics.report import PlanError, Reporter, error, listing
from kdplan.graph.inspect import blank
from kdplan.graph.lower import first_line
from kdplan.graph.signals import shown
from kdplan.graph.trace import Traced, TraceError, trace
from kdplan.ir.plan import Item, Measure, Network, Plan, Row, View
from kdplan.nn.catalog import METRICS

_OUTPUTS = ("", "logits", "probabilities")


def check_measures(plan: Plan, reporter: Reporter) -> None:
    """KD0501 for taps that a measured network lacks, KD0508 for one that does not run on the data, KD0840 for metrics
    that read something else than what the tap gives."""
    traced: dict[str, Traced] = {}
    told: set[str] = set()
    for measure in plan.measures.values():
        for row in measure.rows:
            if row.target.path in _OUTPUTS:
                continue
            for view in measure.views:
                network = plan.networks[row.target.versions[0].network]
                content = repr((network.architecture, network.code, plan.data[view.data].shape, row.target.path))
                if plan.data[view.data].shape is None or content in told:
                    continue
                try:
                    _check(plan, measure, row, view, network, traced)
                except PlanError as problem:
                    told.add(content)
                    reporter.add(problem.diagnostics)


def _check(plan: Plan, measure: Measure, row: Row, view: View, network: Network, traced: dict[str, Traced]) -> None:
    shape = plan.data[view.data].shape
    assert shape is not None
    key = repr((network.architecture, network.code, shape))
    if key not in traced:
        try:
            traced[key] = trace(blank(network), torch.zeros(2, *shape))
        except TraceError as problem:
            raise error(
                "KD0508", row.target.span, network=network.name, shapes=f"images {shown((1, *shape))}",
                problem=first_line(problem),
            ) from problem  # fmt: skip
    taps = traced[key].taps
    if row.target.path not in taps:
        top = [t for t in taps if "." not in t and "#" not in t]
        help = f"it has {listing(top, 20)}"
        raise error("KD0501", row.target.span, network=network.name, tap=row.target.path, help=help)
    tap = taps[row.target.path]
    if tap.inner is None:
        value = tap.node.meta["val"]
        for index in tap.index:
            value = getattr(value, index) if isinstance(index, str) and not isinstance(value, dict) else value[index]
        for metric in measure.metrics:
            _fits(plan, metric, row, view, value)


def _fits(plan: Plan, metric: Item, row: Row, view: View, value: Any) -> None:
    kind = METRICS[metric.name].needs if metric.name in METRICS else "network"
    if kind == "network":
        return
    if not isinstance(value, Tensor):
        reason = f"`{row.label}` is no tensor."
    elif value.dim() < 2 or not value.is_floating_point():
        reason = f"`{row.label}` is no feature: {str(value.dtype).removeprefix('torch.')} {shown(tuple(value.shape))}."
    elif kind == "logits":
        count = len(view.classes.ids) if view.classes is not None else len(plan.data[view.data].classes)
        if value.dim() == 2 and (not count or value.shape[1] == count):
            return
        reason = f"`{row.label}` has shape {shown(tuple(value.shape))}, and the data {count} classes."
    else:
        return
    raise error("KD0840", metric.span, metric=metric.name, reason=reason)
