"""Measures as tables: for the terminal, CSV, Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any

from rich.table import Table
from rich.text import Text

from kdplan.nn.catalog import METRICS
from kdplan.runtime.results import MeasureResult, Number
from kdplan.runtime.store.atomic import plain

Cell = tuple[str, str]
"""A snapshot and a metric: one column of numbers."""


def columns(result: MeasureResult) -> list[Cell]:
    """The columns of numbers: each metric's `last`, then its `best` where any row has it."""
    snapshots = list(dict.fromkeys(["last", "best", *(s for r in result.rows for s in r.values)]))
    return [(s, m) for m in result.metrics for s in snapshots if any(m in r.values.get(s, {}) for r in result.rows)]


def axes(result: MeasureResult) -> list[str]:
    """The axes whose values are told by the rows."""
    return list(dict.fromkeys(axis for row in result.rows for axis in row.coordinates))


def number(value: Number | None, unit: str = "nats") -> str:
    """A cell: the mean, the sample standard deviation over runs, and how many there were.

    >>> number(Number.of([0.5, 0.75, 1.0])), number(Number.of([92.2222]), "%"), number(None)
    ('0.7500 ± 0.2500 (n = 3)', '92.22', '')
    >>> number(Number.of([1009.0, 1009.0]), "")
    '1,009'
    """
    if value is None:
        return ""
    text = _fixed(value.mean, unit)
    counted = unit == "" and not value.std
    return text if value.std is None or counted else f"{text} ± {_fixed(value.std, unit)} (n = {value.n})"


def _fixed(value: float, unit: str) -> str:
    """Counts in full, percentages with two digits, all else with four that count."""
    if not math.isfinite(value):
        return str(value)
    if unit == "":
        return f"{value:,.0f}"
    if unit == "%":
        return f"{value:.2f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def _unit(metric: str) -> str:
    spec = METRICS.get(metric.partition("(")[0])
    return spec.unit if spec is not None else "nats"


def header(cell: Cell, result: MeasureResult) -> str:
    """A column's name; the snapshot is told where there are several."""
    several = len({s for s, _ in columns(result)}) > 1
    return f"{cell[1]} ({cell[0]})" if several else cell[1]


def texts(result: MeasureResult) -> tuple[list[str], list[list[str]]]:
    """Header and rows as texts."""
    cells, several_views = columns(result), len(result.views) > 1
    head = ["network", *(["data"] if several_views else []), *axes(result), *(header(c, result) for c in cells)]
    rows = []
    for row in result.rows:
        line = [row.label, *([row.view] if several_views else [])]
        line += [str(row.coordinates.get(a, "")) for a in axes(result)]
        line += [number(row.values.get(s, {}).get(m), _unit(m)) for s, m in cells]
        rows.append(line)
    return head, rows


def rich_table(result: MeasureResult) -> Table:
    """For the terminal."""
    head, rows = texts(result)
    told = len(head) - len(columns(result))
    on = f" on {result.views[0]}" if len(result.views) == 1 else ""
    over = f", mean ± sample standard deviation over {' and '.join(result.over)}" if _averaged(result) else ""
    table = Table(title=Text(f"{result.name}{on}{over}"), title_justify="left", title_style="bold", header_style="bold")
    for i, name in enumerate(head):
        table.add_column(name, justify="left" if i < told else "right", no_wrap=i >= told)
    for line in rows:
        table.add_row(*(Text(t) for t in line))
    return table


def _averaged(result: MeasureResult) -> bool:
    return any(n.n > 1 for r in result.rows for numbers in r.values.values() for n in numbers.values())


def to_markdown(result: MeasureResult) -> str:
    """A table for a document.

    >>> from kdplan.runtime.results import ResultRow
    >>> row = ResultRow("small@kd", {}, {"last": {"top1": Number.of([0.5])}}, "digits.test")
    >>> print(to_markdown(MeasureResult("table", ["top1"], ["digits.test"], [row])))
    | network | top1 |
    |---|---:|
    | small@kd | 0.50 |
    <BLANKLINE>
    """
    head, rows = texts(result)
    told = len(head) - len(columns(result))
    lines = [head, ["---" if i < told else "---:" for i in range(len(head))], *rows]
    text = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text) + "\n"


def to_csv(result: MeasureResult) -> str:
    """One line a row and view; for each number its mean, standard deviation and count, with all digits."""
    cells = columns(result)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    names = [f"{m}_{s}{tail}" for s, m in cells for tail in ("", "_std", "_n")]
    writer.writerow(["network", "data", *axes(result), *names])
    for row in result.rows:
        line: list[Any] = [row.label, row.view, *(row.coordinates.get(a, "") for a in axes(result))]
        for snapshot, metric in cells:
            n = row.values.get(snapshot, {}).get(metric)
            line += ["", "", ""] if n is None else [repr(n.mean), "" if n.std is None else repr(n.std), n.n]
        writer.writerow(line)
    return out.getvalue()


def to_json(result: MeasureResult) -> str:
    """Everything, each run's value too; NaN and infinities are texts, as JSON has no such numbers."""
    return json.dumps(plain(result.to_json()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
