"""Phases looked at before anything trains: graphs of modules without memory, their errors and their costs."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.diagnostics.boundary import foreign
from kdplan.diagnostics.report import Diagnostic, PlanError, Reporter, diagnostic, error, listing
from kdplan.graph.assemble import Joined, folded_pairs, frozen_versions, join, no_part
from kdplan.graph.cacheable import storing
from kdplan.graph.cost import cost as graph_cost
from kdplan.graph.cost import flops_by_node
from kdplan.graph.disk import left
from kdplan.graph.examples import random_example
from kdplan.graph.fork import BranchError
from kdplan.graph.freeze import split
from kdplan.graph.held import copy_bytes
from kdplan.graph.lines import NodeError
from kdplan.graph.parts import breaks_at_once
from kdplan.graph.phase_graph import Networks, StoredValue
from kdplan.graph.shard_cost import shard_bytes
from kdplan.graph.state import draws_undone
from kdplan.graph.verify import HALF, SAMPLES, Verdicts, has_users_code, verify, verify_calls
from kdplan.graph.weights import check_fit, refusals
from kdplan.ir import expr as ir
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.dag import Cost
from kdplan.ir.lengths import step_count
from kdplan.ir.origins import Loaded
from kdplan.ir.plan import Network, Phase, Plan, Recipe
from kdplan.ir.user_code import CodeRefused
from kdplan.nn.adapted import foldable
from kdplan.nn.models import FactoryError, create, initialise
from kdplan.nn.optim import build_optimizer
from kdplan.nn.pretrained import named_weights
from kdplan.nn.schedules import build_schedule
from kdplan.nn.whose import is_users


@dataclass
class Inspected:
    """One phase's graph on modules without memory, and what it will cost."""

    joined: Joined
    cost: Cost
    warnings: list[Diagnostic] = field(default_factory=list)


def fresh(network: Network) -> nn.Module:
    """The network with initial weights drawn from its seed, in eval mode.

    Raises
    ------
    PlanError
        KD0507 if its factory refuses the arguments.
    """
    item = network.architecture
    try:
        module = initialise(partial(create, item.name, **item.arguments), network.seed)
    except (ValueError, TypeError, FileNotFoundError, ImportError) as problem:
        raise _refused(network, problem) from problem
    return module.eval()


def _refused(network: Network, problem: Exception) -> PlanError:
    """KD0507 for a network that cannot be made, or the error of its branches."""
    for refusal in refusals(network, problem):
        return refusal
    cause = problem.__cause__
    span = network.architecture.span or network.span
    if isinstance(cause, BranchError):
        span = network.spans.get("gate" if cause.code == "KD0517" else "from", span)
        values: dict[str, Any] = {"network": network.name, **cause.values}
        return error(cause.code, span, **values)
    return foreign("KD0507", span, problem, network=network.name)


def blank(network: Network) -> nn.Module:
    """The network with shapes only: its parameters take no memory."""
    item = network.architecture
    try:
        with torch.device("meta"):
            module: nn.Module = create(item.name, **item.arguments)
    except (NotImplementedError, RuntimeError, FactoryError):
        return fresh(network)  # its constructor may compute with its weights, which needs real ones
    except (ValueError, TypeError, FileNotFoundError, ImportError) as problem:
        raise _refused(network, problem) from problem
    return module.eval()


def check_settings(phases: Iterable[Phase], reporter: Reporter) -> None:
    """KD0853 for optimizers and schedules whose settings torch, or the schedule, refuses.

    Each is built once on a parameter of its own, so that a phase that stands at the end of a long plan fails now.
    """
    seen: set[str] = set()
    for phase in phases:
        for recipe in phase.recipes:
            for setting, item in (("optimizer", recipe.optimizer), ("schedule", recipe.schedule)):
                shown = f"{item.name} {item.arguments}"
                if shown in seen:
                    continue
                seen.add(shown)
                try:
                    if setting == "optimizer":
                        build_optimizer(item.name, item.arguments, [nn.Parameter(torch.zeros(1, 1))])
                    else:
                        build_schedule(item.name, item.arguments, total=recipe.epochs or 1, lr=0.1)
                except ValueError as problem:
                    why = str(problem.__cause__ or problem).rstrip(".")
                    reporter.report("KD0853", recipe.spans.get(setting, recipe.span), name=item.name, problem=why)


def check_parts(network: Network, module: nn.Module) -> None:
    """KD0509 where `reset` names a part that the network lacks."""
    for path in network.reset:
        try:
            module.get_submodule(path)
        except AttributeError:
            raise no_part(module, path, network.name, network.span) from None


def check_start(network: Network, module: nn.Module) -> str | None:
    """Checks `reset` and the weights file of a network; what was recognised in the file, as a line.

    Raises
    ------
    PlanError
        KD0509, KD0830, KD0835.
    """
    check_parts(network, module)
    return check_fit(network, module)


