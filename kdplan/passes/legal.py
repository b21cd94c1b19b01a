"""The core plan's own law: what must hold whoever wrote it. Run on every plan, also on those from Python."""

from __future__ import annotations

from kdplan.diagnostics.report import PlanError, Reporter, counted, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.origins import EmaOf
from kdplan.ir.plan import Phase, Plan, Row, Target
from kdplan.ir.versions import kept_of, slot_of, versions_of
from kdplan.passes.claims import check_claim
from kdplan.passes.exports import check_export
from kdplan.passes.measurable import check_measured
from kdplan.passes.metric_checks import check_metrics
from kdplan.passes.open_set import check_task
from kdplan.passes.recipes import check_recipes


def check_plan(plan: Plan, reporter: Reporter) -> None:
    """Report names that nothing has (KD0320), snapshots that no phase keeps (KD0309), averages without their network
    (KD0308), streams and slots out of range (KD0321), batch sizes for other streams (KD0708), metrics of another task
    than the data's (KD0757, KD0758).

    Examples
    --------
    >>> from kdplan.ir.plan import Export, Target
    >>> reporter = Reporter()
    >>> check_plan(Plan(exports={"x": Export("x", Target([ir.Version("small", "kd")]))}), reporter)
    >>> [d.code for d in reporter.diagnostics]
    ['KD0320']
    """
    for network in plan.networks.values():
        for version in network.origin.parents():
            _version(plan, version, reporter, network.span)
    for phase in plan.phases.values():
        _phase(plan, phase, reporter)
    for measure in plan.measured():
        for row in measure.every_row():
            for version in row.target.versions:
                _version(plan, version, reporter)
        for view in measure.every_view():
            _data(plan, view.data, view.span, reporter)
        check_task(plan, measure.every_view(), measure.metrics, reporter)
        check_metrics(plan, measure, measure.every_row(), reporter)
        check_measured(plan, measure.pairs(), measure.metrics, reporter)
    for claim in plan.claims.values():
        check_claim(plan, claim, reporter)
    for export in plan.exports.values():
        if all([_version(plan, version, reporter) for version in export.target.versions]):
            try:
                check_export(plan, export)
            except PlanError as problem:
                reporter.add(problem.diagnostics)


def _phase(plan: Plan, phase: Phase, reporter: Reporter) -> None:
    for view in [*phase.streams, *(v.view for v in phase.validations)]:
        _data(plan, view.data, view.span, reporter)
    for check in phase.validations:
        check_task(plan, [check.view], check.metrics, reporter)
        base = phase.trainees[check.network].base
        trained_one = Row(base.network, Target([base], check.path, span=check.view.span))
        check_metrics(plan, check, [trained_one], reporter)
        check_measured(plan, [(trained_one, check.view)], check.metrics, reporter)
    trained = {m.base.network for m in phase.trainees}
    for version in versions_of(phase):
        if not _version(plan, version, reporter):
            continue
        origin = plan.networks[version.network].origin
        if isinstance(origin, EmaOf) and version.phase is None and origin.network not in trained:
            reporter.report("KD0308", version.span, name=version.network, source=origin.network, phase=phase.name)
    if not phase.trainees or not phase.streams or not phase.recipes:
        reporter.report("KD0321", phase.span, phase=phase.name, what="needs a network to train, data and a recipe")
    else:
        check_recipes(phase, reporter)
    for recipe in phase.recipes[:1]:
        if isinstance(recipe.batch, list) and len(recipe.batch) != len(phase.streams):
            reporter.report(
                "KD0708",
                recipe.spans.get("batch", recipe.span),
                phase=phase.name,
                found=counted(len(recipe.batch), "size"),
                streams=counted(len(phase.streams), "stream"),
            )
    for root in (phase.loss, *phase.logged.values()):
        for e in ir.walk(root):
            if isinstance(e, ir.Tap) and isinstance(e.of, ir.InTraining) and not 0 <= e.of.slot < len(phase.trainees):
                reporter.report("KD0321", e.span or phase.span, phase=phase.name, what=f"trains no network {e.of.slot}")
            if isinstance(e, ir.StreamField) and not 0 <= e.stream < len(phase.streams):
                reporter.report("KD0321", e.span or phase.span, phase=phase.name, what=f"has no stream {e.stream}")


def _data(plan: Plan, name: str, span: object, reporter: Reporter) -> None:
    if name not in plan.data:
        reporter.report("KD0320", None, what="data set", name=name, nearest=nearest(name, plan.data))


def _version(plan: Plan, version: ir.Version, reporter: Reporter, span: Span | None = None) -> bool:
    """Whether a version exists and is kept; reported at its own span, or else at `span`."""
    if version.network not in plan.networks:
        near = nearest(version.network, plan.networks)
        reporter.report("KD0320", version.span or span, what="network", name=version.network, nearest=near)
        return False
    if version.phase is None:
        return True
    phase = plan.phases.get(version.phase)
    if phase is None:
        near = nearest(version.phase, plan.phases)
        reporter.report("KD0320", version.span or span, what="phase", name=version.phase, nearest=near)
        return False
    if version.snapshot not in kept_of(plan, version):
        reporter.report(
            "KD0309", version.span or span, phase=phase.name, snapshot=version.snapshot, name=version.network,
            help=snapshot_help(version.snapshot, phase, slot_of(plan, version)),
        )  # fmt: skip
        return False
    return True


def snapshot_help(snapshot: str, phase: Phase | None = None, slot: int = 0) -> str:
    """What a phase needs to keep a snapshot of the network that it knows by this number."""
    if snapshot == "best":
        return "Add a measure to the phase: `measure on data.test { top1 }`."
    if snapshot == "ema":
        average = phase is not None and slot >= len(phase.trainees)
        return "Leave `[ema]` out: the network is an average." if average else "Add `ema = 0.999` to the recipe."
    name, _, number = snapshot.partition("=")
    if name == "epoch":
        return f"Add `keep_epochs = [{number}]` to the recipe."
    recipe = phase.recipes[0] if phase is not None else None
    if recipe is not None and recipe.schedule.arguments.get("cycles", 1) > 1:
        if recipe.epochs is None:
            return "Set the length in `epochs`: the ends of cycles are kept at the ends of epochs."
        return f"Choose at most {recipe.epochs} cycles, as many as there are epochs, or more epochs."
    return "Set `schedule = cosine(cycles = n)` in the recipe."
