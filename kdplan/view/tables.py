"""Measures as tables: for the terminal, CSV, Markdown and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Collection, Iterable

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdplan.ir.plan import Plain
from kdplan.nn.catalog import METRICS
from kdplan.runtime.measures.results import MeasureResult, Number, ResultRow
from kdplan.runtime.store.atomic import plain

Cell = tuple[str, str]
"""A snapshot and a metric: one column of numbers."""


def columns(result: MeasureResult) -> list[Cell]:
    """Return the columns of numbers: for each metric `last`, then `best` and other snapshots where any row has them."""
    snapshots = list(dict.fromkeys(["last", "best", *(s for r in result.rows for s in r.values)]))
    return [(s, m) for m in result.metrics for s in snapshots if any(m in r.values.get(s, {}) for r in result.rows)]


def axes(result: MeasureResult) -> list[str]:
    """Return the axes whose values the rows have."""
    return list(dict.fromkeys(axis for row in result.rows for axis in row.coordinates))


def number(value: Number | None, unit: str = "nats") -> str:
    """Return a cell: the mean, the sample standard deviation over runs, and their number.

    Where a run has a number for each split, the deviation over splits comes first: the two are never pooled.

    >>> number(Number.of([0.5, 0.75, 1.0])), number(Number.of([92.2222]), "%"), number(None)
    ('0.7500 ± 0.2500 (n = 3)', '92.22', '')
    >>> number(Number.of([[90.0, 92.0, 94.0]]), "%"), number(Number.of([[90.0, 92.0, 94.0], [91.0, 93.0, 95.0]]), "%")
    ('92.00 ± 2.00 (3 splits)', '92.50 ± 2.00 ± 0.71 (3 splits, n = 2)')
    >>> number(Number.of([1009.0, 1009.0]), "")
    '1,009'
    """
    if value is None:
        return ""
    text = fixed(value.mean, unit)
    counts = []
    if value.splits is not None:
        text += f" ± {fixed(value.splits.std, unit)}"
        counts.append(f"{value.splits.n} splits")
    counted = unit == "" and not value.std
    if value.std is not None and not counted:
        text += f" ± {fixed(value.std, unit)}"
        counts.append(f"n = {value.n}")
    return f"{text} ({', '.join(counts)})" if counts else text


def fixed(value: float, unit: str) -> str:
    """Counts in full, percentages with two decimals, all else with four."""
    if not math.isfinite(value):
        return str(value)
    if unit == "":
        return f"{value:,.0f}"
    if unit == "%":
        return f"{value:.2f}"
    return f"{value:.4f}" if 1e-3 <= abs(value) < 1e5 or value == 0 else f"{value:.3e}"


def unit(metric: str) -> str:
    """Return the unit of a metric: "" of counts, "nats" of losses, "value" where the table has none.

    >>> unit("top1"), unit("kd(temperature = 4)")
    ('%', 'nats')
    """
    spec = METRICS.get(metric.partition("(")[0])
    return spec.unit or ("" if spec.needs == "network" else "value") if spec is not None else "nats"


def header(cell: Cell, result: MeasureResult) -> str:
    """Return a column's name, with the snapshot where the table has several."""
    several = len({s for s, _ in columns(result)}) > 1
    return f"{cell[1]} ({cell[0]})" if several else cell[1]


def texts(result: MeasureResult) -> tuple[int, list[str], list[list[str]]]:
    """Return the number of columns that describe a row, the header, and the rows, all cells as strings."""
    if result.by:
        return _crossed(result)
    cells, several_views = columns(result), len(result.views) > 1
    heads = [text for c in cells for text in _heads(header(c, result), _compared(c, result.rows))]
    head = ["network", *(["data"] if several_views else []), *axes(result), *heads]
    rows = []
    for row in result.rows:
        line = [row.label, *([row.view] if several_views else [])]
        line += [str(row.coordinates.get(a, "")) for a in axes(result)]
        line += [text for c in cells for text in _texts(_of(row, c), c[1], _compared(c, result.rows))]
        rows.append(line)
    return len(head) - len(heads), head, rows


def _heads(name: str, compared: bool) -> list[str]:
    return [name, f"Δ {name}"] if compared else [name]


def _texts(value: Number | None, metric: str, compared: bool) -> list[str]:
    shown = [number(value, unit(metric))]
    return [*shown, difference(value, unit(metric))] if compared else shown


