"""Numbers and tables of measures, as plain values with a JSON form."""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field

from kdplan.ir.plan import Plain
from kdplan.runtime.claims.paired import Paired


@dataclass(frozen=True)
class Drawn:
    """A number with a plot: `kind` is the kind of plot, `data` its plain values."""

    value: float
    kind: str
    data: dict[str, Plain]


Measured = float | list[float] | Drawn
"""A metric's value of one run: a number, one for each split of a protocol, or one with a plot."""


def as_measured(stored: Plain) -> Measured:
    """From the store's form, in which NaN is a string.

    >>> as_measured("nan"), as_measured({"value": 0.5, "kind": "scatter", "data": {}})
    (nan, Drawn(value=0.5, kind='scatter', data={}))
    """
    if isinstance(stored, dict):
        return Drawn(float(stored["value"]), stored["kind"], stored["data"])
    return [float(v) for v in stored] if isinstance(stored, list) else float(stored)


def as_stored(value: Measured) -> Plain:
    """The inverse of `as_measured`."""
    return asdict(value) if isinstance(value, Drawn) else value


def pooled(runs: Sequence[Drawn]) -> Drawn | None:
    """One plot of several runs, where they can be added up: counts in matrices. None for other kinds.

    >>> one = Drawn(50.0, "matrix", {"matrix": [[1, 0], [2, 3]], "classes": ["a", "b"]})
    >>> pooled([one, one]).data["matrix"]
    [[2, 0], [4, 6]]
    """
    first = runs[0]
    if first.kind != "matrix":
        return None
    columns = [zip(*(run.data["matrix"][i] for run in runs), strict=True) for i in range(len(first.data["matrix"]))]
    value = _mean([run.value for run in runs])
    return Drawn(value, first.kind, {**first.data, "matrix": [[sum(cells) for cells in row] for row in columns]})


def _mean(values: Sequence[float]) -> float:
    return statistics.fmean(values) if all(map(math.isfinite, values)) else math.nan


def _deviation(values: Sequence[float]) -> float | None:
    """Over n - 1; None for a single value."""
    if len(values) < 2:
        return None
    return statistics.stdev(values) if all(map(math.isfinite, values)) else math.nan


@dataclass(slots=True)
class Splits:
    """The values of one protocol's splits: the same data, cut anew; another kind of chance than that of runs."""

    std: float
    """Over the splits of a run, by n - 1; of several runs the root of the mean square."""
    n: int
    values: list[list[float]]
    """Each run's value on each split."""


@dataclass(slots=True)
class Number:
    """One cell: the mean over runs, the sample standard deviation, how many runs, and each run's value."""

    mean: float
    std: float | None
    """Over n - 1; None for a single run."""
    n: int
    values: list[float]
    splits: Splits | None = None
    """Where a run has one value for each split, of which `values` has the mean."""
    delta: Paired | None = None
    """The differences to the table's baseline, run by run."""

    @staticmethod
    def of(values: Sequence[Measured]) -> Number:
        """The number of some runs; NaN in one run makes the mean NaN, never disappears.

        >>> Number.of([1.0, 2.0, 3.0])
        Number(mean=2.0, std=1.0, n=3, values=[1.0, 2.0, 3.0], splits=None, delta=None)
        >>> Number.of([[1.0, 3.0], [4.0, 6.0]]).splits
        Splits(std=1.4142135623730951, n=2, values=[[1.0, 3.0], [4.0, 6.0]])
        """
        assert values
        plain = [v.value if isinstance(v, Drawn) else v for v in values]
        every = [_mean(v) if isinstance(v, list) else float(v) for v in plain]
        return Number(_mean(every), _deviation(every), len(every), every, _splits(values))


def _splits(runs: Sequence[Measured]) -> Splits | None:
    cut = [[float(v) for v in run] for run in runs if isinstance(run, list)]
    if not cut or len(cut[0]) < 2:
        return None
    return Splits(math.sqrt(statistics.fmean((_deviation(run) or 0.0) ** 2 for run in cut)), len(cut[0]), cut)


@dataclass(slots=True)
class ResultRow:
    """One line of the table."""

    label: str
    coordinates: dict[str, Plain]
    """The axis values that the line stands for; axes that were averaged are left out."""
    values: dict[str, dict[str, Number]]
    """Snapshot (`last`, `best`) -> metric -> number."""
    view: str = ""
    """The data that it was measured on: one of the table's views."""


@dataclass(slots=True)
class Curves:
    """A plot: for each version the numbers along an axis, and level lines."""

    x: str
    y: str
    lines: dict[str, list[tuple[Plain, Number]]]
    """Version -> points in the order of the axis."""
    levels: dict[str, Number] = field(default_factory=dict)
    view: str = ""
    band: str = "std"


@dataclass(slots=True)
class Panel:
    """One part of a metric's plot: its row, the kind of plot, and its values."""

    title: str
    metric: str
    kind: str
    data: dict[str, Plain]


@dataclass(slots=True)
class MeasureResult:
    """A measure's table, and its plots.

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
    by: list[str] = field(default_factory=list)
    """The axes whose values are the lines; versions are columns then."""
    plots: list[Curves] = field(default_factory=list)
    panels: list[Panel] = field(default_factory=list)
    verticals: str = ""
    """The verticals, each of which was measured by itself, if there are any."""
    baseline: str = ""
    """The version that numbers are compared with, if there is one."""

    def to_json(self) -> dict[str, Plain]:
        """Plain values. NaN stays a float here; the store writes it as a string."""
        return asdict(self)

    @staticmethod
    def from_json(data: dict[str, Plain]) -> MeasureResult:
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
        plots = [
            Curves(
                p["x"],
                p["y"],
                {label: [(x, _number(n)) for x, n in points] for label, points in p["lines"].items()},
                {label: _number(n) for label, n in p["levels"].items()},
                p["view"],
                p.get("band", "std"),
            )
            for p in data.get("plots", ())
        ]
        panels = [Panel(**p) for p in data.get("panels", ())]
        by = data.get("by", [])
        verticals = data.get("verticals", "")
        return MeasureResult(
            data["name"], data["metrics"], data["views"], rows, data["over"], by, plots, panels, verticals,
            data.get("baseline", ""),
        )  # fmt: skip


def _number(data: dict[str, Plain]) -> Number:
    std = None if data["std"] is None else float(data["std"])
    by_split = data.get("splits")
    splits = None
    if by_split is not None:
        splits = Splits(float(by_split["std"]), by_split["n"], [[float(v) for v in run] for run in by_split["values"]])
    delta = data.get("delta")
    shown = None
    if delta is not None:
        shown = Paired(**{k: v if v is None or k == "n" else float(v) for k, v in delta.items()})  # type: ignore[arg-type]
    return Number(float(data["mean"]), std, data["n"], [float(v) for v in data["values"]], splits, shown)
