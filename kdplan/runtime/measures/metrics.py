"""Kinds of metrics, the loader that they read, and those that read no data."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from kdplan.data.dataset import Dataset
from kdplan.data.loader import Loader
from kdplan.graph.examples import of_shape
from kdplan.ir.plan import Item
from kdplan.nn.catalog import METRICS
from kdplan.nn.metrics import count_parameters

BATCH_BYTES = 1 << 26
"""How large a batch of inputs may be: 500 small images, or about a hundred of 224 x 224."""
NETWORK_NUMBERS = ("parameters", "flops", "training_flops")
"""Metrics that read no data."""


def larger_is_better(metric: Item) -> bool:
    """Whether a larger value of the metric is the better one.

    >>> larger_is_better(Item("top1")), larger_is_better(Item("error"))
    (True, False)
    """
    return METRICS[metric.name].larger_is_better if metric.name in METRICS else False


def measuring_loader(data: Dataset, workers: int = 0, rows: Tensor | None = None) -> Loader:
    """The data set, or some rows of it, without augmentation; `workers` processes read image files."""
    batch = max(1, min(500, BATCH_BYTES // (4 * math.prod(data.shape))))
    return Loader(data, batch, seed=0, train=False, workers=workers, rows=rows)


def network_number(
    name: str, networks: Sequence[nn.Module], shape: Sequence[int], device: torch.device, whole: bool = False
) -> float:
    """`parameters` or `flops` (of one sample of `shape`, 2 a multiply-add) of networks together.

    `whole` says whether inputs are whole numbers.

    >>> network_number("flops", [nn.Linear(3, 2)], [3], torch.device("cpu"))
    12.0
    """
    if name == "parameters":
        return float(sum(count_parameters(net) for net in networks))
    total = 0
    for net in networks:
        with FlopCounterMode(display=False) as counter, torch.no_grad():
            net(of_shape(shape, 1, whole).to(device))
        total += counter.get_total_flops()
    return float(total)
