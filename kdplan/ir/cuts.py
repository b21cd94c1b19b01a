"""Values at which a network could be cut in two: what stages and layers are found from."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Cut:
    """A feature map that everything behind it depends on, and that depends on everything before it.

    Attributes
    ----------
    path
        Its tap, by the outermost name that it has.
    channels, size
        Of the map [B, channels, *size].
    layers
        How many weights of two dimensions or more lie between the cut before it (or the input) and this one.
    """

    path: str
    channels: int
    size: tuple[int, int]
    layers: int


@dataclass(frozen=True, slots=True)
class Layer:
    """A value that everything behind it depends on, and that depends on everything before it: a map, or a vector.

    Attributes
    ----------
    paths
        The modules that give it, the outermost first.
    path
        The innermost of them that has weights, or the innermost of all.
    shape
        Of one sample: channels, height, width; or how many numbers.
    layers
        How many weights of two dimensions or more lie between the one before it (or the input) and this one.
    """

    paths: tuple[str, ...]
    path: str
    shape: tuple[int, ...]
    layers: int
