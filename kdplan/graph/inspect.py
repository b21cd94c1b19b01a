"""Phases looked at before anything trains: graphs of modules without memory, their errors and their costs."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial

import torch
from torch import nn

from kdplan.diagnostics.report import error
from kdplan.graph.assemble import Joined, join
from kdplan.graph.assembled import Networks
from kdplan.graph.cost import cost as graph_cost
from kdplan.graph.cost import flops_by_owner
from kdplan.ir import expr as ir
from kdplan.ir.dag import Cost
from kdplan.ir.plan import Network, Phase, Plan, View
from kdplan.nn.models import create, initialise


@dataclass
class Inspected:
    """One phase's graph on modules without memory, and what it will cost."""

    joined: Joined
    cost: Cost


def fresh(network: Network) -> nn.Module:
    """The network with initial weights drawn from its seed, in eval mode.

    Raises
    ------
    PlanError
        KD0507 if its factory refuses the arguments.
    """
    item = network.architecture
    try:
        made = initialise(partial(create, item.name, **item.arguments), network.seed)
    except (ValueError, TypeError, FileNotFoundError) as problem:
        raise error("KD0507", item.span or network.span, network=network.name, problem=str(problem)) from problem
    return made.eval()


def blank(network: Network) -> nn.Module:
    """The network with shapes only: its parameters take no memory."""
    item = network.architecture
    try:
        with torch.device("meta"):
            made: nn.Module = create(item.name, **item.arguments)
    except (NotImplementedError, RuntimeError):
        return fresh(network)  # its constructor computes with its weights, which needs real ones
    except (ValueError, TypeError, FileNotFoundError) as problem:
        raise error("KD0507", item.span or network.span, network=network.name, problem=str(problem)) from problem
    return made.eval()


def blank_networks(plan: Plan, phase: Phase) -> Networks:
    """Modules without memory for everything that a phase moves and reads."""
    moving = [blank(plan.networks[m.base.network]) for m in phase.moves]
    frozen: dict[str, nn.Module] = {}
    for root in (phase.loss, *phase.logged.values()):
        for e in ir.walk(root):
            if isinstance(e, ir.Tap) and isinstance(e.of, ir.Version) and str(e.of) not in frozen:
                frozen[str(e.of)] = blank(plan.networks[e.of.network])
    return Networks(moving, frozen)


def inspect_phase(plan: Plan, phase: Phase) -> Inspected:
    """The graph and the cost of a phase, as it will be before anything trains.

    Raises
    ------
    PlanError
        KD05xx and KD06xx, see `join`.
    """
    made = join(plan, phase, blank_networks(plan, phase))
    found = graph_cost(made.graph_module, made.moving)
    steps = step_count(plan, phase)
    optimiser = _state_bytes(phase, found.trainable)
    snapshots = 1 + bool(phase.validations) + any(r.ema is not None for r in phase.recipes) + len(phase.recipes[0].keep_epochs)
    moved = sum(
        t.numel() * t.element_size()
        for slot in range(len(phase.moves))
        for t in made.joined.networks[made.names[str(slot)]].state_dict().values()
    )
    return Inspected(
        made,
        Cost(
            parameters=found.parameters,
            trainable=found.trainable,
            flops_step=found.flops_step,
            steps=steps,
            activation_bytes=found.peak_bytes,
            weight_bytes=found.weight_bytes + optimiser,
            disk_bytes=moved * snapshots,
            share=_shares(made),
        ),
    )


def _state_bytes(phase: Phase, trainable: int) -> int:
    """Gradients and optimizer state, 4 bytes a number."""
    name = phase.recipes[0].optimizer.name
    momentum = bool(phase.recipes[0].optimizer.arguments.get("momentum"))
    buffers = {"sgd": int(momentum), "adagrad": 1, "rmsprop": 1 + int(momentum)}.get(name, 2)
    return 4 * trainable * (1 + buffers)


def step_count(plan: Plan, phase: Phase) -> int:
    """Optimizer steps of a phase; for a plateau schedule the most that it may take."""
    recipe = phase.recipes[0]
    if recipe.steps is not None:
        return recipe.steps
    assert recipe.epochs is not None
    batches = -(-view_size(plan, phase.streams[0]) // recipe.batch)
    return recipe.epochs * -(-batches // recipe.accumulate)


def view_size(plan: Plan, view: View) -> int:
    """Samples of a view, to within rounding of class subsets."""
    data = plan.data[view.data]
    size = data.sizes.get(view.split, 0)
    if view.split == "train":
        size = round(size * data.fraction)
    if view.classes is not None and data.classes:
        size = round(size * len(view.classes.ids) / len(data.classes))
    return min(size, data.limit) if data.limit is not None and view.split == "train" else size


def _shares(made: Joined) -> dict[str, float]:
    """For each network: which share of its whole forward FLOPs the pruned graph still has."""
    whole = flops_by_owner(made.joined.graph_module)
    kept = flops_by_owner(made.graph_module)
    return {
        name: kept.get(f"net {name}", 0) / whole[f"net {name}"]
        for name in made.joined.networks
        if whole.get(f"net {name}")
    }
