"""Open-set recognition: whether the identities are new, and whether the protocol can bear the metrics."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

from kdplan.data.of_plan import view_of_data
from kdplan.data.select import view_protocol
from kdplan.diagnostics.report import Reporter, counted, error, listing
from kdplan.ir import expr as ir
from kdplan.ir.outputs import is_scores
from kdplan.ir.plan import Data, Item, Measure, Plan, Row, View
from kdplan.ir.protocol import Protocol
from kdplan.ir.versions import makers, versions_of
from kdplan.nn.catalog import METRICS


def compares(metric: Item) -> bool:
    """Whether a metric compares templates: of `tar` and `rank`, but of no other."""
    return metric.name in METRICS and METRICS[metric.name].needs == "templates"


def check_task(plan: Plan, views: Iterable[View], metrics: Iterable[Item], reporter: Reporter) -> None:
    """KD0757 for a metric of templates on data without them, KD0758 for one of classes on templates of others; KD0774
    and KD0775 for boxes alike."""
    metrics = list(metrics)
    for data in dict.fromkeys(view.data for view in views):
        if data not in plan.data:
            continue  # reported elsewhere
        for metric in metrics:
            kind = METRICS[metric.name].needs if metric.name in METRICS else "network"
            if kind == "templates" and not _has_protocol(plan.data[data]):
                reporter.report("KD0757", metric.span, metric=metric.name, data=data)
            elif kind == "logits" and plan.data[data].task == "templates":
                reporter.report("KD0758", metric.span, metric=metric.name, data=data)
            elif kind == "boxes" and plan.data[data].task != "detection":
                reporter.report("KD0774", metric.span, metric=metric.name, data=data)
            elif kind not in ("boxes", "network") and plan.data[data].task == "detection":
                reporter.report("KD0775", metric.span, metric=metric.name, data=data)


def _has_protocol(data: Data) -> bool:
    return data.protocol is not None or data.task == "templates"


def check_protocols(
    views: list[View], metrics: list[Item], data: dict[str, Data], root: Path | None, reporter: Reporter
) -> None:
    """KD0755 for too few impostor pairs, KD0759 for a rank that no search can miss.

    Raises
    ------
    PlanError
        KD0754 where no templates can be made of a view.
    """
    wanted = [m for m in metrics if compares(m)]
    for view in views:
        if not wanted or not _has_protocol(data[view.data]):
            continue
        protocol = view_protocol(view_of_data(data[view.data], view), root, view.span)
        assert protocol is not None
        for metric in wanted:
            _check_metric(metric, protocol, reporter)


def _check_metric(metric: Item, protocol: Protocol, reporter: Reporter) -> None:
    impostors = min(fold.impostors for fold in protocol)
    genuine = min(len(fold.pairs) - fold.impostors for fold in protocol)
    enrolled = min(fold.enrolled for fold in protocol)
    if metric.name == "tar":
        if not impostors or not genuine:
            missing = "of two subjects" if not impostors else "of one subject"
            raise error("KD0754", metric.span, why=f"a split has no pair of templates {missing}")
        far = float(metric.arguments.get("far", 1))
        if impostors * far < 1 - 1e-9:
            reporter.report(
                "KD0755", metric.span, count=counted(impostors, "impostor pair"), far=f"{far:g}", need=_least(far)
            )
    elif metric.name == "rank" and int(metric.arguments.get("k", 1)) >= enrolled:
        reporter.report("KD0759", metric.span, k=metric.arguments.get("k"), enrolled=counted(enrolled, "subject"))


def _least(far: float) -> str:
    return f"{-int(-1 / far // 1):,}"


def lint_identities(plan: Plan, measure: Measure, reporter: Reporter) -> None:
    """KD0756 for identities that were trained on; KD0760 for scores of classes where features are meant."""
    if not any(map(compares, measure.metrics)):
        return
    reported: set[tuple[str, str]] = set()
    for row in measure.rows:
        _scores(plan, row, reporter)
        for view in measure.views_of(row):
            names = _identities(plan, view)
            for seen in _trained_on(plan, row.target.versions):
                common = sorted(names & _identities(plan, seen))
                phase_data = f"{seen.data}.{seen.split}"
                if common and (row.label, phase_data) not in reported:
                    reported.add((row.label, phase_data))
                    shown = listing([name for _, name in common], 6)
                    reporter.report(
                        "KD0756", row.target.span or measure.span, version=row.label, names=shown, data=phase_data,
                        count=counted(len(common), "identity", "identities"),
                    )  # fmt: skip


def _scores(plan: Plan, row: Row, reporter: Reporter) -> None:
    trained = any(plan.networks[v.network].classes is not None for v in row.target.versions)
    if is_scores(row.target.path) and trained:
        reporter.report("KD0760", row.target.span, version=row.label)


def _trained_on(plan: Plan, versions: list[ir.Version]) -> Iterator[View]:
    """The streams of every phase that had a part in the weights, teachers' phases too."""
    waiting, done = list(versions), set()
    while waiting:
        for name in makers(plan, waiting.pop()):
            if name not in done:
                done.add(name)
                yield from plan.phases[name].streams
                waiting.extend(versions_of(plan.phases[name]))


def _identities(plan: Plan, view: View) -> set[tuple[str, str]]:
    """Classes of a view: by content and number where the source is the same, else by names that are no mere numbers."""
    data = plan.data[view.data]
    ids = view.classes.ids if view.classes is not None else range(len(data.classes))
    identities = {(data.fingerprint, data.classes[i]) for i in ids}
    return identities | {("", data.classes[i]) for i in ids if not data.classes[i].isdecimal()}
