"""From a plan's data and views to what this package opens; no torch here."""

from __future__ import annotations

from kdplan.data.protocol import ProtocolRule
from kdplan.data.transforms import transform
from kdplan.data.view import SplitKind, SplitRule, ViewSpec
from kdplan.ir.plan import Data, Item, View


def view_of_data(data: Data, view: View) -> ViewSpec:
    """What is opened for a view of `data`.

    >>> from kdplan.ir.plan import Item
    >>> view_of_data(Data("d", Item("digits"), limit=5), View("d", "train")).limit
    5
    """
    rule = None
    if data.split is not None:
        parts = dict(data.split.arguments)
        seed = int(parts.pop("seed", 0))
        kind: SplitKind = "per_class" if data.split.name == "per_class" else "fraction"
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
        protocol=ProtocolRule(**data.protocol.arguments) if data.protocol is not None else None,
    )


def groups_of(data: Data, view: View, metric: Item) -> dict[str, list[int]]:
    """The superclasses that a metric reads, in the view's class numbers: those it names, else the data's own.

    Superclasses of which the view has no class are left out; {} where there are none at all.

    >>> from kdplan.ir.plan import ClassSet
    >>> data = Data("d", Item("digits"), superclasses={"low": [0, 1], "high": [8, 9]})
    >>> groups_of(data, View("d", "test", ClassSet("d", [9, 1])), Item("siblings"))
    {'low': [1], 'high': [0]}
    """
    given = metric.arguments.get("groups")
    named = data.superclasses if given is None else {str(i): ids for i, ids in enumerate(given)}
    if view.classes is None:
        return {name: list(ids) for name, ids in named.items() if ids}
    number = {c: i for i, c in enumerate(view.classes.ids)}
    groups = {name: [number[c] for c in ids if c in number] for name, ids in named.items()}
    return {name: ids for name, ids in groups.items() if ids}
