"""Numbers about networks on data: what `kdplan.runtime.measures.table` does not find in the store."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from kdplan.data.dataset import Dataset
from kdplan.diagnostics.report import error
from kdplan.ir.branches import split
from kdplan.ir.plan import Item, Plan, Target, View
from kdplan.ir.versions import makers
from kdplan.runtime.deployed import deployed
from kdplan.runtime.device import choose_device, set_determinism
from kdplan.runtime.measures.detection import of_boxes, precisions
from kdplan.runtime.measures.metrics import (
    NETWORK_NUMBERS,
    Outputs,
    evaluate,
    measuring_loader,
    network_number,
    of_classes,
)
from kdplan.runtime.measures.results import Measured
from kdplan.runtime.measures.table import Cell, label_of
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.versions import Sources
from kdplan.runtime.views import around, opened

WHOLE = ("", "logits", "probabilities")
"""Paths that mean the network's own output."""


def measure_cells(sources: Sources, cells: Mapping[str, Cell], options: RunOptions) -> Iterator[tuple[str, Measured]]:
    """Measures cells, those of one target on one view together: (key, number) as each is known."""
    device = choose_device(options.device)
    set_determinism(options.deterministic)
    workers = max((r.workers for p in sources.plan.phases.values() for r in p.recipes), default=0)
    groups: dict[str, list[str]] = {}
    for key, cell in cells.items():
        groups.setdefault(repr((cell.view, cell.cut, cell.target)), []).append(key)
    data: dict[str, Dataset] = {}
    for _, group in sorted(groups.items()):  # targets that are measured on one view stand together
        target, view, cut = cells[group[0]].target, cells[group[0]].view, cells[group[0]].cut
        if repr(view) not in data:
            data = {repr(view): opened(sources.plan, view, options.data_root, device)}  # one at a time on the device
        found = data[repr(view)]
        networks = [materialise(sources, v, device).eval() for v in target.versions]
        metrics = [cells[key].metric for key in group]
        loader = measuring_loader(found, workers)
        boxes = precisions(networks, target, loader, metrics)
        outputs = joined(sources.plan, target, view, networks, found, any(map(of_classes, metrics)), cut)
        probabilities = target.path == "probabilities" or target.join == "probabilities"
        of_outputs = [m for m in metrics if m.name not in NETWORK_NUMBERS and not of_boxes(m)]
        beside = around(sources.plan, view, options.data_root, device)
        numbers = evaluate(outputs, loader, of_outputs, probabilities, beside)
        for key in group:
            metric = cells[key].metric
            if metric.name == "training_flops":
                yield key, training_flops(sources.plan, target, metric)
            elif metric.name in NETWORK_NUMBERS:
                handed = [deployed(sources.plan.networks[v.network], n)[0]
                          for v, n in zip(target.versions, networks, strict=True)]  # fmt: skip
                yield key, network_number(metric.name, handed, found.shape, device)
            else:
                yield key, boxes[metric.name] if of_boxes(metric) else numbers[label_of(metric)]


def training_flops(plan: Plan, target: Target, metric: Item) -> float:
    """What one sample costs forward in the phases that made the target's weights, added up.

    Raises
    ------
    PlanError
        KD0840 where no phase did.
    """
    from kdplan.graph.assemble import join
    from kdplan.graph.cost import forward_flops
    from kdplan.graph.inspect import blank_networks

    phases = dict.fromkeys(m for v in target.versions for m in makers(plan, v))
    if not phases:
        raise error("KD0840", metric.span, metric=metric.name, reason="no phase of this plan trained the network.")
    total = 0.0
    for name in phases:
        phase = plan.phases[name]
        graph = join(plan, phase, blank_networks(plan, phase)).graph_module
        total += forward_flops(graph) / phase.recipes[0].batch_of()
    return total


def joined(
    plan: Plan,
    target: Target,
    view: View,
    networks: Sequence[nn.Module],
    data: Dataset,
    by_class: bool = True,
    cut: bool = False,
) -> Outputs:
    """The target's outputs as one function, [B, ...] -> [B, C]; `by_class` puts its classes in the view's order, and
    `cut` leaves out those that the view has not."""
    parts = [output_at(net, target.path, data) for net in networks]
    order = class_order(plan, target, view, cut) if by_class else None

    def outputs(x: Tensor) -> Tensor:
        values = [part(x) for part in parts]
        match target.join:
            case "probabilities":
                values = values if target.path == "probabilities" else [v.softmax(dim=1) for v in values]
                result = torch.stack(values).mean(dim=0)
            case "logits":
                result = torch.stack(values).mean(dim=0)
            case "concat":
                result = torch.cat(values, dim=1)
            case _:
                (result,) = values
        return result if order is None else result[:, order]

    return outputs


def output_at(network: nn.Module, path: str, data: Dataset) -> Outputs:
    """What a network gives at `path`: its output, its probabilities, or an inner value by name.

    Raises
    ------
    PlanError
        KD0840 if there is no such value.
    """
    if path in ("", "logits"):
        return network
    if path == "probabilities":
        return lambda x: network(x).softmax(dim=1)
    from kdplan.graph.build import Builder
    from kdplan.graph.taps import TapError

    builder = Builder()
    example = data.batch(torch.arange(min(2, len(data))))["inputs"]
    inputs = builder.input("inputs", example)
    builder.network("net", network)
    try:
        value = builder.apply("net", (inputs,), path)
    except TapError as problem:
        raise error("KD0840", None, metric=path, reason=str(problem)) from problem
    phase = builder.finish({"value": value})

    def outputs(x: Tensor) -> Tensor:
        found: dict[str, Any] = phase.graph_module(inputs=x)
        tensor: Tensor = found["value"]
        return tensor

    return outputs


def class_order(plan: Plan, target: Target, view: View, cut: bool = False) -> list[int] | None:
    """Which column of the outputs each class of the view is; None where they are in order or nothing is known.

    Of a network over more classes only the scores of the view's count. With `cut`, outputs of which nothing is known
    are over all classes of the data.

    Raises
    ------
    PlanError
        KD0840 if the outputs are over other classes than the view's labels.
    """
    sets = [plan.networks[v.network].classes for v in target.versions]
    known = [s for s in sets if s is not None and s.data == view.data]
    inside = {split(plan.networks[v.network], target.path)[1] for v in target.versions}
    if not inside <= set(WHOLE):
        return None
    if len(known) < len(sets):
        return list(view.classes.ids) if cut and view.classes is not None else None
    ids = [i for s in known for i in s.ids] if target.join == "concat" else known[0].ids
    count = len(plan.data[view.data].classes) or len(ids)
    wanted = view.classes.ids if view.classes is not None else list(range(count))
    if target.join != "concat" and any(s.ids != ids for s in known):
        raise error("KD0840", target.span, metric=target.join, reason="the networks' classes differ, or their order.")
    if not {*wanted} <= {*ids} or len({*ids}) < len(ids):
        reason = f"the outputs are over {len(ids)} classes, the labels of `{view.data}` over {len(wanted)} others."
        raise error("KD0840", target.span, metric="this view", reason=reason)
    return None if ids == wanted else [ids.index(i) for i in wanted]
