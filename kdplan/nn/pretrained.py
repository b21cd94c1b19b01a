"""Architectures that take weights as an argument, without torch."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kdplan.ir.heads import base_of
from kdplan.ir.plan import Item

WEIGHTS_ARGUMENTS = {
    "torchvision": ("weights",),
    "alexnet": ("weights",),
    "timm": ("weights", "checkpoint"),
    "detector": ("weights",),
}
"""Architecture -> its arguments that name weights of the whole network."""
_KNOW_NAMES = ("torchvision", "alexnet")
"""Architectures whose weights may also be a name that torchvision knows."""
OWN_SCALE = ("googlenet", "inception_v3")
"""torchvision's weights of these expect images that the network itself rescales."""
ALEXNET_LAYERS = {
    "features.0": "conv1",
    "features.3": "conv2",
    "features.6": "conv3",
    "features.8": "conv4",
    "features.10": "conv5",
    "classifier.1": "fc6",
    "classifier.4": "fc7",
    "classifier.6": "fc8",
}
"""What torchvision calls AlexNet's layers, and what `alexnet` does."""
_SUFFIXES = (".safetensors", ".pth", ".pt", ".ckpt", ".bin", ".tar")


def is_file(architecture: str, weights: object) -> bool:
    """Whether an architecture's argument names a file, and no weights that a library knows.

    >>> is_file("torchvision", "IMAGENET1K_V1"), is_file("torchvision", "w.pth"), is_file("timm", "w")
    (False, True, True)
    """
    if not isinstance(weights, str):
        return False
    return architecture not in _KNOW_NAMES or "/" in weights or weights.endswith(_SUFFIXES)


def implied(item: Item) -> dict[str, Any]:
    """Arguments whose defaults depend on whether an architecture is given weights.

    >>> implied(Item("detector", {"name": "retinanet", "weights": "w.pth"}))
    {'norm': 'frozen'}
    """
    given = item.arguments
    if item.name == "detector" and given.get("norm") is None:
        return {"norm": "frozen"}
    if item.name == "torchvision" and given.get("name") in OWN_SCALE:
        return {"transform_input": given.get("transform_input", given.get("channels", 3) == 3)}
    return {}


def renames(architecture: str) -> list[list[str]]:
    """How names begin in the files of others, and in the architecture."""
    layers = ALEXNET_LAYERS if architecture == "alexnet" else {}
    return [[f"{theirs}.", f"{own}."] for theirs, own in layers.items()]


def named_weights(item: Item) -> str | None:
    """The weights that an architecture loads itself, by their name in a library.

    >>> named_weights(Item("torchvision", {"name": "resnet18", "weights": {"from": "DEFAULT", "except": ["fc"]}}))
    'DEFAULT'
    """
    base = base_of(item)
    given = next((w for a in WEIGHTS_ARGUMENTS.get(base.name, ()) if (w := base.arguments.get(a)) is not None), None)
    return given["from"] if isinstance(given, Mapping) else given


def fits_channels(item: Item) -> bool:
    """Whether an architecture fits filters on three channels to the number of channels that it is given."""
    base = base_of(item)
    return base.name in ("torchvision", "timm", "alexnet") and base.arguments.get("channels", 3) != 3
