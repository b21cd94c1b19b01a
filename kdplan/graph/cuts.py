"""Where a network can be cut in two: feature maps through which everything passes."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, fx

from kdplan.diagnostics.boundary import foreign
from kdplan.graph.fake import whole
from kdplan.graph.inspect import blank
from kdplan.graph.signals import dims
from kdplan.graph.trace import Traced, TraceError, trace
from kdplan.graph.tracer import ROOT
from kdplan.ir.cuts import Cut, Layer
from kdplan.ir.outputs import OUTPUT_TAPS
from kdplan.ir.plan import Network


def cuts_of(network: Network, shape: tuple[int, ...]) -> list[Cut]:
    """The cuts of a network for images of a shape [C, H, W], from its input on.

    Raises
    ------
    PlanError
        KD0507 if it cannot be made, KD0508 if it does not run on such images.
    """
    item = network.architecture
    return list(_found(repr((item.name, item.arguments)), shape, _Hidden(network)))


class _Hidden:
    """A network that counts for nothing when calls are compared: its architecture does."""

    def __init__(self, network: Network) -> None:
        self.network = network

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Hidden)

    def __hash__(self) -> int:
        return 0


@lru_cache(maxsize=256)
def _found(architecture: str, shape: tuple[int, ...], hidden: _Hidden) -> tuple[Cut, ...]:
    return tuple(cuts(_traced(hidden.network, shape)))


@lru_cache(maxsize=256)
def _layers_found(architecture: str, shape: tuple[int, ...], hidden: _Hidden) -> tuple[Layer, ...]:
    return tuple(layers(_traced(hidden.network, shape)))


def _traced(network: Network, shape: tuple[int, ...]) -> Traced:
    try:
        return trace(blank(network), torch.zeros(2, *shape))
    except TraceError as problem:
        shapes = f"images {dims((2, *shape))}"
        raise foreign("KD0508", network.span, problem, network=network.name, shapes=shapes) from problem


def cuts(traced: Traced) -> list[Cut]:
    """The cuts of a traced network that are maps [B, C, H, W] and have a name, from its input on.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Flatten())
    >>> [(c.path, c.channels, c.size, c.layers) for c in cuts(trace(net, torch.zeros(2, 3, 8, 8)))]
    [('0', 8, (8, 8), 1), ('1', 8, (8, 8), 0), ('2', 8, (4, 4), 0)]
    """
    names = _names(traced)
    maps: list[Cut] = []
    weights = 0
    for node, value, own in _passed(traced):
        weights += own
        if value.dim() == 4 and node in names:
            maps.append(Cut(names[node], value.shape[1], (value.shape[2], value.shape[3]), weights))
            weights = 0
    return maps


def layers_of(network: Network, shape: tuple[int, ...]) -> list[Layer]:
    """The values of a network through which everything passes, for images of a shape [C, H, W], from its input on.

    Raises
    ------
    PlanError
        KD0507 if it cannot be made, KD0508 if it does not run on such images.
    """
    item = network.architecture
    return list(_layers_found(repr((item.name, item.arguments)), shape, _Hidden(network)))


def layers(traced: Traced) -> list[Layer]:
    """The values of a traced network through which everything passes, and that modules give, from its input on.

    Examples
    --------
    >>> from torch import nn
    >>> net = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1), nn.ReLU(), nn.Flatten(), nn.Linear(512, 5))
    >>> [(at.path, at.shape, at.layers) for at in layers(trace(net, torch.zeros(2, 3, 8, 8)))]
    [('0', (8, 8, 8), 1), ('1', (8, 8, 8), 0), ('2', (512,), 0), ('3', (5,), 1)]
    """
    paths: dict[fx.Node, list[str]] = {}
    for call in traced.calls:
        if call.path and isinstance(call.output, fx.Node):
            paths.setdefault(call.output, []).append(call.path)
    passed: list[Layer] = []
    weights = 0
    for node, value, own in _passed(traced):
        weights += own
        if node in paths:
            names = sorted(dict.fromkeys(paths[node]), key=lambda p: (p.count("."), p))
            weighty = [n for n in names if any(True for _ in traced.module.get_submodule(n).parameters())]
            passed.append(Layer(tuple(names), [*names, *weighty][-1], tuple(value.shape[1:]), weights))
            weights = 0
    return passed


def _passed(traced: Traced) -> list[tuple[fx.Node, Tensor, int]]:
    """The nodes through which everything passes, each with how many weights lie between it and the one before."""
    order = [
        n for n in traced.graph.nodes if n.op not in ("placeholder", "get_attr", "output") and _tensor(n) is not None
    ]
    position = {n: i for i, n in enumerate(order)}
    reaches = _reach_output(traced)
    furthest = -1
    weights = 0
    passed: list[tuple[fx.Node, Tensor, int]] = []
    for i, node in enumerate(order):
        if node not in reaches:
            continue
        weights += _layers(traced, node)
        if furthest <= i:  # nothing made before is read after
            value = _tensor(node)
            assert value is not None
            passed.append((node, value, weights))
            weights = 0
        uses = [position[u] for u in node.users if u in position and u in reaches]
        furthest = max([furthest, *uses])
    return passed


def _tensor(node: fx.Node) -> Tensor | None:
    value = node.meta.get("val")
    return value if isinstance(value, Tensor) else None


def _names(traced: Traced) -> dict[fx.Node, str]:
    """Each node's outermost name."""
    names: dict[fx.Node, str] = {}
    for name, tap in traced.taps.items():
        if tap.index or tap.inner or "#" in name or name in OUTPUT_TAPS:
            continue
        known = names.get(tap.node)
        if known is None or name == "stem" or (name.count("."), len(name)) < (known.count("."), len(known)):
            names[tap.node] = name
    return names


def _reach_output(traced: Traced) -> set[fx.Node]:
    reached: set[fx.Node] = set()
    waiting = [n for n in traced.graph.nodes if n.op == "output"]
    while waiting:
        node = waiting.pop()
        if node not in reached:
            reached.add(node)
            waiting.extend(node.all_input_nodes)
    return reached


def _layers(traced: Traced, node: fx.Node) -> int:
    """How many weights of two dimensions or more a node uses."""
    target = str(node.target)
    if node.op == "call_module":
        return sum(p.dim() > 1 for p in whole(traced.root.get_submodule(target)).parameters())
    used = [n for n in node.all_input_nodes if n.op == "get_attr" and str(n.target).startswith(ROOT + ".")]
    return sum(isinstance(v := n.meta.get("val"), Tensor) and v.dim() > 1 for n in used)
