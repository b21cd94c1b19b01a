"""The architecture of a network with a head of its own: a base network's, and the layers that follow it."""

from __future__ import annotations

from typing import Any

from kdplan.ir.plan import Item, Plain

HEADED = "kdplan.nn.heads:headed"
"""Its arguments: `base` and `settings` of the base network, `layers` [kind, size, shared], `classes`, `parts`
(positions in the network's classes), `logit_scale`."""


def headed(
    base: Item,
    layers: list[list[Plain]],
    classes: int,
    parts: list[list[int]] | None,
    logit_scale: dict[str, Any] | None,
) -> Item:
    """The architecture `base` with a head."""
    arguments = {"base": base.name, "settings": dict(base.arguments), "layers": layers, "classes": classes,
                 "parts": parts, "logit_scale": logit_scale}  # fmt: skip
    return Item(HEADED, {k: v for k, v in arguments.items() if v is not None}, span=base.span)


def base_of(item: Item) -> Item:
    """The architecture that the plan names.

    >>> base_of(headed(Item("digits_net", {"width": 2}), [["fc", 8, 0]], 10, None, None))
    Item(name='digits_net', arguments={'width': 2})
    """
    if item.name != HEADED:
        return item
    return Item(item.arguments["base"], dict(item.arguments["settings"]), span=item.span)