def _compared(cell: Cell, rows: Iterable[ResultRow]) -> bool:
    """Whether any row has a difference to the baseline there."""
    return any((n := _of(row, cell)) is not None and n.delta is not None for row in rows)


def difference(value: Number | None, unit: str = "nats") -> str:
    """Return the mean difference to the baseline and Student's 95 % interval; of one run, the difference.

    >>> from kdplan.runtime.claims.paired import paired
    >>> difference(Number(1.0, None, 3, [], delta=paired([1.0, 2.0, 3.0])), "%")
    '+2.00 [-0.48, +4.48]'
    """
    if value is None or value.delta is None:
        return ""
    shown = value.delta
    text = _signed(shown.mean, unit)
    return text if not shown.std else f"{text} [{_signed(shown.fixed_low, unit)}, {_signed(shown.fixed_high, unit)}]"


def _signed(value: float, unit: str) -> str:
    return "+" * (value >= 0) + fixed(value, unit)


def _crossed(result: MeasureResult) -> tuple[int, list[str], list[list[str]]]:
    """Rows are the values of the axes in `by`; columns are the versions, each with its metrics."""
    by = [a for a in axes(result) if a in result.by]
    several_views = len(result.views) > 1
    lines: dict[tuple[str, ...], dict[str, ResultRow]] = {}
    versions: dict[str, None] = {}
    for row in result.rows:
        rest = ", ".join(f"{a} = {v}" for a, v in row.coordinates.items() if a not in by)
        version = f"{row.label}[{rest}]" if rest else row.label
        at = (*(str(row.coordinates.get(a, "")) for a in by), *([row.view] if several_views else []))
        versions[version] = None
        lines.setdefault(at, {})[version] = row
    cells = [(v, c) for v in versions for c in columns(result)]
    compared = {(v, c) for v, c in cells if _compared(c, [line[v] for line in lines.values() if v in line])}
    heads = [text for v, c in cells for text in _heads(f"{v} {header(c, result)}", (v, c) in compared)]
    head = [*by, *(["data"] if several_views else []), *heads]
    rows = []
    for at, results in lines.items():
        line = [*at]
        for version, cell in cells:
            value = _of(results[version], cell) if version in results else None
            line += _texts(value, cell[1], (version, cell) in compared)
        rows.append(line)
    return len(head) - len(heads), head, rows


def printed(result: MeasureResult, width: int) -> Group:
    """Return the table and its notes for a terminal; a table wider than `width` is several blocks of columns."""
    described, head, rows = texts(result)
    widths = [3 + max(map(len, (name, *(line[i] for line in rows)))) for i, name in enumerate(head)]
    blocks: list[list[int]] = [[]]
    for i in range(described, len(head)):
        if blocks[-1] and 1 + sum(widths[:described]) + sum(widths[j] for j in [*blocks[-1], i]) > width:
            blocks.append([])
        blocks[-1].append(i)
    shown = [rich_table(result, block, titled=block is blocks[0]) for block in blocks]
    return Group(*shown, *(Text(line) for line in notes(result)))


def rich_table(result: MeasureResult, only: Collection[int] | None = None, titled: bool = True) -> Table:
    """Return the table for a terminal; `only` are the columns of numbers to keep, all by default."""
    described, head, rows = texts(result)
    kept = [i for i in range(len(head)) if i < described or only is None or i in only]
    on = f" on {result.views[0]}" if len(result.views) == 1 else ""
    averaged = " and ".join(result.over) if _averaged(result) else ""
    deviations = [*(["splits"] if _split(result) else []), *([averaged] if averaged else [])]
    over = f", mean ± sample standard deviation over {' ± over '.join(deviations)}" if deviations else ""
    over += f"; Δ: difference to {result.baseline}, run by run, with Student's 95 % interval" if result.baseline else ""
    of = f", mean over {result.verticals}" if result.verticals and result.verticals not in result.by else ""
    title = Text(f"{result.name}{on}{of}{over}") if titled else None
    table = Table(title=title, title_justify="left", title_style="bold", header_style="bold")
    for i in kept:
        table.add_column(Text(head[i]), justify="left" if i < described else "right", no_wrap=i >= described)
    for line in rows:
        table.add_row(*(Text(line[i]) for i in kept))
    return table


