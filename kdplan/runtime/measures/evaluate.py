"""Metrics of a network's outputs over a data set, in as few passes as they need."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from kdplan.data.loader import Loader
from kdplan.diagnostics.report import error
from kdplan.graph.state import draws_undone
from kdplan.ir.plan import Item
from kdplan.nn.catalog import METRICS
from kdplan.nn.metric import Metric
from kdplan.nn.metrics import metric_of
from kdplan.nn.scores import Confusion
from kdplan.nn.verification import NUMBERS, scores
from kdplan.runtime.checkpoint import reseed
from kdplan.runtime.measures.context import MeasureContext
from kdplan.runtime.measures.labels import label_of
from kdplan.runtime.measures.outputs import Outputs
from kdplan.runtime.measures.plots import PLOTS, matrix
from kdplan.runtime.measures.results import Measured
from kdplan.runtime.measures.transfer import train_classifiers

Items = Mapping[str, Item]
"""A metric's label -> the metric."""


@torch.no_grad()
def evaluate(
    outputs: Outputs,
    loader: Loader,
    metrics: Sequence[Item],
    probabilities: bool = False,
    context: MeasureContext | None = None,
) -> dict[str, Measured]:
    """Metrics of `outputs` ([B, ...] -> scores [B, C], or features [B, ...]) over a data set, by their labels.

    Metrics that compare templates have one number for each split of the data's protocol.

    Parameters
    ----------
    outputs : callable
    loader : Loader
        Gives the samples in order.
    metrics : sequence of Item
    probabilities : bool
        Whether the outputs are probabilities; otherwise they are logits.
    context : MeasureContext, optional
        For metrics that read superclasses, or train on features of other samples.

    Raises
    ------
    PlanError
        KD0840 if a metric does not fit the data or the outputs.
    """
    if not metrics:
        return {}
    with torch.random.fork_rng(devices=[]), draws_undone():
        reseed(0, loader.dataset.device)  # a network may draw in eval mode: the same numbers in every measure
        return _evaluated(outputs, loader, metrics, probabilities, context)


def _evaluated(
    outputs: Outputs, loader: Loader, metrics: Sequence[Item], probabilities: bool, context: MeasureContext | None
) -> dict[str, Measured]:
    plots = {label_of(item): item for item in metrics if item.name in PLOTS}
    verifications = {label_of(item): item for item in metrics if item.name in NUMBERS}
    items = {label_of(item): item for item in metrics if item.name not in NUMBERS and item.name not in PLOTS}
    streamed = {label: _build(item, probabilities, context) for label, item in items.items()}
    train_classifiers(streamed, items, outputs, loader.workers, context)
    kept = _Kept(templates=bool(verifications), plots=bool(plots))
    for number, batch in _passes(loader, streamed.values()):
        if (streamed or plots) and "labels" not in batch:
            raise error("KD0840", metrics[0].span, metric=metrics[0].name, reason="the data has no labels.")
        values = outputs(batch["inputs"])
        if number == 0:
            kept.add(values, batch)
        for label, metric in streamed.items():
            if number < metric.passes:
                _update(metric, items[label], values, batch["labels"])
    numbers = {label: _number(metric, items[label], loader, context) for label, metric in streamed.items()}
    for label, item in plots.items():
        numbers[label] = PLOTS[item.name](torch.cat(kept.vectors), torch.cat(kept.labels), **item.arguments)
    return numbers | (_verified(verifications, kept.features, loader) if verifications else {})


@dataclass
class _Kept:
    """Outputs of the first pass, for metrics that need all of them at once."""

    templates: bool
    plots: bool
    features: list[Tensor] = field(default_factory=list)
    """Of each batch [B, D], for templates."""
    vectors: list[Tensor] = field(default_factory=list)
    """Of each batch [B, D], of maps the means over positions, for plots."""
    labels: list[Tensor] = field(default_factory=list)

    def add(self, values: Tensor, batch: Mapping[str, Tensor]) -> None:
        if self.templates:
            self.features.append(values.flatten(1).cpu())
        if self.plots:
            self.vectors.append((values.flatten(2).mean(dim=2) if values.dim() > 2 else values).float().cpu())
            self.labels.append(batch["labels"].cpu())


def _passes(loader: Loader, metrics: Iterable[Metric]) -> Iterator[tuple[int, dict[str, Tensor]]]:
    """The batches of the data, as often as some metric needs to see it, each with the number of its pass."""
    known = list(metrics)
    for number in range(max((m.passes for m in known), default=1)):
        for batch in loader.epoch(0):
            yield number, batch
        for metric in known:
            metric.again()


def _build(item: Item, probabilities: bool, context: MeasureContext | None) -> Metric:
    """A fresh metric, with the superclasses that it reads."""
    spec = METRICS.get(item.name)
    reason = ""
    if spec is not None and spec.needs == "transfer" and context is None:
        reason = "it has no training data."
    try:
        metric = metric_of(item, context.groups(item) if context is not None else {}, probabilities)
    except ValueError as problem:
        reason = reason or f"{problem}."
    if reason:
        raise error("KD0840", item.span, metric=item.name, reason=reason)
    return metric


def _update(metric: Metric, item: Item, values: Tensor, labels: Tensor) -> None:
    try:
        metric.update(values, labels)
    except (RuntimeError, IndexError, ValueError) as problem:
        shapes = f"outputs of shape {list(values.shape)}, labels of shape {list(labels.shape)}"
        reason = f"{shapes}: {problem}"
        raise error("KD0840", item.span, metric=label_of(item), reason=reason) from problem


def _number(metric: Metric, item: Item, loader: Loader, context: MeasureContext | None) -> Measured:
    """The metric's value after the last batch."""
    try:
        if isinstance(metric, Confusion):
            groups = context.groups(item) if context is not None else {}
            return matrix(metric, loader.dataset.classes, groups)
        return metric.compute()
    except ValueError as problem:
        raise error("KD0840", item.span, metric=label_of(item), reason=str(problem)) from problem


def _verified(items: Items, features: Sequence[Tensor], loader: Loader) -> dict[str, Measured]:
    """Metrics that compare templates, each with one number a split."""
    protocol = loader.dataset.protocol()
    if protocol is None:
        raise error("KD0840", None, metric=next(iter(items)), reason="the data has no protocol of templates.")
    numbers: dict[str, list[float]] = {label: [] for label in items}
    for split in scores(torch.cat(list(features)), protocol):
        for label, item in items.items():
            try:
                numbers[label].append(NUMBERS[item.name](split, **item.arguments))
            except ValueError as problem:
                raise error("KD0840", item.span, metric=label, reason=str(problem)) from problem
    return dict(numbers)
