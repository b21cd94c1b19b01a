"""Metrics of a detector's boxes on data that has them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import nn

from kdplan.data.loader import Loader
from kdplan.diagnostics.report import error
from kdplan.ir.outputs import is_output
from kdplan.ir.plan import Item, Target
from kdplan.nn.catalog import METRICS
from kdplan.nn.detections import AveragePrecision
from kdplan.runtime.measures.results import Measured


def of_boxes(metric: Item) -> bool:
    """Whether a metric compares boxes."""
    return metric.name in METRICS and METRICS[metric.name].needs == "boxes"


@torch.no_grad()
def precisions(
    networks: Sequence[nn.Module], target: Target, loader: Loader, metrics: Sequence[Item]
) -> dict[str, Measured]:
    """Average precisions of a detector by the metrics' names; all of them cost one pass.

    Raises
    ------
    PlanError
        KD0840 for a network that is no detector, and for a part of a detector.
    """
    wanted = [m for m in metrics if of_boxes(m)]
    if not wanted:
        return {}
    reason = "it measures one network." if len(networks) > 1 else "it reads the final output of a detector."
    if len(networks) > 1 or not is_output(target.path):
        raise error("KD0840", wanted[0].span, metric=wanted[0].name, reason=reason)
    precision = AveragePrecision()
    for batch in loader.epoch(0):
        try:
            boxes = networks[0](batch["inputs"], sizes=batch["sizes"])
        except TypeError as problem:  # not called as a detector is
            reason = f"it reads boxes, and the network gives none ({problem})."
            raise error("KD0840", wanted[0].span, metric=wanted[0].name, reason=reason) from problem
        precision.update(boxes, batch)
    known = precision.compute()
    return {m.name: known[m.name] for m in wanted}