def _averaged(result: MeasureResult) -> bool:
    return any(n.n > 1 for r in result.rows for numbers in r.values.values() for n in numbers.values())


def _split(result: MeasureResult) -> bool:
    return any(n.splits for r in result.rows for numbers in r.values.values() for n in numbers.values())


def notes(result: MeasureResult, most: int = 5) -> list[str]:
    """Return the notes below a table: the `most` frequent confusions of each confusion matrix.

    >>> from kdplan.runtime.measures.results import Panel
    >>> data = {"matrix": [[6, 4], [1, 3]], "classes": ["cat", "dog"], "groups": {}, "k": 1}
    >>> notes(MeasureResult("t", [], [], panels=[Panel("small@kd", "confusion", "matrix", data)]))
    ['small@kd, confusion: cat → dog 40.0 %, dog → cat 25.0 %']
    """
    lines = []
    for panel in result.panels:
        if panel.kind != "matrix":
            continue
        names, pairs = panel.data["classes"], []
        for i, row in enumerate(panel.data["matrix"]):
            whole = sum(row)
            pairs += [(count / whole, i, j) for j, count in enumerate(row) if count and i != j]
        pairs.sort(key=lambda pair: (-pair[0], *pair[1:]))
        confusions = ", ".join(f"{names[i]} → {names[j]} {100 * share:.1f} %" for share, i, j in pairs[:most])
        lines.append(f"{panel.title}, {panel.metric}: {confusions or 'no confusions'}")
    return lines


def to_markdown(result: MeasureResult) -> str:
    """Return the table in Markdown.

    >>> from kdplan.runtime.measures.results import ResultRow
    >>> row = ResultRow("small@kd", {}, {"last": {"top1": Number.of([0.5])}}, "digits.test")
    >>> print(to_markdown(MeasureResult("table", ["top1"], ["digits.test"], [row])))
    | network | top1 |
    |---|---:|
    | small@kd | 0.50 |
    <BLANKLINE>
    """
    described, head, rows = texts(result)
    lines = [head, ["---" if i < described else "---:" for i in range(len(head))], *rows]
    text = ["| " + " | ".join(c.replace("|", "\\|") for c in line) + " |" for line in lines]
    text[1] = text[1].replace(" ", "")
    return "\n".join(text) + "\n"


def _of(row: ResultRow, cell: Cell) -> Number | None:
    return row.values.get(cell[0], {}).get(cell[1])


def records(result: MeasureResult) -> tuple[list[str], list[list[Plain]]]:
    """Return the names of the columns and the rows: of each number the mean, standard deviation and count, in full.

    Columns for the deviation over splits and their number come after these where there are any.
    """
    cells = columns(result)
    cut = {c for c in cells if any(_of(r, c) and _of(r, c).splits for r in result.rows)}  # type: ignore[union-attr]
    tails = ("", "_std", "_n", "_splits_std", "_splits")
    names = []
    for s, m in cells:
        names += [f"{m}_{s}{tail}" for tail in tails[: 5 if (s, m) in cut else 3]]
        names += [f"{m}_{s}_delta{tail}" for tail in ("", "_low", "_high")] if _compared((s, m), result.rows) else []
    rows = []
    for row in result.rows:
        line: list[Plain] = [row.label, row.view, *(row.coordinates.get(a) for a in axes(result))]
        for cell in cells:
            n = _of(row, cell)
            line += [None, None, None] if n is None else [n.mean, n.std, n.n]
            if cell in cut:
                line += [None, None] if n is None or n.splits is None else [n.splits.std, n.splits.n]
            if _compared(cell, result.rows):
                d = n.delta if n is not None else None
                line += [None] * 3 if d is None else [d.mean, d.fixed_low, d.fixed_high]
        rows.append(line)
    return ["network", "data", *axes(result), *names], rows


def to_csv(result: MeasureResult) -> str:
    """Return `records` as CSV, numbers with all digits."""
    head, rows = records(result)
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(head)
    writer.writerows([repr(v) if isinstance(v, float) else v for v in row] for row in rows)
    return out.getvalue()


def to_json(result: MeasureResult) -> str:
    """Return the table as JSON, with each run's value; NaN and infinities are strings, as JSON has no such numbers."""
    return json.dumps(plain(result.to_json()), indent=1, ensure_ascii=False, allow_nan=False) + "\n"
