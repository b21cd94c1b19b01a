"""From a plan's data and views to opened data sets."""

from __future__ import annotations

from pathlib import Path

import torch

from kdplan.data.dataset import Dataset, open_view
from kdplan.data.of_plan import view_of_data
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import error
from kdplan.ir.plan import Plan, View
from kdplan.runtime.measures.labels import described


def view_spec(plan: Plan, view: View) -> ViewSpec:
    """The specification that `kdplan.data` opens for a view of the plan.

    >>> from kdplan.ir.plan import Data, Item
    >>> view_spec(Plan(data={"d": Data("d", Item("digits"), limit=5)}), View("d", "train")).limit
    5
    """
    return view_of_data(plan.data[view.data], view)


def opened(plan: Plan, view: View, root: Path | None, device: torch.device) -> Dataset:
    """The view's samples, on the device."""
    return open_view(view_spec(plan, view), root, device, span=view.span)


def require_samples(data: Dataset, view: View, phase: str) -> Dataset:
    """The data set, unless it is empty (KD0823)."""
    if len(data) == 0:
        raise error("KD0823", view.span, phase=phase, view=described(view))
    return data
