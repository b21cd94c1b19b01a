"""Metrics of networks on data."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from kdplan.data.dataset import Dataset
from kdplan.data.loader import Loader
from kdplan.diagnostics.report import error
from kdplan.ir.plan import Item
from kdplan.nn.catalog import METRICS
from kdplan.nn.metrics import build_metric, count_parameters
from kdplan.runtime.measured import label_of

BATCH_BYTES = 1 << 26
"""How large a batch of inputs may be: 500 small images, or about a hundred of 224 x 224."""
NETWORK_NUMBERS = ("parameters", "flops")
"""Metrics that read no data."""
Outputs = Callable[[Tensor], Tensor]


def larger_is_better(metric: Item) -> bool:
    """Whether a larger value of the metric is the better one."""
    return METRICS[metric.name].larger_is_better if metric.name in METRICS else False


def measuring_loader(data: Dataset, workers: int = 0) -> Loader:
    """The data set from first to last, without augmentation; `workers` processes read image files."""
    batch = max(1, min(500, BATCH_BYTES // (4 * math.prod(data.shape))))
    return Loader(data, batch, seed=0, train=False, workers=workers)


@torch.no_grad()
def evaluate(
    outputs: Outputs, loader: Loader, metrics: Sequence[Item], probabilities: bool = False
) -> dict[str, float]:
    """Metrics of `outputs` ([B, ...] -> scores [B, C]) over a data set.

    Raises
    ------
    PlanError
        KD0840 if a metric does not fit the data or the outputs.
    """
    if not metrics:
        return {}
    built = {}
    for item in metrics:
        reason = "it compares two networks" if item.name in METRICS and METRICS[item.name].needs == "pair" else ""
        try:
            built[label_of(item)] = build_metric(item.name, probabilities=probabilities, **item.arguments)
        except ValueError as problem:
            reason = str(problem)
        if reason:
            raise error("KD0840", item.span, metric=item.name, reason=reason)
    for found in loader.epoch(0):
        if "labels" not in found:
            raise error("KD0840", metrics[0].span, metric=metrics[0].name, reason="the data has no labels")
        scores = outputs(found["inputs"])
        for name, metric in built.items():
            try:
                metric.update(scores, found["labels"])
            except (RuntimeError, IndexError) as problem:
                shapes = f"outputs of shape {list(scores.shape)}, labels of shape {list(found['labels'].shape)}"
                reason = f"{shapes}: {problem}"
                raise error("KD0840", None, metric=name, reason=reason) from problem
    return {name: metric.compute() for name, metric in built.items()}


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
