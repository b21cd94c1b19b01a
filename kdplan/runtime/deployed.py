"""A trained network as it is exported: cut at a tap, and linear maps behind its layers multiplied into them."""

from __future__ import annotations

import math

import torch
from torch import nn

from kdplan.graph.deploy import DeployError, deploy, verify_equal
from kdplan.graph.written import writes_undone
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.outputs import is_output
from kdplan.ir.plan import Item, Network, Plain
from kdplan.nn.adapted import folded
from kdplan.nn.outputs import scores

_RELATIVE = 1e-4
"""How far outputs may differ after two matrices were multiplied into one, against their size."""


def deployed(network: Network, net: nn.Module) -> tuple[nn.Module, Item]:
    """The network with the maps behind its layers multiplied into them, and its architecture.

    Any other network is returned as it is.

    Examples
    --------
    >>> from kdplan.graph.inspect import fresh
    >>> about = {"base": ["digits_net", {"width": 2}], "behind": ["stem.conv"], "shape": [1, 8, 8]}
    >>> network = Network("a", Item(ADAPTED, about))
    >>> deployed(network, fresh(network))[1]
    Item(name='digits_net', arguments={'width': 2})
    """
    item = network.architecture
    if item.name != ADAPTED:
        return net, item
    merged, left = folded(net, item.arguments["behind"])
    if left or item.arguments.get("entries") is not None:
        return merged, Item(ADAPTED, {**item.arguments, "behind": left})
    factory, settings = item.arguments["base"]
    return merged, Item(factory, dict(settings))


def part_at(net: nn.Module, path: str, example: torch.Tensor) -> nn.Module:
    """The network, or the part of it that gives the value at `path` for inputs like `example`.

    Raises
    ------
    TapError
        If there is no such value.

    Examples
    --------
    >>> net = nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    >>> part_at(net, "output", torch.zeros(1, 3)) is net, len(list(part_at(net, "0", torch.zeros(1, 3)).parameters()))
    (True, 2)
    """
    return net if is_output(path) else deploy(net, path, example)


def check_equal(trained: nn.Module, exported: nn.Module, example: torch.Tensor) -> None:
    """Compares outputs, to within the rounding of a product of matrices.

    Raises
    ------
    DeployError
        If they differ by more.
    """
    if exported is trained:
        return
    with torch.no_grad(), writes_undone(trained):
        size = float(scores(trained(torch.ones_like(example))).abs().max())
    if not math.isfinite(size):
        raise DeployError("outputs are not finite")
    verify_equal(trained, exported, example, tolerance=_RELATIVE * max(size, 1.0))


def architecture(item: Item) -> dict[str, Plain]:
    """An architecture in the form of `model.json`."""
    return {"factory": item.name, "arguments": dict(item.arguments)}
