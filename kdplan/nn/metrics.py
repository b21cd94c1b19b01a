"""Metrics of scores and labels, and `build_metric` for every metric of the table."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.ir.implementation import load, row
from kdplan.ir.plan import Item
from kdplan.nn.catalog import METRICS, reads_groups
from kdplan.nn.metric import Metric, spatial_mean


class TopK(Metric):
    """Share of samples, in percent, whose label is among the `k` highest scores.

    Of equal scores the lower class number comes first. A score that is not a number never wins.

    Examples
    --------
    >>> m = TopK(1)
    >>> m.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 1]))
    >>> m.compute()
    50.0
    """

    def __init__(self, k: int = 1, probabilities: bool = False) -> None:
        super().__init__(probabilities)
        if k < 1:
            raise ValueError(f"the k highest scores: k is at least 1, not {k}")
        self.k = k

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, C], [B] -> []``: samples whose label is among the `k` highest scores."""
        labels = labels.long().unsqueeze(1)
        score = outputs.gather(1, labels)
        numbers = torch.arange(outputs.shape[1], device=outputs.device)
        # "not <=" instead of ">": a NaN then ranks before the label.
        before = ~(outputs <= score) | ((outputs == score) & (numbers < labels))
        return (before.sum(dim=1) < self.k).sum()


class Error(TopK):
    """Share of samples, in percent, whose highest score is not the label's: 100 - top1.

    Examples
    --------
    >>> m = Error()
    >>> m.update(torch.tensor([[0.1, 0.9], [0.8, 0.2]]), torch.tensor([1, 0]))
    >>> m.compute()
    0.0
    """

    def result(self, total: Tensor) -> float:
        """100 minus the share of hits in percent."""
        return 100.0 * (self.count - total.item()) / self.count


class CrossEntropy(Metric):
    """Mean of ``-log p(label)``, in nats.

    Examples
    --------
    >>> m = CrossEntropy()
    >>> m.update(torch.zeros(3, 4), torch.tensor([0, 1, 2]))
    >>> round(m.compute(), 4)
    1.3863
    """

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, C], [B] -> []``: the sum of ``-log p(label)``."""
        x = outputs.double()
        log_p = x.log() if self.probabilities else x.log_softmax(dim=1)
        return -log_p.gather(1, labels.long().unsqueeze(1)).sum()

    def result(self, total: Tensor) -> float:
        """The mean over samples, in nats."""
        return total.item() / self.count


class CalibrationError(Metric):
    """Expected calibration error in percent: ``sum_b (n_b / n) |accuracy_b - confidence_b|``.

    Samples are sorted by their highest probability into `bins` intervals of equal width, each closed above.

    Examples
    --------
    >>> m = CalibrationError(probabilities=True)
    >>> m.update(torch.tensor([[0.75, 0.25], [0.75, 0.25]]), torch.tensor([0, 1]))
    >>> m.compute()
    25.0
    """

    def __init__(self, bins: int = 15, probabilities: bool = False) -> None:
        super().__init__(probabilities)
        if bins < 1:
            raise ValueError(f"calibration needs at least one bin, not {bins}")
        self.bins = bins

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, C], [B] -> [2, bins]``: sums of confidence and of hits in each interval."""
        p = outputs.double() if self.probabilities else outputs.double().softmax(dim=1)
        confidence, choice = p.max(dim=1)
        interval = (confidence * self.bins).ceil().long().sub(1).clamp(0, self.bins - 1)
        sums = torch.zeros(2, self.bins, dtype=torch.float64, device=p.device)
        sums[0].index_add_(0, interval, confidence)
        sums[1].index_add_(0, interval, (choice == labels).double())
        return sums

    def result(self, total: Tensor) -> float:
        """The error in percent, from sums of confidence and of hits ``[2, bins]``."""
        return 100.0 * (total[0] - total[1]).abs().sum().item() / self.count


class Mean(Metric):
    """Mean of features over samples, of one unit or of all; maps are averaged over positions.

    Examples
    --------
    >>> m = Mean(1)
    >>> m.update(torch.tensor([[0.25, 0.75], [0.5, 0.5]]), torch.tensor([0, 0]))
    >>> m.compute()
    0.625
    """

    def __init__(self, unit: int | None = None, probabilities: bool = False) -> None:
        super().__init__(probabilities)
        self.unit = unit

    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """``[B, D, ...], [B] -> []``: the sum over samples of one unit, or of the mean of all.

        Raises
        ------
        ValueError
            If there is no such unit.
        """
        values = spatial_mean(outputs).double()
        if self.unit is not None and not 0 <= self.unit < values.shape[1]:
            raise ValueError(f"features of {values.shape[1]} units have no unit {self.unit}")
        return (values.mean(dim=1) if self.unit is None else values[:, self.unit]).sum()

    def result(self, total: Tensor) -> float:
        """The mean over samples."""
        return total.item() / self.count


def top5(probabilities: bool = False) -> TopK:
    """Share of samples, in percent, whose label is among the five highest scores.

    Examples
    --------
    >>> top5().k
    5
    """
    return TopK(5, probabilities)


def build_metric(name: str, probabilities: bool = False, **settings: Any) -> Metric:
    """A fresh metric by its name in `kdplan.nn.catalog.METRICS`.

    Parameters
    ----------
    name : str
    probabilities : bool
        What it will be fed with are probabilities, not logits.
    **settings
        As in the table.

    Raises
    ------
    ValueError
        If there is no such metric or setting, the metric reads no outputs, or a value is impossible.

    Examples
    --------
    >>> build_metric("topk", k=3).k
    3
    """
    spec = row(METRICS, "metric", name, settings)
    if not spec.implementation:
        raise ValueError(f"`{name}` is a number of the network, not of its outputs")
    metric: Metric = load(spec.implementation)(probabilities=probabilities, **settings)
    return metric


def metric_of(item: Item, groups: Mapping[str, Sequence[int]], probabilities: bool = False) -> Metric:
    """A fresh metric as a plan writes it, with the superclasses that it reads.

    Raises
    ------
    ValueError
        If it reads superclasses and there are none, or as `build_metric` does.
    """
    settings = dict(item.arguments)
    if reads_groups(item):
        settings["groups"] = list(groups.values())
        if not groups:
            raise ValueError("the data has no superclasses")
    return build_metric(item.name, probabilities=probabilities, **settings)


def count_parameters(net: nn.Module) -> int:
    """Parameters of a network, each counted once; buffers are none.

    Examples
    --------
    >>> count_parameters(nn.Linear(3, 2))
    8
    """
    return sum(p.numel() for p in net.parameters())
