"""Networks with linear maps behind some of their layers: what their architecture is called, and how parts are named."""

from __future__ import annotations

from kdplan.ir.branches import BRANCHED
from kdplan.ir.branches import PARTS as BRANCHED_PARTS

ADAPTED = "kdplan.nn.adapted:adapted"
"""The architecture of a network with maps behind its layers: its arguments are those of that function."""
LAYER = "layer"
"""Of a layer with something behind it: the layer itself. `conv1.layer` is what `conv1` is in the plain network."""
MAP = "map"
"""And the map behind it."""

HELD: dict[str, tuple[str, ...]] = {BRANCHED: BRANCHED_PARTS, ADAPTED: ("base",)}
"""Architectures with arguments that are architectures themselves, each a name and settings: which these are."""
