"""The spans of a plan as plain values, so that a plan that went through JSON reports mistakes where they stand."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from typing import Any

from kdplan.diagnostics.span import Source, Span


def dump_spans(value: Any) -> dict[str, Any]:
    """The locations in a tree of dataclasses, lists and dictionaries, in the order of its fields, with their sources.

    Examples
    --------
    >>> from kdplan.ir.plan import Item
    >>> item = Item("sgd", span=Span(Source("a.kd", "x = sgd()"), 4, 9))
    >>> dump_spans(item)
    {'sources': [['a.kd', 'x = sgd()']], 'spans': [[0, 4, 9], None]}
    >>> copy = Item("sgd")
    >>> load_spans(copy, dump_spans(item))
    >>> str(copy.span), copy.span.text
    ('a.kd:1:5', 'sgd()')
    """
    sources: dict[int, Source] = {}
    numbers: dict[int, int] = {}

    def plain(there: Any) -> Any:
        if isinstance(there, Span):
            source = sources.setdefault(id(there.source), there.source)
            return [numbers.setdefault(id(source), len(numbers)), there.start, there.end]
        if isinstance(there, dict):
            return {"map": {str(name): plain(one) for name, one in there.items()}}
        if isinstance(there, list | tuple):
            return {"list": [plain(one) for one in there]}
        return there if isinstance(there, str | int | float) else None

    spans = [plain(getattr(owner, name)) for owner, name in _locations(value)]
    return {"sources": [[source.path, source.text] for source in sources.values()], "spans": spans}


def load_spans(value: Any, data: dict[str, Any]) -> None:
    """Sets the locations of a tree that equals the one of which `dump_spans` gave `data`."""
    sources = [Source(path, text) for path, text in data["sources"]]

    def spans(there: Any) -> Any:
        if isinstance(there, list):
            return Span(sources[there[0]], there[1], there[2])
        if isinstance(there, dict) and "map" in there:
            return {name: spans(one) for name, one in there["map"].items()}
        return [spans(one) for one in there["list"]] if isinstance(there, dict) else there

    for (owner, name), there in zip(_locations(value), data["spans"], strict=True):
        object.__setattr__(owner, name, spans(there))


def _locations(value: Any) -> Iterator[tuple[Any, str]]:
    """The owner and the name of every field that is a `Location`."""
    if is_dataclass(value):
        for field in fields(value):
            if field.type == "Location":
                yield value, field.name
            else:
                yield from _locations(getattr(value, field.name))
    elif isinstance(value, dict):
        for one in value.values():
            yield from _locations(one)
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _locations(one)
