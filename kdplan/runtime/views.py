"""From a plan's data and views to opened data sets."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

import torch

from kdplan.data.dataset import Dataset, open_view
from kdplan.data.transforms import transform
from kdplan.data.view import SplitRule, ViewSpec
from kdplan.diagnostics.report import error
from kdplan.ir.plan import Plan, View
from kdplan.runtime.measured import described


def view_spec(plan: Plan, view: View) -> ViewSpec:
    """What `kdplan.data` opens for a view of the plan.

    >>> from kdplan.ir.plan import Data, Item
    >>> view_spec(Plan(data={"d": Data("d", Item("digits"), limit=5)}), View("d", "train")).limit
    5
    """
    data = plan.data[view.data]
    rule = None
    if data.split is not None:
        parts = dict(data.split.arguments)
        seed = int(parts.pop("seed", 0))
        kind: Literal["per_class", "fraction"] = "per_class" if data.split.name == "per_class" else "fraction"
        rule = SplitRule(kind, tuple((str(n), v) for n, v in parts.items()), seed)
    normal = data.normalize
    return ViewSpec(
        source=data.source.name,
        args=tuple(data.source.arguments.items()),
        split=view.split,
        rule=rule,
        # a test split is measured whole, however little of the training split is used
        fraction=data.fraction if view.split == "train" else 1.0,
        limit=data.limit if view.split == "train" else None,
        seed=data.seed,
        classes=tuple(view.classes.ids) if view.classes is not None else None,
        unlabelled=view.unlabelled,
        augment=tuple(transform(item.name, (), item.arguments, item.span) for item in data.augment),
        normalize="source" if normal is None else (tuple(normal[0]), tuple(normal[1])),
    )


def opened(plan: Plan, view: View, root: Path | None, device: torch.device) -> Dataset:
    """The view's samples, on the device."""
    return open_view(view_spec(plan, view), root, device, span=view.span)


def require_samples(data: Dataset, view: View, phase: str) -> Dataset:
    """The data set, unless it is empty (KD0823)."""
    if len(data) == 0:
        raise error("KD0823", view.span, phase=phase, view=described(view))
    return data
