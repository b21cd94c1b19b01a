"""How tables and messages name metrics and views."""

from __future__ import annotations

import hashlib

from kdplan.ir.plan import Item, Plain, View

LONGEST = 48
"""Settings with more characters are shortened."""


def label_of(metric: Item) -> str:
    """A metric as tables name it.

    >>> label_of(Item("topk", {"k": 3})), label_of(Item("top1"))
    ('topk(k = 3)', 'top1')
    >>> label_of(Item("siblings", {"groups": [[0, 1], [2, 3]]}, written={"groups": "half"}))
    'siblings(groups = half)'
    >>> label_of(Item("siblings", {"groups": [[0, 1], [2, 3]]}))
    'siblings(groups = [[0, 1], [2, 3]])'
    """
    written = metric.written or {}
    settings = ", ".join(f"{name} = {_short(written.get(name, value))}" for name, value in metric.arguments.items())
    return f"{metric.name}({settings})" if settings else metric.name


def _short(value: Plain) -> str:
    """A setting's value; a long one is shortened, with a word that sets it apart from others that begin alike."""
    text = str(value)
    return text if len(text) <= LONGEST else f"{text[:24]} … #{hashlib.sha256(text.encode()).hexdigest()[:4]}"


def described(view: View) -> str:
    """A view as tables and messages name it: `digits.test`, `cifar[animals].train`.

    >>> described(View("digits", "test"))
    'digits.test'
    """
    part = f"[{view.classes.label or len(view.classes.ids)}]" if view.classes is not None else ""
    return f"{view.data}{part}.{'unlabelled' if view.unlabelled else view.split}"
