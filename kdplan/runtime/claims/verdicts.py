"""Whether a plan's claims hold, from the numbers in the store; missing ones are computed, as for measures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

from kdplan.diagnostics.boundary import boundary
from kdplan.diagnostics.report import Gather
from kdplan.ir.dag import PhaseKey
from kdplan.ir.plan import Claim, Comparison, Item, Plain, Plan, Row, View
from kdplan.passes.claims import Contrast, Run, contrasts, counts_need_no_runs
from kdplan.runtime.claims.paired import Paired, cleaned, holm, log_e_value, needed, paired
from kdplan.runtime.measures.cells import cell_key, cell_of, snapshots, trained
from kdplan.runtime.measures.labels import described, label_of
from kdplan.runtime.measures.results import Number
from kdplan.runtime.measures.table import Numbers, numbers_of, repaired
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources

Verdict = Literal["holds", "refuted", "undecided", "not run"]
LEVEL = 0.95


@dataclass(slots=True)
class Outcome:
    """One test of a claim: one metric of one pair of versions on one view.

    Attributes
    ----------
    claim, metric, view
        What was claimed, measured, and on what.
    text
        `big > small@alone`, with coordinates and margin.
    left, right
        Means over the runs; `right` is None for trends.
    shown
        What the paired differences left - right show, or the slopes of a trend; None without a run.
    wins
        Runs that agree with the claim.
    p
        Valid at any time; 0 or 1 for numbers that no seed changes.
    verdict
        After Holm's correction over all tests of the plan.
    runs_needed
        Of an undecided test: in all, if the difference and its deviation stay as they are. None where that is unknown,
        or more than 1,000.
    missing
        Runs that are not trained yet.
    exact
        Whether no seed changes its numbers.
    """

    claim: str
    metric: str
    view: str
    text: str
    relation: str
    margin: float
    left: float
    right: float | None
    shown: Paired | None
    differences: list[float]
    wins: int
    p: float
    verdict: Verdict = "undecided"
    runs_needed: int | None = None
    missing: int = 0
    exact: bool = False


@dataclass(slots=True)
class ClaimResult:
    """A claim's verdict, and the tests that it rests on: it holds where all hold, and one refutes it."""

    name: str
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def verdict(self) -> Verdict:
        """Of all tests together."""
        verdicts = {test.verdict for test in self.outcomes}
        order: tuple[Verdict, ...] = ("refuted", "not run", "undecided")
        return next((v for v in order if v in verdicts), "holds" if verdicts else "not run")

    def to_json(self) -> dict[str, Plain]:
        """Plain values."""
        return {"name": self.name, "verdict": self.verdict, "tests": [asdict(test) for test in self.outcomes]}


def run_claims(
    plan: Plan,
    keys: Mapping[str, PhaseKey],
    store: Store,
    options: RunOptions | None = None,
    repair: Callable[[Path], bool] | None = None,
    level: float = LEVEL,
    note: Callable[[str], None] = lambda text: None,
) -> list[ClaimResult]:
    """The verdicts of all claims of a plan, from the runs that the store holds.

    Parameters
    ----------
    level
        The share of plans without a true difference in which no claim is declared, whenever one looks.
    repair
        As for `run_measures`.
    note
        Takes what there is to say of how networks are measured.

    Raises
    ------
    PlanError
        With what went wrong in any claim.
    """
    options, sources = options or RunOptions(), Sources(plan, store, keys)
    results, failed = [], Gather()
    for claim in plan.claims.values():
        result = ClaimResult(claim.name)
        measure = claim.measure()
        rows = [row for row in measure.rows if trained(sources, row.target)]
        with failed, boundary("KD0844", claim.span, name=claim.name):
            numbers = repaired(partial(numbers_of, sources, measure, rows, options, note), repair) if rows else {}
            for comparison in claim.comparisons:
                for test in contrasts(claim, comparison):
                    result.outcomes += _results(_Reader(sources, claim, numbers), comparison, test, 1 - level)
        results.append(result)
    failed.raise_if_failed()
    decide([test for result in results for test in result.outcomes], 1 - level)
    return results


@dataclass(slots=True)
class _Reader:
    """Reads the numbers of rows."""

    sources: Sources
    claim: Claim
    numbers: Numbers

    def number(self, row: Row, view: int, metric: Item) -> float:
        """A row's number on the claim's view of that index: of the weights that it names, or the last."""
        measured = (row.views or self.claim.views)[view]
        _, target = next(iter(snapshots(self.sources.plan, row)))
        return Number.of([self.numbers[cell_key(self.sources, cell_of(row, target, measured, metric))]]).mean

    def mean(self, rows: Sequence[Row], view: int, metric: Item) -> float:
        """Over some rows."""
        return statistics.fmean(self.number(row, view, metric) for row in rows)


