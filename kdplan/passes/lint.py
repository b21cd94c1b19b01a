"""What is legal and most likely not meant: networks that stay equal for ever, conventions that are easily missed."""

from __future__ import annotations

import itertools

from kdplan.diagnostics.report import Reporter
from kdplan.ir import expr as ir
from kdplan.ir.dag import PhaseKey
from kdplan.ir.origins import Ensembled
from kdplan.ir.plan import Measure, Phase, Plan
from kdplan.ir.versions import versions_of
from kdplan.passes.keys import content
from kdplan.passes.metric_checks import lint_features
from kdplan.passes.open_set import lint_identities


def lint(plan: Plan, keys: dict[str, PhaseKey], reporter: Reporter) -> None:
    """Report twins (KD0305), also in ensembles (KD0311), and warn of a missing T² (KD0360), of `best` chosen on a test
    split (KD0361), of a mean over seeds that share what they learn from (KD0362), of training on a test split (KD0370),
    of absurd rates (KD0372), and of open sets that are none (KD0756, KD0760)."""
    for name, phase in plan.phases.items():
        _twins(phase, keys[name], reporter)
        _temperature(phase, reporter)
        _on_test(plan, phase, reporter)
        _rates(phase, reporter)
    _members(plan, keys, reporter)
    for measure in plan.measured():
        _best_on_test(plan, measure, reporter)
        _shared_teacher(plan, measure, reporter)
        lint_identities(plan, measure, reporter)
        lint_features(plan, measure, reporter)


# ---- twins

_LOOKED_AT = 5_000_000
"""Characters of losses that are compared for twins in one phase: hundreds of equal networks have too many pairs."""


