"""What a trained network is when it is handed out: without what is linear and can be multiplied into its layers."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import nn

from kdplan.graph.deploy import DeployError, verify_equal
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.plan import Item, Network
from kdplan.nn.adapted import folded

_RELATIVE = 1e-4
"""How far outputs may differ after two matrices were multiplied into one, against their size."""


def deployed(network: Network, net: nn.Module) -> tuple[nn.Module, Item]:
    """The network without the maps behind its layers that can be multiplied into them, and its architecture.

    Any other network is handed out as it is.

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
    made, left = folded(net, item.arguments["behind"])
    if left or item.arguments.get("entries") is not None:
        return made, Item(ADAPTED, {**item.arguments, "behind": left})
    factory, settings = item.arguments["base"]
    return made, Item(factory, dict(settings))


def check_equal(trained: nn.Module, made: nn.Module, example: torch.Tensor) -> None:
    """Compare outputs, to within what rounding a product of matrices makes.

    Raises
    ------
    DeployError
        If they differ by more.
    """
    if made is trained:
        return
    with torch.no_grad():
        size = float(trained(torch.ones_like(example)).abs().max())
    if not math.isfinite(size):
        raise DeployError("outputs are not finite")
    verify_equal(trained, made, example, tolerance=_RELATIVE * max(size, 1.0))


def architecture(item: Item) -> dict[str, Any]:
    """As `model.json` says it."""
    return {"factory": item.name, "arguments": dict(item.arguments)}
