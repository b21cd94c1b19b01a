"""Which phases may train as one: those whose plans give one graph with other numbers.

Whether they do is known once their graphs are there (`graph.stack.differing`); this says without torch which to try.
"""

from __future__ import annotations

import hashlib
import json
from typing import Any

from kdplan.ir import expr as ir
from kdplan.ir.dag import Planned
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.plan import Phase, Plan
from kdplan.ir.settings import MOST_STACKED
from kdplan.passes.keys import architecture

AUTOMATIC = 16
"""Phases in a stack at most, where the plan leaves the number to kdplan."""

_EQUAL = (
    "batch", "accumulate", "drop_last", "precision", "frozen_precision", "layout", "compile", "frozen", "fold",
    "threads", "shards", "norm", "stack",
)  # fmt: skip
"""Settings of recipes in which the members of a stack agree."""


def is_stacked(plan: Plan, step: Planned) -> bool:
    """Whether a phase's recipe allows a stack."""
    return plan.phases[step.name].recipes[0].stack != "off"


def most(phase: Phase) -> int:
    """How many phases a stack with this one may have."""
    stack = phase.recipes[0].stack
    return min(stack, MOST_STACKED) if isinstance(stack, int) else AUTOMATIC


def stack_key(plan: Plan, phase: Phase) -> str:
    """Equal for phases that may be one graph with other numbers: seeds, rates, weights in the loss, classes."""
    parts: list[Any] = []
    for trainee in phase.trainees:
        parts.append(
            [architecture(plan.networks[trainee.base.network]), sorted(trainee.paths), trainee.upto, trainee.since]
        )
    parts += [[plan.data[v.data].shape, v.unlabelled] for v in phase.streams]
    for recipe in phase.recipes:
        parts.append([recipe.optimizer.name, [getattr(recipe, name) for name in _EQUAL]])
    teachers: dict[str, int] = {}
    for name, root in (("loss", phase.loss), *phase.logged.items()):
        parts.append(name)
        parts += [_node(plan, e, teachers) for e in _walk(root)]
    parts.append(sorted(phase.code.items()))
    text = json.dumps(parts, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


def _walk(root: ir.Expr) -> list[ir.Expr]:
    """All nodes but numbers that may differ: factors, summands, and arguments that are numbers."""
    return [e for e in ir.walk(root) if not isinstance(e, ir.Const)]


def _node(plan: Plan, e: ir.Expr, teachers: dict[str, int]) -> list[Any]:
    if isinstance(e, ir.Call):
        return [e.function, len(e.args), sorted(e.keywords), _fixed(e)]
    if isinstance(e, ir.Tap):
        path = [e.submodule, e.path, e.since, e.call]
        if isinstance(e.of, ir.InTraining):
            return [e.of.slot, *path]
        network = plan.networks[e.of.network]
        which = teachers.setdefault(str(e.of), len(teachers))
        return [architecture(network), network.mode, network.origin.__class__.__name__, which, *path]
    if isinstance(e, ir.Op):
        return [e.op, len(e.args)]
    if isinstance(e, ir.StreamField):
        return [e.stream, e.field]
    return [type(e).__name__, getattr(e, "name", "")]


def _fixed(e: ir.Call) -> dict[str, Any]:
    """The constant arguments of a call that stay as they are: all but those of type `number`."""
    spec = FUNCTIONS.get(e.function)
    numbers = {p.name for p in spec.params if p.type == "number"} if spec is not None else set[str]()
    return {n: a.value for n, a in e.keywords.items() if isinstance(a, ir.Const) and n not in numbers}
