"""How tables and messages name metrics and views."""

from __future__ import annotations

import hashlib
import json

from kdplan.ir.plan import Item, Plain, View


def label_of(metric: Item) -> str:
    """A metric as tables name it.

    >>> label_of(Item("topk", {"k": 3})), label_of(Item("top1"))
    ('topk(k = 3)', 'top1')
    >>> label_of(Item("siblings", {"groups": [[0, 1], [2, 3]]}))
    'siblings(groups = 2 parts #72b5)'
    """
    settings = ", ".join(f"{name} = {_short(value)}" for name, value in metric.arguments.items())
    return f"{metric.name}({settings})" if settings else metric.name


def _short(value: Plain) -> str:
    """A setting's value; of a partition of classes the number of its parts, and a word that sets it apart."""
    if isinstance(value, list) and all(isinstance(part, list) for part in value):
        return f"{len(value)} parts #{hashlib.sha256(json.dumps(value).encode()).hexdigest()[:4]}"
    return str(value)


def described(view: View) -> str:
    """A view as tables and messages name it: `digits.test`, `cifar[animals].train`.

    >>> described(View("digits", "test"))
    'digits.test'
    """
    part = f"[{view.classes.label or len(view.classes.ids)}]" if view.classes is not None else ""
    return f"{view.data}{part}.{'unlabelled' if view.unlabelled else view.split}"
