"""Metrics of a detector's boxes on data that has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kdplan.data.loader import Loader
from kdplan.diagnostics.report import error
from kdplan.ir.plan import Item
from kdplan.nn.catalog import METRICS
from kdplan.nn.detections import AveragePrecision, gives_boxes
from kdplan.runtime.measures.results import Measured


def of_boxes(metric: Item) -> bool:
    """Whether a metric compares boxes."""
    return metric.name in METRICS and METRICS[metric.name].needs == "boxes"


@torch.no_grad()
def precisions(networks: Sequence[nn.Module], loader: Loader, metrics: Sequence[Item]) -> dict[str, Measured]:
    """Average precisions of a detector by the metrics' names; all of them cost one pass.

    Raises
    ------
    PlanError
        KD0840 for a network that is no detector.
    """
    wanted = [m for m in metrics if of_boxes(m)]
    if not wanted:
        return {}
    if not gives_boxes(networks[0]):
        reason = "it reads boxes, and the network gives none."
        raise error("KD0840", wanted[0].span, metric=wanted[0].name, reason=reason)
    precision = AveragePrecision()
    for batch in loader.epoch(0):
        precision.update(networks[0](batch["inputs"], sizes=batch["sizes"]), batch)
    known = precision.compute()
    return {m.name: known[m.name] for m in wanted}
