"""Metrics of networks on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.data.dataset import Dataset
from kdplan.data.loader import Loader
from kdplan.data.select import balanced
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.plan import Item
from kdplan.nn.catalog import METRICS, reads_groups
from kdplan.nn.metric import Metric, averaged_places
from kdplan.nn.metrics import build_metric, count_parameters
from kdplan.nn.scores import Confusion
from kdplan.nn.transfer import LinearSvm
from kdplan.nn.verification import NUMBERS, scores
from kdplan.runtime.measures.plots import PLOTS, matrix
from kdplan.runtime.measures.results import Measured
from kdplan.runtime.measures.table import label_of
from kdplan.runtime.views import Around

BATCH_BYTES = 1 << 26
"""How large a batch of inputs may be: 500 small images, or about a hundred of 224 x 224."""
NETWORK_NUMBERS = ("parameters", "flops", "training_flops")
"""Metrics that read no data."""
Outputs = Callable[[Tensor], Tensor]


def larger_is_better(metric: Item) -> bool:
    """Whether a larger value of the metric is the better one."""
    return METRICS[metric.name].larger_is_better if metric.name in METRICS else False


def of_classes(metric: Item) -> bool:
    """Whether a metric reads the outputs' columns as the data's classes."""
    return metric.name in METRICS and METRICS[metric.name].needs in ("logits", "pair")


def measuring_loader(data: Dataset, workers: int = 0, rows: Tensor | None = None) -> Loader:
    """The data set, or some rows of it, without augmentation; `workers` processes read image files."""
    batch = max(1, min(500, BATCH_BYTES // (4 * math.prod(data.shape))))
    return Loader(data, batch, seed=0, train=False, workers=workers, rows=rows)


@torch.no_grad()
def evaluate(
    outputs: Outputs,
    loader: Loader,
    metrics: Sequence[Item],
    probabilities: bool = False,
    around: Around | None = None,
) -> dict[str, Measured]:
    """Metrics of `outputs` ([B, ...] -> scores [B, C], or features [B, ...]) over a data set.

    Those that compare templates have one number for each split of the data's protocol. `around` is for those that read
    superclasses, or train on features of other samples.

    Raises
    ------
    PlanError
        KD0840 if a metric does not fit the data or the outputs.
    """
    if not metrics:
        return {}
    plots = {label_of(item): item for item in metrics if item.name in PLOTS}
    compared = {label_of(item): item for item in metrics if item.name in NUMBERS}
    others = {label_of(item): item for item in metrics if item.name not in NUMBERS and item.name not in PLOTS}
    built = {name: _built(item, probabilities, around) for name, item in others.items()}
    _fit(built, others, outputs, loader, around)
    features: list[Tensor] = []
    vectors: list[Tensor] = []
    labels: list[Tensor] = []
    for number, found in _passes(loader, built.values()):
        if (built or plots) and "labels" not in found:
            raise error("KD0840", metrics[0].span, metric=metrics[0].name, reason="the data has no labels.")
        made = outputs(found["inputs"])
        if compared and not number:
            features.append(made.flatten(1).cpu())
        if plots and not number:
            vectors.append((made.flatten(2).mean(dim=2) if made.dim() > 2 else made).float().cpu())
            labels.append(found["labels"].cpu())
        for name, metric in built.items():
            if number >= metric.passes:
                continue
            try:
                metric.update(made, found["labels"])
            except (RuntimeError, IndexError, ValueError) as problem:
                shapes = f"outputs of shape {list(made.shape)}, labels of shape {list(found['labels'].shape)}"
                reason = f"{shapes}: {problem}"
                raise error("KD0840", others[name].span, metric=name, reason=reason) from problem
    numbers: dict[str, Measured] = {}
    for name, metric in built.items():
        try:
            groups = around.groups(others[name]) if around is not None else {}
            if isinstance(metric, Confusion):
                numbers[name] = matrix(metric, loader.dataset.classes, groups)
            else:
                numbers[name] = metric.compute()
        except ValueError as problem:
            raise error("KD0840", others[name].span, metric=name, reason=str(problem)) from problem
    for name, item in plots.items():
        numbers[name] = PLOTS[item.name](torch.cat(vectors), torch.cat(labels), **item.arguments)
    return numbers | _compared(compared, features, loader)


def _passes(loader: Loader, metrics: Iterable[Metric]) -> Iterator[tuple[int, dict[str, Any]]]:
    """The batches of the data, as often as some metric wants to see it, each with the number of its pass."""
    known = list(metrics)
    for number in range(max((m.passes for m in known), default=1)):
        for found in loader.epoch(0):
            yield number, found
        for metric in known:
            metric.again()


def _built(item: Item, probabilities: bool, around: Around | None) -> Metric:
    """A fresh metric, with the superclasses that it reads."""
    settings = dict(item.arguments)
    spec = METRICS.get(item.name)
    reason = "it compares two networks." if spec is not None and spec.needs == "pair" else ""
    if reads_groups(item):
        groups = around.groups(item) if around is not None else {}
        settings["groups"] = list(groups.values())
        reason = "" if groups else "the data has no superclasses."
    if spec is not None and spec.needs == "transfer" and around is None:
        reason = "it has no training data."
    try:
        metric = build_metric(item.name, probabilities=probabilities, **settings)
    except ValueError as problem:
        reason = reason or str(problem)
    if reason:
        raise error("KD0840", item.span, metric=item.name, reason=reason)
    return metric


def _fit(
    built: Mapping[str, Metric], items: Mapping[str, Item], outputs: Outputs, loader: Loader, around: Around | None
) -> None:
    """Trains the classifiers among the metrics; features of one choice of training samples are taken once."""
    taken: dict[tuple[int | None, int], tuple[Tensor, Tensor]] = {}
    data: Dataset | None = None
    for name, metric in built.items():
        if not isinstance(metric, LinearSvm):
            continue
        assert around is not None
        data = data or around.train()
        choice, span = (metric.per_class, metric.seed if metric.per_class is not None else 0), items[name].span
        try:
            if choice not in taken:
                taken[choice] = _features(outputs, data, *choice, loader.workers, span)
            metric.fit(*taken[choice])
        except ValueError as problem:
            raise error("KD0840", span, metric=name, reason=str(problem)) from problem


def _features(
    outputs: Outputs, data: Dataset, per_class: int | None, seed: int, workers: int, span: Span | None
) -> tuple[Tensor, Tensor]:
    """Features [N, D] (of maps, their means over places) and labels [N] of a training set, or of a part of it."""
    if data.labels is None:
        raise ValueError("the data has no labels")
    rows = None
    if per_class is not None:
        rows = torch.from_numpy(balanced(data.labels.cpu().numpy(), data.classes, per_class, seed, span))
    features, labels = [], []
    for found in measuring_loader(data, workers, rows).epoch(0):
        features.append(averaged_places(outputs(found["inputs"])).cpu())
        labels.append(found["labels"].cpu())
    return torch.cat(features), torch.cat(labels)


def _compared(metrics: Mapping[str, Item], features: Sequence[Tensor], loader: Loader) -> dict[str, Measured]:
    """The metrics of templates, each with one number a split."""
    if not metrics:
        return {}
    protocol = loader.dataset.protocol()
    if protocol is None:
        raise error("KD0840", None, metric=next(iter(metrics)), reason="the data has no protocol of templates.")
    found: dict[str, list[float]] = {name: [] for name in metrics}
    for split in scores(torch.cat(list(features)), protocol):
        for name, item in metrics.items():
            try:
                found[name].append(NUMBERS[item.name](split, **item.arguments))
            except ValueError as problem:
                raise error("KD0840", item.span, metric=name, reason=str(problem)) from problem
    return dict(found)


def network_number(name: str, networks: Sequence[nn.Module], shape: Sequence[int], device: torch.device) -> float:
    """`parameters` or `flops` (of one sample of `shape`, 2 a multiply-add) of networks together."""
    if name == "parameters":
        return float(sum(count_parameters(net) for net in networks))
    from torch.utils.flop_counter import FlopCounterMode

    total = 0
    for net in networks:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(torch.zeros(1, *shape, device=device))
        total += counter.get_total_flops()
    return float(total)
