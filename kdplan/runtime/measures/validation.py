"""Measures inside a phase: numbers of the networks that it trains, after every epoch."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import torch
from torch import nn

from kdplan.data.loader import Loader
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.branches import GATED, branches
from kdplan.ir.plan import Phase, Plan, Target, Validation
from kdplan.passes.measurable import of_classes
from kdplan.runtime.measures.context import measure_context
from kdplan.runtime.measures.detection import of_boxes, precisions
from kdplan.runtime.measures.evaluate import evaluate
from kdplan.runtime.measures.metrics import measuring_loader
from kdplan.runtime.measures.outputs import Outputs, joined
from kdplan.runtime.measures.results import Number
from kdplan.runtime.views import opened


@dataclass
class Check:
    """One value of a trainee, measured on one view."""

    plan: Plan
    validation: Validation
    target: Target
    net: nn.Module
    loader: Loader
    root: Path | None
    device: torch.device

    @cached_property
    def outputs(self) -> Outputs:
        """The measured value, ``[B, ...] -> [B, ...]``: a graph of the network's own modules, which is built once."""
        by_class = any(map(of_classes, self.validation.metrics))
        return joined(self.plan, self.target, self.validation.view, [self.net], self.loader.dataset, by_class)

    def numbers(self) -> dict[str, float]:
        """By the metrics' names. Leaves the network in eval mode."""
        self.net.eval()
        metrics, view = self.validation.metrics, self.validation.view
        others = [m for m in metrics if not of_boxes(m)]
        numbers = precisions([self.net], self.loader, metrics)
        context = measure_context(self.plan, view, self.root, self.device)
        numbers |= evaluate(self.outputs, self.loader, others, self.target.path == "probabilities", context)
        return {name: Number.of([value]).mean for name, value in numbers.items()}


def validation(
    plan: Plan, phase: Phase, phase_graph: PhaseGraph, root: Path | None, device: torch.device
) -> Callable[[], dict[str, float]] | None:
    """A function that measures a phase's networks as they stand; None where the phase has no measure.

    Numbers are named by part of the data, value and metric, each where there are several: `digits.test/branch.1/error`.
    """
    checks: dict[str, Check] = {}
    measures = phase.validations
    views = {(v.view.data, v.view.split, str(v.view.classes)) for v in measures}
    targets = {(v.network, v.path) for v in measures}
    for number, v in enumerate(measures):
        target = Target([phase.trainees[v.network].base], v.path)
        loader = measuring_loader(opened(plan, v.view, root, device), max(r.workers for r in phase.recipes))
        parts = [f"{v.view.data}.{v.view.split}"] if len(views) > 1 else []
        parts += [label(plan, phase, v)] if len(targets) > 1 else []
        head = "/".join(parts)
        head = f"{head}({number})" if head in checks else head
        checks[head] = Check(plan, v, target, phase_graph.networks[v.network], loader, root, device)

    def validate() -> dict[str, float]:
        return {
            f"{head}/{name}" if head else name: value
            for head, check in checks.items()
            for name, value in check.numbers().items()
        }

    return validate if checks else None


def label(plan: Plan, phase: Phase, v: Validation) -> str:
    """The name of a measured value: `branch.1`, `gated`, `gate`.

    The network's name stands in front where the phase measures several.

    >>> from kdplan.ir.expr import Const, Version
    >>> from kdplan.ir.plan import Item, Trainee, Network, View
    >>> phase = Phase("p", [Trainee(Version("small"))], [], [], Const(0))
    >>> plan = Plan(networks={"small": Network("small", Item("digits_net"))})
    >>> label(plan, phase, Validation(View("d"), [], path="layer2")), label(plan, phase, Validation(View("d"), []))
    ('layer2', 'small')
    """
    name = phase.trainees[v.network].base.network
    path = v.path.removesuffix(".logits")
    if len({w.network for w in phase.validations}) > 1:
        return f"{name}.{path}" if path else name
    return path or (GATED if branches(plan.networks[name]) else name)
