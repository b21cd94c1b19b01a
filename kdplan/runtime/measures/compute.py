"""Numbers about networks on data that the store does not have."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

import torch
from torch import nn

from kdplan.data.dataset import Dataset
from kdplan.diagnostics.report import error
from kdplan.graph.assemble import join
from kdplan.graph.cost import forward_flops
from kdplan.graph.examples import of_shape
from kdplan.graph.inspect import blank_networks
from kdplan.graph.taps import TapError
from kdplan.ir.outputs import is_scores
from kdplan.ir.plan import Item, Plan, Target, View
from kdplan.ir.versions import makers
from kdplan.passes.measurable import of_classes
from kdplan.runtime.deployed import deployed, part_at
from kdplan.runtime.device import choose_device, set_determinism
from kdplan.runtime.measures.cells import Cell
from kdplan.runtime.measures.context import measure_context
from kdplan.runtime.measures.detection import of_boxes, precisions
from kdplan.runtime.measures.evaluate import evaluate
from kdplan.runtime.measures.labels import label_of
from kdplan.runtime.measures.metrics import NETWORK_NUMBERS, measuring_loader, network_number
from kdplan.runtime.measures.outputs import joined
from kdplan.runtime.measures.results import Measured
from kdplan.runtime.measures.stacked import Candidate, Known, Note, known_outputs
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.versions import Sources
from kdplan.runtime.views import check_content, opened


@dataclass(frozen=True, slots=True)
class _Group:
    """Metrics of one target on one view, which share the passes over its data."""

    target: Target
    view: View
    cut: bool
    metrics: dict[str, Item]
    """Cell key -> metric."""


def measure_cells(
    sources: Sources, cells: Mapping[str, Cell], options: RunOptions, note: Note = lambda text: None
) -> Iterator[tuple[str, Measured, int]]:
    """The numbers of cells, those of one target on one view together: (key, number, networks) as each is known.

    `networks` is how many were computed as one with the target's; 1 for one alone.

    Raises
    ------
    PlanError
        KD0840 if a metric does not fit its target, KD0829 if its data are no longer those of the plan.
    """
    device = choose_device(options.device)
    set_determinism(options.deterministic)
    workers = max((r.workers for p in sources.plan.phases.values() for r in p.recipes), default=0)
    for _, groups in groupby(_groups(cells), lambda group: repr(group.view)):  # one data set at a time on the device
        data: Dataset | None = None
        known: dict[int, dict[int, Known]] = {}
        for number, group in enumerate(several := list(groups)):
            if data is None:
                data = opened(sources.plan, group.view, options.data_root, device)
                check_content(sources.plan, [group.view], options.data_root, "a measure")
                candidates = [Candidate(n, g.target, [*g.metrics.values()]) for n, g in enumerate(several)]
                known = known_outputs(sources, candidates, measuring_loader(data, workers), device, note)
            numbers = list(_measure(sources, group, data, workers, options, device, known.get(number, {})))
            if not data.in_memory:
                check_content(sources.plan, [group.view], options.data_root, "a measure", later=True)
            known.pop(number, None)
            yield from numbers


def _groups(cells: Mapping[str, Cell]) -> list[_Group]:
    """The cells by target and view; targets on one view stand together."""
    groups: dict[str, _Group] = {}
    for key, cell in cells.items():
        name = repr((cell.view, cell.cut, cell.target))
        groups.setdefault(name, _Group(cell.target, cell.view, cell.cut, {})).metrics[key] = cell.metric
    return [groups[name] for name in sorted(groups)]


def _measure(
    sources: Sources,
    group: _Group,
    data: Dataset,
    workers: int,
    options: RunOptions,
    device: torch.device,
    known: Mapping[int, Known],
) -> Iterator[tuple[str, Measured, int]]:
    """The numbers of one group, by their cells' keys; `known` has outputs of its networks, where they are."""
    plan, target, view = sources.plan, group.target, group.view
    networks = [materialise(sources, v, device).eval() for v in target.versions]
    metrics = list(group.metrics.values())
    loader = measuring_loader(data, workers)
    boxes = precisions(networks, loader, metrics)
    measured = [known.get(index, network) for index, network in enumerate(networks)]
    outputs = joined(plan, target, view, measured, data, any(map(of_classes, metrics)), group.cut)
    probabilities = target.path == "probabilities" or target.join == "probabilities"
    of_outputs = [m for m in metrics if m.name not in NETWORK_NUMBERS and not of_boxes(m)]
    context = measure_context(plan, view, options.data_root, device)
    numbers = evaluate(outputs, loader, of_outputs, probabilities, context)
    for key, metric in group.metrics.items():
        if metric.name in NETWORK_NUMBERS:
            yield key, _of_network(plan, group, metric, networks, data.shape, device), 1
        else:
            number = boxes[metric.name] if of_boxes(metric) else numbers[label_of(metric)]
            yield key, number, max((k.width for k in known.values()), default=1)


def _of_network(
    plan: Plan, group: _Group, metric: Item, networks: Sequence[nn.Module], shape: Sequence[int], device: torch.device
) -> float:
    """A number that reads no data: of what would be exported of the networks, or of the phases that trained them.

    Raises
    ------
    PlanError
        KD0840 for a tap that a network lacks, and as `training_flops`.
    """
    target, whole = group.target, plan.data[group.view.data].whole
    if metric.name == "training_flops":
        return training_flops(plan, target, metric)
    try:
        if is_scores(target.path):
            pairs = zip(target.versions, networks, strict=True)
            exported = [deployed(plan.networks[v.network], n)[0] for v, n in pairs]
        else:
            exported = [part_at(n, target.path, of_shape(shape, 1, whole).to(device)) for n in networks]
    except TapError as problem:
        raise error("KD0840", metric.span, metric=metric.name, reason=str(problem)) from problem
    return network_number(metric.name, exported, shape, device, whole)


def training_flops(plan: Plan, target: Target, metric: Item) -> float:
    """Floating-point operations of one sample's forward pass, summed over the phases that made the target's weights.

    Raises
    ------
    PlanError
        KD0840 where no phase did.
    """
    phases = dict.fromkeys(m for v in target.versions for m in makers(plan, v))
    if not phases:
        raise error("KD0840", metric.span, metric=metric.name, reason="no phase of this plan trained the network.")
    total = 0.0
    for name in phases:
        phase = plan.phases[name]
        graph = join(plan, phase, blank_networks(plan, phase)).graph_module
        total += forward_flops(graph) / phase.recipes[0].batch_of()
    return total
