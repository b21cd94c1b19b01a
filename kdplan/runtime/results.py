"""The numbers that a measure ends in, as plain values with a JSON form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(slots=True)
class Number:
    """One cell: the mean over runs, the sample standard deviation, how many runs, and each run's value."""

    mean: float
    std: float | None
    """Over n - 1; None for a single run."""
    n: int
    values: list[float]

    @staticmethod
    def of(values: Sequence[float]) -> Number:
        """The number of some runs; NaN in one run makes the mean NaN, never disappears.

        >>> Number.of([1.0, 2.0, 3.0])
        Number(mean=2.0, std=1.0, n=3, values=[1.0, 2.0, 3.0])
        """
        assert values
        every = [float(v) for v in values]
        finite = all(math.isfinite(v) for v in every)
        mean = statistics.fmean(every) if finite else math.nan
        std = None if len(every) < 2 else statistics.stdev(every) if finite else math.nan
        return Number(mean, std, len(every), every)


@dataclass(slots=True)
class ResultRow:
    """One line of the table."""

    label: str
    coordinates: dict[str, Any]
    """The axis values that the line stands for; axes that were averaged are left out."""
    values: dict[str, dict[str, Number]]
    """Snapshot (`last`, `best`) -> metric -> number."""
    view: str = ""
    """The data that it was measured on: one of the table's views."""


@dataclass(slots=True)
class MeasureResult:
    """A measure's table.

    Examples
    --------
    >>> row = ResultRow("small@kd", {"weight": 5}, {"last": {"top1": Number.of([0.5, 0.75])}}, "digits.test")
    >>> table = MeasureResult("table", ["top1"], ["digits.test"], [row], ["seed"])
    >>> MeasureResult.from_json(table.to_json()) == table
    True
    """

    name: str
    metrics: list[str]
    views: list[str]
    rows: list[ResultRow] = field(default_factory=list)
    over: list[str] = field(default_factory=list)
    """The axes that were averaged."""

    def to_json(self) -> dict[str, Any]:
        """Plain values. NaN stays a float here; the store writes it as text."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Any]) -> MeasureResult:
        """The inverse of `to_json`, also after the store has written and read it."""
        rows = [
            ResultRow(
                row["label"],
                row["coordinates"],
                {
                    snapshot: {metric: _number(n) for metric, n in numbers.items()}
                    for snapshot, numbers in row["values"].items()
                },
                row["view"],
            )
            for row in data["rows"]
        ]
        return MeasureResult(data["name"], data["metrics"], data["views"], rows, data["over"])


def _number(data: dict[str, Any]) -> Number:
    std = None if data["std"] is None else float(data["std"])
    return Number(float(data["mean"]), std, data["n"], [float(v) for v in data["values"]])