def check_files(plan: Plan, reporter: Reporter) -> list[str]:
    """Checks every weights file of a plan, also of networks that no phase reads; a line for each network."""
    lines = []
    for network in plan.networks.values():
        if isinstance(network.origin, Loaded) or named_weights(network.architecture) is not None:
            try:
                lines.append(check_start(network, blank(network)))
            except CodeRefused as refused:
                reporter.add(refused.about(f"the weights file of `{network.name}`", network.span).diagnostics)
            except PlanError as problem:
                reporter.add(problem.diagnostics)
    return [line for line in lines if line is not None]


def blank_networks(plan: Plan, phase: Phase) -> Networks:
    """Modules without memory for everything that a phase trains and reads."""
    trainable = [blank(plan.networks[m.base.network]) for m in phase.trainees]
    for trainee, module in zip(phase.trainees, trainable, strict=True):
        check_start(plan.networks[trainee.base.network], module)
    frozen: dict[str, nn.Module] = {}
    for root in (phase.loss, *phase.logged.values()):
        for e in ir.walk(root):
            if isinstance(e, ir.Tap) and isinstance(e.of, ir.Version) and str(e.of) not in frozen:
                frozen[str(e.of)] = blank(plan.networks[e.of.network])
                check_start(plan.networks[e.of.network], frozen[str(e.of)])
    return Networks(trainable, frozen)


@draws_undone()
def inspect_phase(plan: Plan, phase: Phase, verdicts: Verdicts | None = None) -> Inspected:
    """The graph and the cost of a phase, as it will be before anything trains; `verdicts` are kept there.

    Raises
    ------
    PlanError
        KD05xx and KD06xx, see `join`.
    """
    networks = blank_networks(plan, phase)
    warnings = [*_fixed(plan, phase, networks), *_verified(plan, phase, networks, verdicts)]
    joined = join(plan, phase, networks)
    half = phase.recipes[0].precision in HALF
    warnings += verify_calls(
        [joined.graph_module], lambda: _labels(plan, phase), half, weights=False, verdicts=verdicts
    )
    if not any(w.code == "KD0550" for w in warnings) and breaks_at_once(phase, joined.graph_module):
        values = "all values that were tried in the first step"
        warnings.append(diagnostic("KD0550", phase.loss.span, name="loss", what="value", values=values))
    step = graph_cost(joined.graph_module, joined.trainable)
    cut = split(joined.graph_module, joined.trainable)
    kept = storing(plan, phase, joined.graph_module, cut, joined.trainable)
    folded_pairs(plan, phase, networks, joined, cut, bool(kept))
    activations, least = _activations(phase.recipes[0], joined, step.peak_bytes)
    steps = step_count(plan, phase)
    artifact = left(plan, phase, joined, networks)
    return Inspected(
        joined,
        Cost(
            parameters=step.parameters,
            trainable=step.trainable,
            flops_step=step.flops_step - (step.flops_frozen if kept else 0),
            steps=steps,
            activation_bytes=activations,
            weight_bytes=step.weight_bytes + step.gradient_bytes + artifact.optimizer,
            copy_bytes=copy_bytes(phase, artifact.state),
            disk_bytes=artifact.disk,
            last_state_bytes=artifact.last_state,
            share=_shares(joined),
            bridges=[*joined.bridges, *_auxiliary(plan, phase), *_maps(plan, phase, joined, folded=True)],
            lasting=_maps(plan, phase, joined, folded=False),
            stored=[_stored_line(phase, v) for v in kept],
            stored_bytes=sum(v.bytes for v in kept),
            whole=_whole(joined),
            shard_bytes=least,
        ),
        warnings,
    )


SMALL = 20_000_000
"""Parameters: larger networks of a user's are compared with their graphs only when the phase starts."""


def _verified(plan: Plan, phase: Phase, networks: Networks, verdicts: Verdicts | None) -> list[Diagnostic]:
    """Compare users' networks, with fresh weights, with their graphs; `networks.whole` has those that differ."""
    modules = [*networks.trainable, *networks.frozen.values()]
    if not any(map(has_users_code, modules)) or sum(p.numel() for m in modules for p in m.parameters()) > SMALL:
        return []

    def images(stream: int) -> Tensor | None:
        data = plan.data[phase.streams[stream].data]
        return random_example(data, SAMPLES) if data.shape is not None else None

    real = Networks(
        [fresh(plan.networks[m.base.network]) if is_users(n) else n
         for m, n in zip(phase.trainees, networks.trainable, strict=True)],
        {str(v): fresh(plan.networks[v.network]) if is_users(networks.of(v)) else networks.of(v)
         for v in frozen_versions(phase)},
        networks.whole,
    )  # fmt: skip
    return verify(plan, phase, real, images, verdicts, first_trace=True)


