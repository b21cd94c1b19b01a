"""What can be exported: one network, whose inputs are known."""

from __future__ import annotations

from collections.abc import Iterator

from kdplan.diagnostics.report import PlanError, error
from kdplan.ir.expr import Version
from kdplan.ir.plan import Export, Plan, View
from kdplan.ir.versions import parts, read_versions


def check_export(plan: Plan, export: Export) -> None:
    """Whether an export is one network that can be loaded again.

    Raises
    ------
    PlanError
        KD0841 for several networks, for probabilities, and where nothing says what the inputs are.
    """
    target = export.target
    if len(target.versions) != 1 or target.join not in ("single", "logits"):
        raise refused(export, f"it means {len(target.versions)} networks.")
    if target.path == "probabilities":
        raise refused(
            export, "it means probabilities.", "Write `logits`, and apply `softmax` to what the network gives."
        )
    version = target.versions[0]
    view = seen_by(plan, version)
    if (view is None or plan.data[view.data].shape is None) and plan.networks[version.network].input_shape is None:
        raise refused(
            export,
            "the shape of its inputs is not known.",
            "Export a version that a phase trained, such as `small@kd`.",
        )


def refused(export: Export, reason: str, help: str | None = None) -> PlanError:
    """KD0841 for a reason."""
    return error("KD0841", export.target.span or export.span, export=export.name, reason=reason, help=help)


def seen_by(plan: Plan, version: Version) -> View | None:
    """The data that a version is for: the first stream of the last phase that trained it, or the first of its parts.

    Of fresh weights, the first stream of a phase that trains or reads the network; else what it is measured on.
    """
    return next(_views(plan, version), None)


def _views(plan: Plan, version: Version) -> Iterator[View]:
    for past in parts(plan, version):
        assert past.phase is not None
        yield plan.phases[past.phase].streams[0]
    for phase in plan.phases.values():
        if version.network in {t.base.network for t in phase.trainees} | {v.network for v in read_versions(phase)}:
            yield phase.streams[0]
    for measure in plan.measured():
        for row in measure.rows:
            if any(v.network == version.network for v in row.target.versions):
                yield from measure.views_of(row)
