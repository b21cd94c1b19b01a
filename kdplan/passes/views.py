"""The samples that phases and measures read: whether there are any, and whether lengths and batches fit them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from kdplan.data.look import Look, look
from kdplan.data.of_plan import view_of_data
from kdplan.diagnostics.report import PlanError, Reporter, counted
from kdplan.ir.lengths import epoch_count
from kdplan.ir.plan import Phase, Plan, View


class Views:
    """What is known of views before their samples are read, each looked at once.

    Parameters
    ----------
    plan : Plan
    root : Path or None
        Where data sets are looked for.
    """

    def __init__(self, plan: Plan, root: Path | None) -> None:
        self.plan, self.root = plan, root
        self._known: dict[str, Look] = {}

    def size(self, view: View) -> int:
        """How many samples a view has."""
        return len(self.look(view).rows)

    def look(self, view: View) -> Look:
        """What is known of a view.

        Raises
        ------
        PlanError
            KD07xx where it has none, or cannot be read.
        """
        spec = view_of_data(self.plan.data[view.data], view)
        key = repr(spec)
        if key not in self._known:
            self._known[key] = look(spec, self.root, span=view.span)
        return self._known[key]


def check_views(plan: Plan, phases: Iterable[Phase], views: Views, reporter: Reporter) -> set[str]:
    """Report views without samples (KD0823), `drop_last` that leaves none (KD0732), snapshots of epochs that a phase
    does not reach (KD0243), and warn of a batch that is larger than the data (KD0371).

    Returns
    -------
    set of str
        The phases whose data can be read.
    """
    sound = set()
    for phase in phases:
        if any(plan.data[view.data].shape is None for view in phase.streams):
            continue  # the loss that reads such images is reported: KD0514
        try:
            counts = [views.size(view) for view in phase.streams]
            for check in phase.validations:
                views.look(check.view)
        except PlanError as problem:
            reporter.add(problem.diagnostics)
            continue
        if _lengths(phase, counts, reporter):
            sound.add(phase.name)
    for measure in plan.measured():
        for view in measure.every_view():
            try:
                views.look(view)
            except PlanError as problem:
                reporter.add(problem.diagnostics)
    return sound


def _lengths(phase: Phase, counts: Sequence[int], reporter: Reporter) -> bool:
    recipe = phase.recipes[0]
    sound = True
    for i, (view, count) in enumerate(zip(phase.streams, counts, strict=True)):
        batch = recipe.batch_of(i) * recipe.accumulate
        span = recipe.spans.get("batch", recipe.span)
        if count == 0:
            reporter.report("KD0823", view.span, phase=phase.name, view=f"{view.data}.{view.split}")
            sound = False
        elif recipe.drop_last and count < batch:
            span = recipe.spans.get("drop_last", span)
            reporter.report("KD0732", span, name=view.data, batch=batch, found=count)
            sound = False
        elif count < recipe.batch_of(i):
            samples = counted(count, "sample")
            reporter.report("KD0371", span, phase=phase.name, batch=recipe.batch_of(i), data=view.data, samples=samples)
    if sound and recipe.keep_epochs and recipe.epochs is None:
        last = epoch_count(recipe, counts[0])
        for epoch in recipe.keep_epochs:
            if epoch > last:
                limit = f"at most {last}, in which the phase ends"
                span = recipe.spans.get("keep_epochs", recipe.span)
                reporter.report("KD0243", span, what="an epoch of `keep_epochs`", limit=limit, value=epoch)
    return sound
