"""Metrics that train a classifier on a network's features: linear support vector machines."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

from kdplan.data.dataset import Dataset
from kdplan.data.select import balanced
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.plan import Item
from kdplan.nn.metric import Metric, spatial_mean
from kdplan.nn.transfer import LinearSvm
from kdplan.runtime.measures.context import MeasureContext
from kdplan.runtime.measures.metrics import measuring_loader
from kdplan.runtime.measures.outputs import Outputs


def train_classifiers(
    metrics: Mapping[str, Metric],
    items: Mapping[str, Item],
    outputs: Outputs,
    workers: int,
    context: MeasureContext | None,
) -> None:
    """Trains the classifiers among the metrics; features of one choice of training samples are computed once.

    Raises
    ------
    PlanError
        KD0840 where the training part has no labels, too few samples, or features that are not finite.
    """
    features: dict[tuple[int | None, int], tuple[Tensor, Tensor]] = {}
    data: Dataset | None = None
    for name, metric in metrics.items():
        if not isinstance(metric, LinearSvm):
            continue
        assert context is not None
        if data is None:
            data = context.train()
        choice, span = (metric.per_class, metric.seed if metric.per_class is not None else 0), items[name].span
        try:
            if choice not in features:
                features[choice] = training_features(outputs, data, *choice, workers, span)
            metric.fit(*features[choice])
        except ValueError as problem:
            raise error("KD0840", span, metric=name, reason=str(problem)) from problem


def training_features(
    outputs: Outputs, data: Dataset, per_class: int | None, seed: int, workers: int, span: Span | None
) -> tuple[Tensor, Tensor]:
    """Features [N, D] (of maps, their means over positions) and labels [N] of a training set, or of a part of it."""
    if data.labels is None:
        raise ValueError("the data has no labels")
    rows = None
    if per_class is not None:
        rows = torch.from_numpy(balanced(data.labels.cpu().numpy(), data.classes, per_class, seed, span))
    features, labels = [], []
    for batch in measuring_loader(data, workers, rows).epoch(0):
        features.append(spatial_mean(outputs(batch["inputs"])).cpu())
        labels.append(batch["labels"].cpu())
    return torch.cat(features), torch.cat(labels)
