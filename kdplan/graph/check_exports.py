"""Exports, looked at before anything trains: whether the network runs on its data, and has the part that is meant."""

from __future__ import annotations

from kdplan.diagnostics.boundary import foreign
from kdplan.diagnostics.report import PlanError, Reporter
from kdplan.graph.check_measures import no_tap
from kdplan.graph.deploy import deploy
from kdplan.graph.examples import of_shape
from kdplan.graph.inspect import blank
from kdplan.graph.signals import shown
from kdplan.graph.taps import TapError
from kdplan.graph.trace import TraceError, trace
from kdplan.ir.outputs import is_output
from kdplan.ir.plan import Export, Plan
from kdplan.passes.exports import seen_by


def check_exports(plan: Plan, reporter: Reporter) -> None:
    """KD0501 for taps that an exported network lacks, KD0508 where it does not run on its data."""
    for export in plan.exports.values():
        try:
            _check(plan, export)
        except PlanError as problem:
            reporter.add(problem.diagnostics)


def _check(plan: Plan, export: Export) -> None:
    version, path = export.target.versions[0], export.target.path
    network, view = plan.networks[version.network], seen_by(plan, version)
    data = plan.data[view.data] if view is not None else None
    shape = (data.shape if data is not None else None) or network.input_shape
    assert shape is not None  # else KD0841
    try:
        inputs = of_shape(shape, 2, data is not None and data.whole)
        if is_output(path):
            trace(blank(network), inputs)
        else:
            deploy(blank(network), path, inputs)
    except TapError as problem:
        raise no_tap(problem.available, path, network.name, export.target.span) from problem
    except TraceError as problem:
        span = export.target.span
        raise foreign("KD0508", span, problem, network=network.name, shapes=f"images {shown((1, *shape))}") from problem
