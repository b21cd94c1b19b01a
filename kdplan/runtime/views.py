"""From a plan's data and views to opened data sets."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import torch

from kdplan.data.catalog import open_source
from kdplan.data.dataset import Dataset, open_view
from kdplan.data.of_plan import view_of_data
from kdplan.data.sources.user import USER
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import error, listing
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


def check_content(plan: Plan, views: Iterable[View], root: Path | None, what: str, later: bool = False) -> None:
    """Look at files again, which must be those that the plan was compiled with.

    Parameters
    ----------
    what
        What reads them, for the message.
    later
        Only those that are read sample by sample, after they were read.

    Raises
    ------
    PlanError
        KD0829 for other content. What a function of the user makes is not looked at, nor data of a plan without hashes.
    """
    one_each = {view.data: view for view in views}
    other = {name: view for name, view in one_each.items() if _differs(plan, view, root, later)}
    if other:
        raise error("KD0829", next(iter(other.values())).span, data=listing(other), what=what)


def _differs(plan: Plan, view: View, root: Path | None, later: bool) -> bool:
    data = plan.data[view.data]
    if not data.fingerprint or ":" in data.source.name or data.source.name == USER.name:
        return False
    source = open_source(data.source.name, dict(data.source.arguments), root, span=view.span)
    if later and all(part.files is None for part in source.parts.values()):
        return False
    return source.fingerprint() != data.fingerprint


def require_samples(data: Dataset, view: View, phase: str) -> Dataset:
    """The data set, unless it is empty (KD0823)."""
    if len(data) == 0:
        raise error("KD0823", view.span, phase=phase, view=described(view))
    return data
