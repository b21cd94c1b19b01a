"""Claims cut into tests: which runs are paired, and which versions are compared with which.

Before: the rows on both sides of a comparison. After: one `Contrast` for each pair of versions and each point of the
axes that are neither paired nor averaged, with the rows of each of its runs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from kdplan.diagnostics.report import Reporter, listing
from kdplan.ir.plan import Claim, Comparison, Plain, Plan, Row
from kdplan.nn.catalog import METRICS

Values = tuple[tuple[str, Plain], ...]
"""Values of axes: what tells runs, or tests, apart."""


@dataclass(slots=True)
class Run:
    """One run of a test: the rows whose mean each side is; along an axis, `left` has one row for each value."""

    at: Values
    left: list[Row]
    right: list[Row] = field(default_factory=list)


@dataclass(slots=True)
class Contrast:
    """One comparison of a claim, over its runs."""

    left: str
    right: str
    """How both sides are shown, with the coordinates at which they are compared; "" for a trend."""
    runs: list[Run]


@dataclass(slots=True)
class _Group:
    """The rows of one version at one point, by run."""

    label: str
    at: dict[str, Plain]
    runs: dict[Values, list[Row]] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """`small@kd[w = 0.5]`."""
        inside = ", ".join(f"{axis} = {value}" for axis, value in self.at.items())
        return f"{self.label}[{inside}]" if inside else self.label


Report = Callable[..., None]
"""Takes a code, and what its message needs."""


def counts_need_no_runs(claim: Claim) -> bool:
    """Whether the claim is about numbers that no seed changes: parameters, FLOPs."""
    return all(m.name in METRICS and METRICS[m.name].needs == "network" for m in claim.metrics)


def check_claim(plan: Plan, claim: Claim, reporter: Reporter) -> None:
    """Report runs without a partner (KD0864), claims that rest on one run (KD0865), versions with nothing to compare
    (KD0866), other classes on both sides (KD0867) and metrics that are plots (KD0868)."""
    for metric in claim.metrics:
        if metric.name in METRICS and METRICS[metric.name].drawn:
            reporter.report("KD0868", metric.span or claim.span, metric=metric.name)
    for comparison in claim.comparisons:
        failed: list[str] = []

        def report(code: str, c: Comparison = comparison, failed: list[str] = failed, **values: Any) -> None:
            failed.append(code)
            reporter.report(code, c.span or claim.span, **values)

        cut = contrasts(claim, comparison, report)
        if failed:
            continue
        if not counts_need_no_runs(claim) and any(len(test.runs) < 2 for test in cut):
            report("KD0865", name=claim.name)
        _check_classes(plan, claim, cut, report)


def _check_classes(plan: Plan, claim: Claim, cut: list[Contrast], report: Report) -> None:
    """KD0867 where networks that know other classes are compared by what they say of classes."""
    if counts_need_no_runs(claim):
        return
    for test in cut:
        for run in test.runs:
            known = {repr(_classes(plan, row)): row for row in (*run.left, *run.right)}
            if len(known) > 1:
                first, second, *_ = known.values()
                report("KD0867", first=first.label, second=second.label)
                return


def _classes(plan: Plan, row: Row) -> list[list[int] | None]:
    networks = (plan.networks[v.network] for v in row.target.versions if v.network in plan.networks)
    return [n.classes.ids if n.classes is not None else None for n in networks] if not row.target.path else []


def contrasts(claim: Claim, comparison: Comparison, report: Report | None = None) -> list[Contrast]:
    """The tests of a comparison, in the order of its rows.

    Where both sides have several values of an axis, versions are compared at equal ones; where one side has a single
    value, or lacks the axis, with all of the other side. Runs are paired by the axes in `claim.pairs`; a side that
    lacks one has the same partner in all of its runs. No version is compared with itself.

    Examples
    --------
    >>> from kdplan.ir.expr import Version
    >>> from kdplan.ir.plan import Target
    >>> def row(name, **at):
    ...     return Row(name, Target([Version(name)]), at)
    >>> small = [row("small@kd", seed=s, w=w) for w in (1, 5) for s in (0, 1)]
    >>> alone = [row("small", seed=s) for s in (0, 1)]
    >>> for t in contrasts(Claim("c", [], [], []), Comparison(small, ">", alone)):
    ...     print(t.left, t.right, [run.at for run in t.runs])
    small@kd[w = 1] small [(('seed', 0),), (('seed', 1),)]
    small@kd[w = 5] small [(('seed', 0),), (('seed', 1),)]
    """
    if comparison.relation in ("rising", "falling"):
        return _trends(claim, comparison, report)
    lefts, rights = (_groups(claim, rows) for rows in (comparison.left, comparison.right))
    if comparison.bound is not None:
        bound = f"{comparison.bound:g}"
        return [Contrast(g.text, bound, [Run(at, rows) for at, rows in g.runs.items()]) for g in lefts]
    cut: list[Contrast] = []
    failed = False
    common = _swept(lefts) & _swept(rights)
    itself = 0
    for left in lefts:
        partners = [right for right in rights if all(left.at[a] == right.at[a] for a in common)]
        failed |= not partners
        if not partners and report is not None:
            report("KD0866", name=left.text, others=listing([g.text for g in rights], 3))
        for right in partners:
            runs = _paired(left, right, report)
            failed |= len(runs) < max(len(left.runs), len(right.runs))
            if runs and all(_targets(run.left) == _targets(run.right) for run in runs):
                itself += 1
            elif runs:
                cut.append(Contrast(left.text, right.text, runs))
    if itself and not cut and not failed and report is not None:
        report("KD0860")
    return cut


def _swept(groups: Sequence[_Group]) -> set[str]:
    """The axes of which every version has a value, and together they have several."""
    axes = {axis for group in groups for axis in group.at if all(axis in other.at for other in groups)}
    return {axis for axis in axes if len({str(group.at[axis]) for group in groups}) > 1}


def _targets(rows: Sequence[Row]) -> list[str]:
    return sorted(repr(row.target.versions) + row.target.path for row in rows)


def _groups(claim: Claim, rows: Sequence[Row], along: str = "") -> list[_Group]:
    groups: dict[str, _Group] = {}
    for row in rows:
        at = {k: v for k, v in row.coordinates.items() if k not in (*claim.pairs, *claim.over, along)}
        group = groups.setdefault(f"{row.label} {sorted(at.items(), key=str)}", _Group(row.label, at))
        run = tuple((axis, row.coordinates[axis]) for axis in claim.pairs if axis in row.coordinates)
        group.runs.setdefault(run, []).append(row)
    return list(groups.values())


def _agree(one: dict[str, Plain], other: dict[str, Plain]) -> bool:
    return all(other[axis] == value for axis, value in one.items() if axis in other)


def _paired(left: _Group, right: _Group, report: Report | None) -> list[Run]:
    runs = []
    alone: dict[str, list[Values]] = {left.text: [], right.text: []}
    met: set[Values] = set()
    for at, rows in left.runs.items():
        partners = [other for other in right.runs if _agree(dict(at), dict(other))]
        met.update(partners)
        if not partners:
            alone[left.text].append(at)
        for other in partners:
            runs.append(Run(tuple({**dict(at), **dict(other)}.items()), rows, right.runs[other]))
    alone[right.text] += [other for other in right.runs if other not in met]
    if report is not None:
        for text, lonely in alone.items():
            if lonely:
                shown = listing([", ".join(f"{a} = {v}" for a, v in at) or "its only run" for at in lonely], 4)
                report("KD0864", name=text, other=right.text if text == left.text else left.text, runs=shown)
                break
    return runs


def _trends(claim: Claim, comparison: Comparison, report: Report | None) -> list[Contrast]:
    """Tests along an axis: each run has one row for each of its values, in their order."""
    cut = []
    for group in _groups(claim, comparison.left, claim.along):
        runs = []
        for at, rows in group.runs.items():
            points = [row for row in rows if claim.along in row.coordinates]
            if len(points) < 2 or len({str(row.coordinates[claim.along]) for row in points}) < len(points):
                if report is not None:
                    report("KD0869", name=group.text, axis=claim.along)
                    report = None
                continue
            runs.append(Run(at, sorted(points, key=lambda row: _order(row.coordinates[claim.along]))))
        if runs:
            cut.append(Contrast(group.text, "", runs))
    return cut


def _order(value: Plain) -> tuple[int, float]:
    """Numbers by their size, all else as the rows stand."""
    return (0, float(value)) if isinstance(value, int | float) else (1, 0.0)
