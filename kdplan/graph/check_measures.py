"""What is measured, looked at before anything trains: taps that are there, and metrics that what they give can bear.

A metric is tried out on random outputs of the right shape and one label of each class, so its own code decides.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from kdplan.data.look import Look
from kdplan.data.of_plan import groups_of
from kdplan.diagnostics.boundary import foreign
from kdplan.diagnostics.report import PlanError, Reporter, error, listing
from kdplan.diagnostics.span import Span
from kdplan.graph.examples import example
from kdplan.graph.inspect import blank
from kdplan.graph.signals import shown
from kdplan.graph.taps import Tap
from kdplan.graph.trace import Traced, TraceError, trace
from kdplan.ir.outputs import is_output, is_scores
from kdplan.ir.plan import Data, Item, Network, Plan, Row, Target, View
from kdplan.ir.user_code import CodeRefused
from kdplan.ir.versions import versions_of
from kdplan.nn.detections import gives_boxes
from kdplan.nn.embedding import embedded_rows
from kdplan.nn.metrics import metric_of
from kdplan.passes.measurable import class_order, needs, of_classes
from kdplan.passes.metric_checks import class_count
from kdplan.passes.views import Views

_MOST = 1000
"""Labels that a metric is tried out on."""


def check_measures(plan: Plan, views: Views, reporter: Reporter) -> None:
    """KD0501 for taps that a measured network lacks, KD0508 for one that does not run on the data, KD0840 for metrics
    that read something else than what is measured."""
    tracer = _Tracer(plan)
    done: set[str] = set()
    for row, view, metrics in _measured(plan):
        networks = [plan.networks[v.network] for v in row.target.versions]
        about = [(n.architecture, n.code, n.classes) for n in networks]
        content = repr((about, row.target.path, row.target.join, view, [(m.name, m.arguments) for m in metrics]))
        if content in done:
            continue
        done.add(content)
        try:
            _check(plan, views, metrics, row, view, tracer)
        except CodeRefused as refused:
            reporter.add(refused.about(f"what is measured at `{row.label}`", row.target.span).diagnostics)
        except PlanError as problem:
            reporter.add(problem.diagnostics)


def _measured(plan: Plan) -> Iterator[tuple[Row, View, list[Item]]]:
    """What is measured, where and by which metrics, at the top level and inside of phases."""
    for measure in plan.measured():
        for row, view in measure.pairs():
            yield row, view if row.classes is None else replace(view, classes=row.classes), measure.metrics
    for phase in plan.phases.values():
        for v in phase.validations:
            base = phase.trainees[v.network].base
            yield Row(f"{base.network}.{v.path}", Target([base], v.path, span=v.span)), v.view, v.metrics


class _Tracer:
    """Networks traced on inputs like those of a data set, each once."""

    def __init__(self, plan: Plan) -> None:
        self.traced: dict[str, Traced] = {}
        self.runs = {
            self._key(plan.networks[v.network], plan.data[view.data])
            for phase in plan.phases.values()
            for v in versions_of(phase)
            for view in phase.streams
        }
        """What phases run, which needs no trace to be known."""

    @staticmethod
    def _key(network: Network, data: Data) -> str:
        return repr((network.architecture, network.code, data.shape, data.whole))

    def known_to_run(self, network: Network, data: Data) -> bool:
        return self._key(network, data) in self.runs

    def trace(self, network: Network, data: Data, span: Span | None) -> Traced:
        """The trace of a network.

        Raises
        ------
        PlanError
            KD0508 where it does not run on such inputs.
        """
        key = self._key(network, data)
        if key not in self.traced:
            try:
                self.traced[key] = trace(blank(network), example(data, 2))
            except TraceError as problem:
                shapes = f"images {shown((1, *(data.shape or ())))}"
                raise foreign("KD0508", span, problem, network=network.name, shapes=shapes) from problem
        return self.traced[key]


def _check(plan: Plan, views: Views, metrics: list[Item], row: Row, view: View, tracer: _Tracer) -> None:
    target, data = row.target, plan.data[view.data]
    if data.shape is None or not _sound(views, view):
        return  # which has been reported
    networks = [plan.networks[v.network] for v in target.versions]
    for metric in metrics:
        if needs(metric) == "boxes" and is_output(target.path) and not gives_boxes(blank(networks[0])):
            reason = f"it reads boxes, and `{row.label}` gives none."
            raise error("KD0840", metric.span, metric=metric.name, reason=reason)
    reading = [m for m in metrics if needs(m) not in ("network", "boxes")]
    numbers = any(needs(m) in ("network", "boxes") and m.name not in ("parameters", "training_flops") for m in metrics)
    for network in networks:
        if not tracer.known_to_run(network, data) and (reading or numbers):
            tracer.trace(network, data, target.span)
    value = _value(plan, row, view, tracer) if reading else None
    for metric in reading:
        if value is not None:
            _fits(plan, metric, row, view, value)
            _try(plan, views, metric, row, view, value)


def _sound(views: Views, view: View) -> bool:
    """Whether a view can be read; why it cannot has been reported."""
    try:
        views.look(view)
    except PlanError:
        return False
    return True


def _value(plan: Plan, row: Row, view: View, tracer: _Tracer) -> object:
    """What the target gives, as a fake value [2, ...]; None where it stands inside of a part that is called whole."""
    target, data = row.target, plan.data[view.data]
    networks = [plan.networks[v.network] for v in target.versions]
    if is_scores(target.path):
        counts = [class_count(n) for n in networks]
        known = [c for c in counts if c is not None]
        if len(known) == len(counts):
            return torch.empty(2, sum(known) if target.join == "concat" else min(known), device="meta")
    taps = tracer.trace(networks[0], data, target.span).taps
    path = "logits" if is_scores(target.path) else target.path
    path = "output" if path not in taps and is_scores(target.path) else path
    if path not in taps:
        raise no_tap(taps, path, networks[0].name, target.span)
    return _fake(taps[path])


def _fake(tap: Tap) -> object:
    if tap.inner is not None:
        return None
    value = tap.node.meta["val"]
    for index in tap.index:
        value = getattr(value, index) if isinstance(index, str) and not isinstance(value, dict) else value[index]
    return value


def no_tap(taps: Iterable[str], path: str, network: str, span: Span | None) -> PlanError:
    """KD0501: a network has no tap `path`, but `taps`."""
    top = [t for t in taps if "." not in t and "#" not in t]
    return error("KD0501", span, network=network, tap=path, help=f"Choose from {listing(top, 20)}.")


def _fits(plan: Plan, metric: Item, row: Row, view: View, value: object) -> None:
    kind = needs(metric)
    if not isinstance(value, Tensor):
        reason = f"`{row.label}` is not a tensor."
    elif value.dim() < 2 or not value.is_floating_point():
        reason = (
            f"`{row.label}` is not a feature: {str(value.dtype).removeprefix('torch.')} {shown(tuple(value.shape))}."
        )
    elif kind == "logits" and not is_scores(row.target.path):
        count = len(view.classes.ids) if view.classes is not None else len(plan.data[view.data].classes)
        if value.dim() == 2 and (not count or value.shape[1] == count):
            return
        reason = f"`{row.label}` has shape {shown(tuple(value.shape))}, and the data {count} classes."
    elif (unit := metric.arguments.get("unit")) is not None and not 0 <= unit < value.shape[1]:
        reason = f"`{row.label}` has {value.shape[1]} units, counted from 0, and no unit {unit}."
    else:
        return
    raise error("KD0840", metric.span, metric=metric.name, reason=reason)


def _try(plan: Plan, views: Views, metric: Item, row: Row, view: View, value: object) -> None:
    """KD0840 where a metric refuses outputs of this shape, or these labels."""
    assert isinstance(value, Tensor)
    known, problem = views.look(view), ""
    if needs(metric) == "templates":
        return
    try:
        if needs(metric) == "transfer":
            _check_training(views.look(replace(view, split="train")))
        if known.labels is None:
            problem = "the data has no labels"
        elif metric.name == "tsne":
            embedded_rows(known.labels, **metric.arguments)
        elif needs(metric) != "transfer":
            _run(plan, metric, row, view, value, known)
    except (RuntimeError, IndexError, TypeError, ValueError) as refusal:
        problem = str(refusal).splitlines()[0]
    if problem:
        raise error("KD0840", metric.span, metric=metric.name, reason=f"{problem}.")


def _check_training(known: Look) -> None:
    if known.labels is None:
        raise ValueError("the training images have no labels")
    if len(np.unique(known.labels)) < 2:
        raise ValueError("the training images are of one class")


def _run(plan: Plan, metric: Item, row: Row, view: View, value: Tensor, known: Look) -> None:
    assert known.labels is not None
    ids = view.classes.ids if view.classes is not None else None
    numbers = [ids.index(i) if ids is not None else i for i in np.unique(known.labels).tolist()]
    labels = torch.tensor(numbers[: _MOST - 1] + numbers[-1:])
    columns = value.shape[1]
    if of_classes(metric) and is_scores(row.target.path):
        order = class_order(plan, row.target, view, row.classes is not None)
        columns = len(order) if order is not None else columns
    generator = torch.Generator().manual_seed(0)
    outputs = torch.rand(len(labels), columns, *(1 for _ in value.shape[2:]), generator=generator)
    tried = metric_of(metric, groups_of(plan.data[view.data], view, metric), row.target.path == "probabilities")
    for _ in range(tried.passes):
        tried.update(outputs, labels)
        tried.again()
    tried.compute()
