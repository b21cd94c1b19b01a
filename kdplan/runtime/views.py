"""From a plan's data and views to opened data sets."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from kdplan.data.dataset import Dataset, open_view
from kdplan.data.of_plan import groups_of, view_of_data
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import error
from kdplan.ir.plan import Item, Plan, View
from kdplan.runtime.measures.table import described


def view_spec(plan: Plan, view: View) -> ViewSpec:
    """What `kdplan.data` opens for a view of the plan.

    >>> from kdplan.ir.plan import Data, Item
    >>> view_spec(Plan(data={"d": Data("d", Item("digits"), limit=5)}), View("d", "train")).limit
    5
    """
    return view_of_data(plan.data[view.data], view)


def opened(plan: Plan, view: View, root: Path | None, device: torch.device) -> Dataset:
    """The view's samples, on the device."""
    return open_view(view_spec(plan, view), root, device, span=view.span)


@dataclass(frozen=True, slots=True)
class Around:
    """What metrics may read of a view beside its samples.

    Parameters
    ----------
    groups : callable
        Superclass -> the classes in it, for a metric; {} where there are none.
    train : callable
        Opens the same data's `train` part.
    """

    groups: Callable[[Item], dict[str, list[int]]]
    train: Callable[[], Dataset]


def around(plan: Plan, view: View, root: Path | None, device: torch.device) -> Around:
    """What there is around a view of the plan."""
    train = replace(view, split="train")
    return Around(
        lambda metric: groups_of(plan.data[view.data], view, metric), lambda: opened(plan, train, root, device)
    )


def require_samples(data: Dataset, view: View, phase: str) -> Dataset:
    """The data set, unless it is empty (KD0823)."""
    if len(data) == 0:
        raise error("KD0823", view.span, phase=phase, view=described(view))
    return data
