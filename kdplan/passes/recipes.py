"""What the recipes of one phase must have in common."""

from __future__ import annotations

from collections.abc import Iterator

from kdplan.diagnostics.report import Reporter
from kdplan.ir.expr import Call, Expr, walk
from kdplan.ir.optimizers import FUSED, GRAPHED
from kdplan.ir.plan import Item, Phase
from kdplan.ir.settings import OLDER, RECIPE

OWN = ("optimizer", "schedule", "warmup", "workers")
"""Settings of each recipe alone; of `workers` the phase takes the largest."""
SHARED = tuple(s.name for s in RECIPE if s.name not in OWN and s.name not in OLDER)
"""Settings in which all recipes of one phase agree."""


def check_recipes(phase: Phase, reporter: Reporter) -> None:
    """Report a number of recipes that does not fit (KD0801), settings that differ (KD0802), more shards than samples
    (KD0960), `norm = sync` in compiled graphs (KD0965), shards of a stack (KD1012), a step that cannot be a graph
    (KD1021), and a phase that nothing ends (KD0822).

    Examples
    --------
    >>> from kdplan.ir.expr import Const, Version
    >>> from kdplan.ir.plan import Item, Recipe, Trainee
    >>> both = [Trainee(Version("a")), Trainee(Version("b"))]
    >>> recipes = [Recipe(Item("sgd"), epochs=1, workers=2), Recipe(Item("adam"), epochs=1, clip=5.0)]
    >>> reporter = Reporter()
    >>> check_recipes(Phase("p", both, [], recipes, Const(0)), reporter)
    >>> [d.message for d in reporter.diagnostics]
    ['The recipes of phase `p` differ in `clip`: none and 5.0.']
    """
    recipes = phase.recipes
    if len(recipes) not in (1, len(phase.trainees)):
        span = recipes[0].span
        if span is not None and recipes[-1].span is not None:
            span = span.to(recipes[-1].span)
        reporter.report("KD0801", span, found=len(recipes), networks=len(phase.trainees))
        return
    for setting in SHARED:
        first = getattr(recipes[0], setting)
        for other in recipes[1:]:
            value = getattr(other, setting)
            if value != first:
                span = other.spans.get(setting) or recipes[0].spans.get(setting) or other.span
                reporter.report("KD0802", span, phase=phase.name, setting=setting, one=_shown(first), two=_shown(value))
                break
    first, batch = recipes[0], recipes[0].batch
    fewest = min(batch, default=1) if isinstance(batch, list) else batch
    if first.shards > fewest:
        span = first.spans.get("shards", first.span)
        reporter.report("KD0960", span, phase=phase.name, shards=first.shards, batch=fewest)
    if first.shards > 1 and first.norm == "sync" and first.compile is True:
        reporter.report("KD0965", first.spans.get("compile", first.span), phase=phase.name)
    if first.compile == "graphs" and (obstacle := _not_a_graph(phase)) is not None:
        what, why, instead = obstacle
        span = first.spans.get("compile", first.span)
        reporter.report("KD1021", span, phase=phase.name, what=what, why=why, instead=instead)
    if first.shards > 1 and first.stack != "off":
        span = first.spans.get("stack", first.span)
        reporter.report("KD1012", span, phase=phase.name, shards=first.shards)
    endless = [r for r in recipes if r.schedule.arguments.get("until") is None]
    if recipes[0].epochs is None and recipes[0].steps is None and endless:
        reporter.report("KD0822", endless[0].span, phase=phase.name)


def _not_a_graph(phase: Phase) -> tuple[str, str, str] | None:
    """What keeps the steps of a phase from being CUDA graphs, why, and what to write instead."""
    first = phase.recipes[0]
    for name in (r.optimizer.name for r in phase.recipes):
        if name not in GRAPHED:
            return f"`{name}`", "its step is computed on the CPU in part", "choose another optimizer such as `adamw`"
        if first.precision == "fp16" and name not in FUSED:
            return f"`{name}` in fp16", "its step is left out or not on the CPU", "write `precision = bf16`"
    if first.on_nan.name == "skip":
        return "`on_nan = skip`", "whether a step counts is decided on the CPU", "write `on_nan = rollback`"
    if first.shards > 1:
        return "`shards`", "shards of a batch are summed by the CPU's order", "leave `shards` out"
    if first.frozen == "live" and any(isinstance(e, Call) and e.function == "route" for e in _nodes(phase)):
        return "`route`", "how many samples a network gets differs from step to step", "write `frozen = stored`"
    return None


def _nodes(phase: Phase) -> Iterator[Expr]:
    for root in (phase.loss, *phase.logged.values()):
        yield from walk(root)


def _shown(value: object) -> object:
    if isinstance(value, Item):
        return value.name
    return "none" if value is None else str(value).lower() if isinstance(value, bool) else value
