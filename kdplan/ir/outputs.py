"""Names of what every network gives. As a path, "" is the network's output."""

from __future__ import annotations

SCORES = ("", "logits", "probabilities")
"""Paths that mean a network's scores of its classes."""

WHOLE = ("", "output", "logits")
"""Paths that mean the network itself: nothing is cut off."""

OUTPUT_TAPS = ("output", "logits", "features")
"""Taps that are named by their role, not by a module."""
