"""How much a plan may be when it is evaluated: limits on what it makes beyond what is written in it."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, fields, replace
from typing import Any

from kdplan.diagnostics.report import error, suggestion


@dataclass(frozen=True, slots=True)
class Limits:
    """What evaluating a plan may make and use.

    What is written counts for nothing: 10,000 phases may be written out. What axes, families, constructs, ranges and
    comprehensions make of it is limited.
    """

    instances: int = 3_000
    """Networks and phases beyond those that are written."""
    elements: int = 100_000
    """Values beyond those that are written, and 20 for each instance: items of lists, and what expressions give."""
    nodes: int = 5_000
    """Nodes of an expression of signals beyond those that are written: operators, calls, taps, numbers."""
    digits: int = 300
    """Decimal digits of a number."""
    memory: int = 400
    """Megabytes, and 250 for each million characters of the plan."""
    seconds: float = 1.5
    """Seconds of one processor, and a millisecond for each instance and each 100 characters of the plan."""


DEFAULT = Limits()
MEANINGS = {
    "instances": "networks and phases that axes, families and constructs make",
    "elements": "values that ranges, comprehensions and expressions make",
    "nodes": "nodes of one expression of signals",
    "digits": "decimal digits of a number",
    "memory": "megabytes that evaluation needs",
    "seconds": "seconds of one processor that evaluation takes",
}
"""What each limit is on, for messages and the reference."""


def read_limits(settings: Iterable[str], limits: Limits = DEFAULT) -> Limits:
    """Limits with those of `--limit NAME=NUMBER` changed.

    Raises
    ------
    PlanError
        KD1107 for a name or a number that is none.

    Examples
    --------
    >>> read_limits(["instances=20000", "seconds=60"]).instances
    20000
    """
    kinds = {f.name: float if f.name == "seconds" else int for f in fields(Limits)}
    changed: dict[str, Any] = {}
    for text in settings:
        name, _, value = (part.strip() for part in text.partition("="))
        if name not in kinds:
            raise error("KD1107", None, text=text, what="names no limit", help=suggestion(name, kinds))
        try:
            number = kinds[name](value.replace("_", ""))
        except ValueError:
            number = 0
        if not 0 < number < 10**15:
            raise error("KD1107", None, text=text, what="gives no number above 0")
        changed[name] = number
    return replace(limits, **changed)
