"""What a plan that was written in Python gives when it is run: what was trained, and tables of numbers."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from kdplan.compile import Compiled, inspect
from kdplan.diagnostics.report import Diagnostic, one_line
from kdplan.ir.plan import Plain
from kdplan.passes.schedule import Facts
from kdplan.runtime.execute import RunResult, repairing, run_plan
from kdplan.runtime.facts import store_facts
from kdplan.runtime.measures.results import MeasureResult
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.options import RunOptions
from kdplan.runtime.reading import reading, to_train
from kdplan.runtime.remote.address import located
from kdplan.runtime.remote.opening import opened
from kdplan.view.tables import records, to_csv, to_markdown


@dataclass(frozen=True)
class Table:
    """A measure's numbers as a table: for each number the mean over runs, their deviation and their count.

    Examples
    --------
    >>> from kdplan.runtime.measures.results import Number, ResultRow
    >>> row = ResultRow("small@kd", {"weight": 5}, {"last": {"top1": Number.of([0.5, 0.75])}}, "digits.test")
    >>> table = Table(MeasureResult("table", ["top1"], ["digits.test"], [row]))
    >>> table.columns
    ['network', 'data', 'weight', 'top1_last', 'top1_last_std', 'top1_last_n']
    >>> table.rows[0][:4], len(table), table["top1_last"]
    (['small@kd', 'digits.test', 5, 0.625], 1, [0.625])
    >>> print(table)
    | network | weight | top1 |
    |---|---|---:|
    | small@kd | 5 | 0.62 ± 0.18 (n = 2) |
    <BLANKLINE>
    """

    result: MeasureResult
    """All of it, with each run's value and the plots."""

    @property
    def name(self) -> str:
        """The name of the measure."""
        return self.result.name

    @cached_property
    def columns(self) -> list[str]:
        """The names of the columns."""
        return records(self.result)[0]

    @cached_property
    def rows(self) -> list[list[Plain]]:
        """One list of values for each line; None where a line has no such number."""
        return records(self.result)[1]

    def __len__(self) -> int:
        return len(self.rows)

    def __getitem__(self, column: str) -> list[Plain]:
        at = self.columns.index(column)
        return [row[at] for row in self.rows]

    def __str__(self) -> str:
        return to_markdown(self.result)

    def csv(self) -> str:
        """Return the table as CSV, as `kdplan run --csv` writes it."""
        return to_csv(self.result)

    def frame(self) -> Any:
        """Return the table as a pandas data frame.

        Raises
        ------
        ImportError
            Where pandas is not installed.
        """
        try:
            import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]
        except ImportError:
            raise ImportError("a data frame needs pandas: `pip install pandas`") from None
        return pandas.DataFrame(self.rows, columns=self.columns)


@dataclass
class Results:
    """How a run ended, and its tables by the names of the measures."""

    run: RunResult
    tables: dict[str, Table]

    def __getitem__(self, measure: str) -> Table:
        return self.tables[measure]


def run(compile: Callable[[Facts], Compiled], name: str, options: RunOptions) -> Results:
    """Train the phases of a plan that the store `name`, a folder or an address, does not hold, then read its measures.

    What a store in the cloud has to report becomes a Python warning.

    Raises
    ------
    PlanError
        With every error that can be found before training, or that of the first phase that failed.
    """
    store = opened(located("store", name), _warn)
    store.sweep()
    with reading(lambda: compile(store_facts(store)), store, options) as compiled:
        inspect(compiled, to_train(compiled.planned))
        ended = run_plan(compiled.plan, compiled.planned, compiled.keys, store, options)
        for problem in ended.failed.values():
            raise problem
        if ended.interrupted is not None:
            raise KeyboardInterrupt(f"interrupted in {ended.interrupted}; the next run resumes there")
        repair = repairing(compiled.plan, compiled.planned, compiled.keys, store, options)
        measured = run_measures(compiled.plan, compiled.keys, store, options, repair=repair)
    left = store.settle()
    if left is not None:
        _warn(left)
    return Results(ended, {table.name: Table(table) for table in measured})


def _warn(diagnostic: Diagnostic) -> None:
    warnings.warn(one_line(diagnostic), stacklevel=2)
