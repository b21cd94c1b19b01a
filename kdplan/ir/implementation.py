"""From a row of a table to the code behind it. The tables hold names, so that reading them needs no torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from importlib import import_module
from typing import Any, TypeVar

from kdplan.diagnostics.report import listing, nearest
from kdplan.ir.spec import Spec

S = TypeVar("S", bound=Spec)


@cache
def load(implementation: str) -> Callable[..., Any]:
    """The function or class that `module:name` names; its module is imported on the first call.

    Examples
    --------
    >>> load("math:sqrt")(9.0)
    3.0
    """
    module, _, name = implementation.partition(":")
    code: Callable[..., Any] = getattr(import_module(module), name)
    return code


def row(table: Mapping[str, S], what: str, name: str, settings: Mapping[str, object]) -> S:
    """The row `name` of a table, for a call with these settings.

    Parameters
    ----------
    table : mapping of str to Spec
    what : str
        What the rows are, for messages: "optimizer", "metric".
    name : str
    settings : mapping
        Arguments by name. Their values are the implementation's to check.

    Raises
    ------
    ValueError
        If there is no such row, it has no such setting, or one that it needs is missing.

    Examples
    --------
    >>> from kdplan.ir.optimizers import SCHEDULES
    >>> row(SCHEDULES, "schedule", "linear", {"final": 0.1}).implementation
    'kdplan.nn.schedules:Polynomial'
    >>> row(SCHEDULES, "schedule", "linear", {"end": 0.1})
    Traceback (most recent call last):
    ValueError: `linear` has no setting `end`; it has `final`
    """
    if name not in table:
        raise ValueError(f"there is no {what} `{name}`; {_instead(name, list(table), 'there are')}")
    spec = table[name]
    known = [p.name for p in spec.params]
    for setting in settings:
        if setting not in known:
            raise ValueError(f"`{name}` has no setting `{setting}`; {_instead(setting, known, 'it has')}")
    missing = [p.name for p in spec.params if p.required and p.name not in settings]
    if missing:
        raise ValueError(f"`{name}` needs {listing(missing)}")
    return spec


def _instead(word: str, known: list[str], have: str) -> str:
    near = nearest(word, known)
    return f"did you mean `{near}`?" if near else f"{have} {listing(known)}"