def _results(reader: _Reader, comparison: Comparison, test: Contrast, alpha: float) -> list[Outcome]:
    claim = reader.claim
    ready = [run for run in test.runs if all(trained(reader.sources, row.target) for row in (*run.left, *run.right))]
    results = []
    for number, view in enumerate(claim.views):
        for metric in claim.metrics:
            results.append(_result(reader, comparison, test, ready, (number, view), metric, alpha))
    return results


def _result(
    reader: _Reader, comparison: Comparison, test: Contrast, ready: list[Run], at: tuple[int, View], metric: Item,
    alpha: float,
) -> Outcome:  # fmt: skip
    claim, (number, view) = reader.claim, at
    relation = comparison.relation
    lefts, rights, differences = [], [], []
    for run in ready:
        if relation in ("rising", "falling"):
            points = [reader.number(row, number, metric) for row in run.left]
            lefts.append(statistics.fmean(points))
            differences.append(slope(points))
            continue
        lefts.append(reader.mean(run.left, number, metric))
        rights.append(reader.mean(run.right, number, metric) if comparison.bound is None else comparison.bound)
        differences.append(lefts[-1] - rights[-1])
    finite = [d for d in differences if math.isfinite(d)]
    scale = max((abs(v) for v in (*lefts, *rights) if math.isfinite(v)), default=0.0)
    differences = cleaned(finite, scale)
    trend = relation in ("rising", "falling")
    text = f"{test.left} {relation} along {claim.along}" if trend else f"{test.left} {relation} {test.right}"
    if claim.margin:
        text += f" ± {claim.margin:g}" if relation == "==" else f" by {claim.margin:g}"
    return Outcome(
        claim.name,
        label_of(metric),
        described(view),
        text,
        relation,
        claim.margin,
        statistics.fmean(lefts) if lefts else math.nan,
        statistics.fmean(rights) if rights else None,
        paired(differences, alpha) if differences else None,
        differences,
        sum(_agrees(d, relation, claim.margin) for d in differences),
        1.0,
        missing=len(test.runs) - len(finite),
        exact=counts_need_no_runs(claim),
    )


def slope(points: Sequence[float]) -> float:
    """The least-squares slope of numbers at 0, 1, 2 ….

    >>> slope([1.0, 2.0, 3.0]), slope([2.0, 2.0])
    (1.0, 0.0)
    """
    return statistics.linear_regression(range(len(points)), points).slope


def _agrees(difference: float, relation: str, margin: float) -> bool:
    if relation == "==":
        return abs(difference) <= margin
    return _directed(difference, relation) > margin


def _directed(difference: float, relation: str) -> float:
    """Positive where a difference goes as the claim says."""
    return -difference if relation in ("<", "falling") else difference


def decide(results: Sequence[Outcome], alpha: float) -> None:
    """Write the verdicts of tests, by Holm's procedure over all of them, and how many runs the undecided ones need.

    Numbers that no seed changes are compared as they are, and are not among the tests that are corrected for.
    """
    tested = []
    for result in results:
        if result.shown is None:
            result.verdict = "not run"
        elif result.exact:
            result.verdict = "holds" if result.wins == result.shown.n else "refuted"
            result.p = 0.0
        else:
            result.p = _p_value(result)
            tested.append(result)
    levels = holm([result.p for result in tested], alpha)
    open_ = max(1, levels.count(0.0))
    for result, level in zip(tested, levels, strict=True):
        assert result.shown is not None
        if level:
            agrees = _agrees(result.shown.mean, result.relation, result.margin)
            result.verdict = "holds" if agrees else "refuted"
        elif result.shown.std is not None:
            distance = _distance(result)
            result.runs_needed = needed(distance, result.shown.std, alpha / open_)
            if result.runs_needed is not None:
                result.runs_needed = max(result.runs_needed, result.shown.n + 1)


def _distance(result: Outcome) -> float:
    """Between the mean difference and the bound that it has to leave."""
    assert result.shown is not None
    if result.relation == "==":
        return abs(abs(result.shown.mean) - result.margin)
    return abs(_directed(result.shown.mean, result.relation) - result.margin)


def _p_value(result: Outcome) -> float:
    """Of the side of the bound that the mean is on: 1 over the e-value of the nearest mean on the other side."""
    assert result.shown is not None
    bounds = [result.margin if result.relation in (">", "rising") else -result.margin]
    if result.relation == "==":
        bounds = [result.margin, -result.margin]
    logs = [log_e_value(result.differences, bound) for bound in bounds]
    if result.relation == "==" and not _agrees(result.shown.mean, result.relation, result.margin):
        logs = [logs[0] if result.shown.mean > 0 else logs[1]]
    return min(1.0, math.exp(-min(logs)))
