"""The scoreboard of a plan's claims: for the terminal, CSV and JSON."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Sequence

from rich.console import Group
from rich.table import Table
from rich.text import Text

from kdplan.diagnostics.report import counted
from kdplan.runtime.claims.verdicts import ClaimResult, Outcome
from kdplan.runtime.store.atomic import plain
from kdplan.view.tables import fixed, unit

STYLES = {"holds": "green", "refuted": "red", "undecided": "yellow", "not run": "dim"}
SYMBOLS = {"holds": "✓", "refuted": "✗", "undecided": "?", "not run": "·"}
HEAD = [
    "",
    "claim",
    "metric",
    "comparison",
    "difference",
    "any-time interval",
    "fixed interval",
    "n",
    "wins",
    "verdict",
]


def scoreboard(results: Sequence[ClaimResult], level: float) -> Group:
    """Return the table of all tests, one line each, and a line that counts the verdicts."""
    table = Table(
        title=f"claims, at a level of {level:g}", title_justify="left", title_style="bold", header_style="bold"
    )
    for i, name in enumerate(HEAD):
        table.add_column(name, justify="right" if 4 <= i < 9 else "left", overflow="fold")
    views = {test.view for result in results for test in result.outcomes}
    for result in results:
        for test in result.outcomes:
            line = cells(test, with_view=len(views) > 1)
            table.add_row(*(Text(cell) for cell in line[:-1]), Text(line[-1], style=STYLES[test.verdict]))
    return Group(table, *(Text(line) for line in notes(results, level)))


def cells(test: Outcome, with_view: bool = False) -> list[str]:
    """Return a line of the scoreboard.

    >>> from kdplan.runtime.claims.paired import paired
    >>> test = Outcome("better", "top1", "digits.test", "big > small", ">", 0, 3, 1, paired([2.0, 2.5, 1.5]), [], 3, .2)
    >>> cells(test)
    ['?', 'better', 'top1', 'big > small', '2.00', '-∞ … ∞', '0.76 … 3.24', '3', '3 of 3', 'undecided']
    """
    metric = f"{test.metric} on {test.view}" if with_view else test.metric
    head = [SYMBOLS[test.verdict], test.claim, metric, test.text]
    shown, of = test.shown, unit(test.metric)
    if shown is None:
        return [*head, "", "", "", "0", "", test.verdict]
    if test.exact:
        return [*head, fixed(shown.mean, of), "", "", "", "", test.verdict]
    intervals = [
        f"{_bound(a, of)} … {_bound(b, of)}" for a, b in ((shown.low, shown.high), (shown.fixed_low, shown.fixed_high))
    ]
    verdict: str = test.verdict
    if test.runs_needed is not None:
        verdict += f", about {test.runs_needed} runs"
    if test.missing:
        verdict += f", {counted(test.missing, 'run')} missing"
    return [*head, fixed(shown.mean, of), *intervals, str(shown.n), f"{test.wins} of {shown.n}", verdict]


def _bound(value: float, of: str) -> str:
    return fixed(value, of) if math.isfinite(value) else "∞" if value > 0 else "-∞"


def notes(results: Sequence[ClaimResult], level: float) -> list[str]:
    """Return what the table does not say: the count of verdicts, the correction, the kinds of intervals."""
    verdicts = [result.verdict for result in results]
    counts = [f"{verdicts.count(v)} {v}" for v in SYMBOLS if v in verdicts]
    lines = [f"{counted(len(results), 'claim')}: {', '.join(counts)}"]
    tested = sum(not test.exact for result in results for test in result.outcomes)
    if tested > 1:
        lines.append(f"Verdicts are corrected for {tested} tests (Holm); intervals are each test's own.")
    if tested:
        lines.append(
            "Any-time intervals stay valid however often seeds are added; fixed ones only for a planned number."
        )
    return lines


def to_json(results: Sequence[ClaimResult], level: float) -> str:
    """Return all numbers as JSON; NaN and infinities are strings."""
    data = {"level": level, "claims": [result.to_json() for result in results]}
    return json.dumps(plain(data), indent=1, ensure_ascii=False, allow_nan=False) + "\n"


def to_csv(results: Sequence[ClaimResult]) -> str:
    """Return one line for each test, numbers with all digits."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(
        ["claim", "metric", "data", "comparison", "verdict", "left", "right", "difference", "std", "low", "high",
         "fixed_low", "fixed_high", "n", "wins", "p", "runs_needed", "missing"]
    )  # fmt: skip
    for result in results:
        for t in result.outcomes:
            s = t.shown
            numbers = [s.mean, s.std, s.low, s.high, s.fixed_low, s.fixed_high, s.n] if s else [None] * 6 + [0]
            line = [t.claim, t.metric, t.view, t.text, t.verdict, t.left, t.right, *numbers, t.wins, t.p, t.runs_needed,
                    t.missing]  # fmt: skip
            writer.writerow([repr(v) if isinstance(v, float) else v for v in line])
    return out.getvalue()
