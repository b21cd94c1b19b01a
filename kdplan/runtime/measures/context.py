"""Data that metrics read besides a view's samples: superclasses and the training part."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kdplan.data.dataset import Dataset
from kdplan.data.of_plan import groups_of
from kdplan.ir.plan import Item, Plan, View
from kdplan.runtime.views import opened


@dataclass(frozen=True, slots=True)
class MeasureContext:
    """Data that metrics read besides a view's samples: superclasses and the training part.

    Parameters
    ----------
    groups : callable
        Metric -> its superclasses, each with its classes; {} where there are none.
    train : callable
        Opens the same data's `train` part.
    """

    groups: Callable[[Item], dict[str, list[int]]]
    train: Callable[[], Dataset]


def measure_context(plan: Plan, view: View, root: Path | None, device: torch.device) -> MeasureContext:
    """The superclasses and the training part of a view's data."""
    train = replace(view, split="train")
    return MeasureContext(
        lambda metric: groups_of(plan.data[view.data], view, metric), lambda: opened(plan, train, root, device)
    )
