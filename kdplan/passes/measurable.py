"""Which metrics a target gives on a view: the rules that the plan is checked by, and that measuring relies on."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import replace

from kdplan.data.of_plan import groups_of
from kdplan.diagnostics.report import PlanError, Reporter, error
from kdplan.ir.branches import split
from kdplan.ir.outputs import is_output, is_scores
from kdplan.ir.plan import Item, Plan, Row, Target, View
from kdplan.ir.versions import makers
from kdplan.nn.catalog import METRICS, reads_groups
from kdplan.passes.metric_checks import class_count


def needs(metric: Item) -> str:
    """What a metric reads; see `MetricSpec.needs`."""
    return METRICS[metric.name].needs if metric.name in METRICS else "network"


def of_classes(metric: Item) -> bool:
    """Whether a metric reads the outputs' columns as the data's classes.

    >>> of_classes(Item("top1")), of_classes(Item("tsne"))
    (True, False)
    """
    return needs(metric) == "logits"


def check_measured(plan: Plan, pairs: Iterable[tuple[Row, View]], metrics: list[Item], reporter: Reporter) -> None:
    """Report KD0840 for metrics that a target does not give on a view."""
    for row, view in pairs:
        if view.data not in plan.data or any(v.network not in plan.networks for v in row.target.versions):
            continue  # reported elsewhere
        part = view if row.classes is None else replace(view, classes=row.classes)
        try:
            for metric in metrics:
                for reason in _refusals(plan, row.target, part, metric):
                    raise error("KD0840", metric.span, metric=metric.name, reason=reason)
            if any(map(of_classes, metrics)):
                class_order(plan, row.target, part, row.classes is not None)
        except PlanError as problem:
            reporter.add(problem.diagnostics)


def _refusals(plan: Plan, target: Target, view: View, metric: Item) -> Iterator[str]:
    """Why a target has no such number, as sentences."""
    kind = needs(metric)
    if kind == "boxes" and len(target.versions) > 1:
        yield "it measures one network."
    if kind == "boxes" and not is_output(target.path):
        yield "it reads the final output of a detector."
    if metric.name == "training_flops" and not any(True for v in target.versions for _ in makers(plan, v)):
        yield "no phase of this plan trained the network."
    if reads_groups(metric) and plan.data[view.data].superclasses and not groups_of(plan.data[view.data], view, metric):
        yield "the data has no superclasses."


def class_order(plan: Plan, target: Target, view: View, cut: bool = False) -> list[int] | None:
    """Which column of the outputs each class of the view is; None where they are in order or nothing is known.

    Of a network over more classes only the scores of the view's count. With `cut`, outputs of which nothing is known
    are over all classes of the data.

    Raises
    ------
    PlanError
        KD0848 if the outputs are over other classes than the view's labels.
    """
    networks = [plan.networks[v.network] for v in target.versions]
    known = [n.classes for n in networks if n.classes is not None and n.classes.data == view.data]
    inside = {split(n, target.path)[1] for n in networks}
    if not all(map(is_scores, inside)):
        return None
    everything = len(plan.data[view.data].classes)
    wanted = view.classes.ids if view.classes is not None else list(range(everything))
    if len(known) < len(networks):
        chosen = list(wanted) if cut and view.classes is not None else None
        counts = [class_count(n) for n in networks]
        if all(counts):
            columns = sum(c or 0 for c in counts) if target.join == "concat" else min(c or 0 for c in counts)
            if columns < (max(wanted, default=-1) + 1 if chosen else len(wanted)):
                raise _other(target, view, columns, len(wanted), "")
        return chosen
    ids = [i for s in known for i in s.ids] if target.join == "concat" else known[0].ids
    wanted = wanted or list(range(len(ids)))
    if target.join != "concat" and any(s.ids != ids for s in known):
        reason = "the classes of its networks differ, or their order"
        raise error("KD0848", target.span, target=_text(target), reason=reason)
    if not {*wanted} <= {*ids} or len({*ids}) < len(ids):
        own = known[0].label if len(known) == 1 and known[0].label else ""
        raise _other(target, view, len(ids), len(wanted), own)
    return None if ids == wanted else [ids.index(i) for i in wanted]


def _other(target: Target, view: View, columns: int, wanted: int, own: str) -> PlanError:
    reason = f"its scores are of {columns} classes, and the samples of `{view.data}` of {wanted} others"
    help = "Add `by V`, with the verticals V, to measure each network on the samples of its own." if own else None
    return error("KD0848", target.span, target=_text(target), reason=reason, help=help)


def _text(target: Target) -> str:
    versions = [replace(v, phase=v.phase.removeprefix(f"{v.network}@") if v.phase else None) for v in target.versions]
    return " and ".join(dict.fromkeys(map(str, versions)))