def _fixed(plan: Plan, phase: Phase, networks: Networks) -> list[Diagnostic]:
    """KD0545 for parameters that a constructor fixes, in networks that the phase trains as a whole."""
    warnings = []
    for trainee, module in zip(phase.trainees, networks.trainable, strict=True):
        fixed = [name for name, p in module.named_parameters() if not p.requires_grad]
        if fixed and not (trainee.paths or trainee.upto):
            name, parameters = trainee.base.network, listing(fixed, 3)
            children = [n for n, m in module.named_children() if any(p.requires_grad for p in m.parameters())]
            part = f"{name.partition('[')[0]}.{children[-1]}" if children else None
            help = f"Write `of {part}` to train a part." if part else None
            warnings.append(
                diagnostic("KD0545", trainee.span or phase.span, help=help, network=name, phase=phase.name,
                           parameters=parameters)
            )  # fmt: skip
    return warnings


def _labels(plan: Plan, phase: Phase) -> dict[str, Tensor]:
    """Some labels and step counters for each stream, by placeholder."""
    values: dict[str, Tensor] = {name: torch.zeros(()) for name in ir.STEP_COUNTERS}
    for number, view in enumerate(phase.streams):
        classes = len(view.classes.ids) if view.classes else len(plan.data[view.data].classes)
        size = phase.recipes[0].batch_of(number)
        values[f"labels_{number}"] = torch.arange(size) % max(classes, 1)
        values[f"indices_{number}"] = torch.arange(size)
    return values


def _whole(joined: Joined) -> list[str]:
    """What is called whole, with the reason."""
    lines = []
    for node in joined.graph_module.graph.nodes:
        if reason := node.meta.get("whole"):
            part = ".".join([str(node.meta["owner"]).removeprefix("net "), str(node.meta["path"])]).rstrip(".")
            lines.append(f"{part}: {reason}")
    return list(dict.fromkeys(lines))


def _auxiliary(plan: Plan, phase: Phase) -> list[str]:
    """Networks of a construct that are no students, which nothing reads but its phases."""
    networks = [plan.networks[m.base.network] for m in phase.trainees]
    own = [n for n in networks if n.role == "network" and n.name.startswith(f"{phase.construct}.")]
    sizes = {n.name: " → ".join(str(v) for v in n.architecture.arguments.values()) for n in own}
    return [f"{n.name}: {n.architecture.name} {sizes[n.name]}" for n in own]


def _maps(plan: Plan, phase: Phase, joined: Joined, folded: bool) -> list[str]:
    """Linear maps behind layers: those that are multiplied into their layers at export, or those that are not."""
    lines = []
    for slot, trainee in enumerate(phase.trainees):
        item = plan.networks[trainee.base.network].architecture
        net = joined.joined.networks[joined.names[str(slot)]]
        for path in item.arguments["behind"] if item.name == ADAPTED else ():
            if foldable(net, path) == folded:
                what = "multiplied into it at export" if folded else "which is not one linear layer"
                lines.append(f"map behind {path} of {phase.construct or trainee.base.network}, {what}")
    return lines


def _stored_line(phase: Phase, value: StoredValue) -> str:
    """What is stored, for the plan's table.

    >>> from kdplan.ir.plan import View
    >>> phase = Phase("p", [], [View("digits")], [], ir.Const(1))
    >>> _stored_line(phase, StoredValue("big_layer2", 0, 1437, (64, 4, 4), torch.float32, "big@train", "layer2"))
    'layer2 of big@train for digits, [64, 4, 4] a sample: 5.9 MB'
    """
    number = f"{value.bytes / 1e6:.1f} MB" if value.bytes < 1e9 else f"{value.bytes / 1e9:.1f} GB"
    return f"{value.label} for {phase.streams[value.stream].data}, {list(value.shape)} a sample: {number}"


def _activations(recipe: Recipe, joined: Joined, whole: int) -> tuple[int, int | None]:
    """Bytes of activations on one process, and on as many as shards where that is another number."""
    if recipe.shards == 1:
        return whole, None
    gm, trainable = joined.graph_module, joined.trainable
    with suppress(NodeError):  # shards on which the graph does not run are reported as such
        one = shard_bytes(gm, trainable, recipe)
        return one, shard_bytes(gm, trainable, recipe, ranks=recipe.shards) if recipe.norm == "sync" else None
    return whole, None


def _shares(joined: Joined) -> dict[str, float]:
    """For each network: which share of its whole forward FLOPs the pruned graph still has."""
    kept = {n.name for n in joined.graph_module.graph.nodes}
    if kept.issuperset(n.name for n in joined.joined.graph_module.graph.nodes):
        return dict.fromkeys(joined.joined.networks, 1.0)
    flops = flops_by_node(joined.joined.graph_module)
    shares = {}
    for name in joined.joined.networks:
        nodes = [n.name for n in joined.joined.graph_module.graph.nodes if n.meta.get("owner") == f"net {name}"]
        whole = sum(flops.get(n, 0) for n in nodes)
        if whole:
            shares[name] = sum(flops.get(n, 0) for n in nodes if n in kept) / whole
    return shares