def _twins(phase: Phase, key: PhaseKey, reporter: Reporter) -> None:
    """Two networks of one phase that start equal, learn alike and see the loss alike."""
    if len(phase.trainees) < 2:
        return
    start = {c.path: c.value for c in key.components if c.path.startswith("moves/")}
    same_recipe = len(phase.recipes) == 1
    alike: dict[tuple[str, str | None], list[int]] = {}
    for i in range(len(phase.trainees)):
        alike.setdefault((start[f"moves/{i}"], start.get(f"moves/{i}/part")), []).append(i)
    pairs = (pair for group in alike.values() for pair in itertools.combinations(group, 2))
    as_written = shape(phase.loss, {}) if any(len(group) > 1 for group in alike.values()) else ""
    for i, j in itertools.islice(pairs, max(10, _LOOKED_AT // (1 + len(as_written)))):
        if (same_recipe or _same(phase, i, j)) and as_written == shape(phase.loss, {i: j, j: i}):
            a, b = phase.trainees[i].base.network, phase.trainees[j].base.network
            reporter.report("KD0305", phase.trainees[j].span or phase.span, first=a, second=b)


def _members(plan: Plan, keys: dict[str, PhaseKey], reporter: Reporter) -> None:
    """KD0311: one network twice in an ensemble."""
    reported: set[int] = set()
    for network in plan.networks.values():
        origin = network.origin
        if not isinstance(origin, Ensembled) or id(origin) in reported:
            continue
        reported.add(id(origin))
        first: dict[str, ir.Version] = {}
        for version in origin.versions:
            known = first.setdefault(content(plan, keys, version), version)
            if known is not version:
                one, two = str(known).partition("@")[0], str(version).partition("@")[0]
                reporter.report("KD0311", network.span, first=one, second=two)
                break


def _same(phase: Phase, i: int, j: int) -> bool:
    a, b = phase.recipes[i], phase.recipes[j]
    return (a.optimizer, a.schedule) == (b.optimizer, b.schedule)


def shape(e: ir.Expr, slots: dict[int, int]) -> str:
    """An expression as text, with sums and products in an order of their own and slots renamed.

    >>> a, b = ir.Const(1), ir.Const(2)
    >>> shape(ir.Op("+", [a, b]), {}) == shape(ir.Op("+", [b, a]), {})
    True
    """
    if isinstance(e, ir.Const):
        return repr(e.value)
    if isinstance(e, ir.StreamField):
        return f"{e.field}{e.stream}"
    if isinstance(e, ir.StepCounter):
        return e.name
    if isinstance(e, ir.Tap):
        of = f"#{slots.get(e.of.slot, e.of.slot)}" if isinstance(e.of, ir.InTraining) else str(e.of)
        return f"{of}.{e.submodule}.{e.since}.{e.path}({','.join(shape(i, slots) for i in e.inputs)})"
    if isinstance(e, ir.Op):
        parts = [shape(a, slots) for a in e.args]
        if e.op in ("+", "*"):
            parts.sort()
        return f"({e.op} {' '.join(parts)})"
    parts = [shape(a, slots) for a in e.args]
    parts += sorted(f"{n}={shape(a, slots)}" for n, a in e.keywords.items())
    return f"{e.function}({', '.join(parts)})"


# ---- conventions


def _temperature(phase: Phase, reporter: Reporter) -> None:
    """A `kl` with a temperature above 1 whose factor is smaller than its square: gradients shrink by 1/T²."""
    stack: list[tuple[ir.Expr, float]] = [(phase.loss, 1.0)]
    while stack:
        e, factor = stack.pop()
        if isinstance(e, ir.Op) and e.op == "*":
            numbers = [a.value for a in e.args if isinstance(a, ir.Const) and isinstance(a.value, int | float)]
            for number in numbers:
                factor *= float(number)
            stack.extend((a, factor) for a in e.args)
        elif isinstance(e, ir.Call) and e.function == "kl":
            t = e.keywords.get("temperature")
            value = t.value if isinstance(t, ir.Const) else 1
            if isinstance(value, int | float) and value > 1 and abs(factor) <= 1.0:
                reporter.report("KD0360", e.span or phase.span, temperature=f"{value:g}", square=f"{value * value:g}")
        elif isinstance(e, ir.Op | ir.Call):
            stack.extend((a, factor) for a in e.args)


def _on_test(plan: Plan, phase: Phase, reporter: Reporter) -> None:
    """A phase that trains on samples which others are measured on."""
    for view in phase.streams:
        if view.split == "test" and view.data in plan.data:
            reporter.report("KD0370", view.span, phase=phase.name, data=view.data)


HIGHEST_RATE = 1e3
"""Learning rates above are most likely a slip of the pen."""


def _rates(phase: Phase, reporter: Reporter) -> None:
    for recipe in phase.recipes:
        rate = recipe.optimizer.arguments.get("lr")
        if isinstance(rate, int | float) and rate > HIGHEST_RATE:
            span = recipe.optimizer.span or recipe.spans.get("optimizer", recipe.span)
            reporter.report("KD0372", span, phase=phase.name, rate=f"{rate:g}", most=f"{HIGHEST_RATE:g}")


def _best_on_test(plan: Plan, measure: Measure, reporter: Reporter) -> None:
    for row in measure.rows:
        measured = {(v.data, v.split) for v in measure.views_of(row)}
        for version in row.target.versions:
            if version.snapshot != "best" or version.phase is None:
                continue
            if not plan.phases[version.phase].validations:
                continue  # nothing chose it, which is an error of its own
            validation = plan.phases[version.phase].validations[0].view
            if (validation.data, validation.split) in measured:
                split = f"{validation.data}.{validation.split}"
                reporter.report("KD0361", row.target.span or measure.span, phase=version.phase, split=split)
                return


def _shared_teacher(plan: Plan, measure: Measure, reporter: Reporter) -> None:
    """Rows that differ in their seed only, and whose phases all read one and the same trained version."""
    if "seed" not in measure.over:
        return
    groups: dict[str, list[set[str]]] = {}
    for row in measure.rows:
        if "seed" not in row.coordinates or row.target.versions[0].phase is None:
            continue
        rest = {k: v for k, v in row.coordinates.items() if k != "seed"}
        phase = plan.phases[row.target.versions[0].phase]
        trained = {m.base.network for m in phase.trainees}
        read = {str(v) for v in versions_of(phase) if v.phase is not None and v.network not in trained}
        groups.setdefault(f"{row.label} {sorted(rest.items(), key=str)}", []).append(read)
    for reads in groups.values():
        shared = set.intersection(*reads) if len(reads) > 1 else set()
        if shared:
            network, _, made_by = sorted(shared)[0].partition("@")
            version = made_by if made_by.startswith(f"{network}@") else f"{network}@{made_by}"
            reporter.report("KD0362", measure.span, measure=measure.name, count=len(reads), version=version)
            return
