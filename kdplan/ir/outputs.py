"""Names of what every network gives. As a path, "" is the network's output: its scores of its classes."""

from __future__ import annotations

OUTPUT = ("output", "logits")
"""Words for the network's output: `N.output`, `N.logits` and `N` alone are one value."""

PROBABILITIES = "probabilities"

OUTPUT_TAPS = (*OUTPUT, "features")
"""Taps that are named by their role, not by a module."""


def is_output(path: str) -> bool:
    """Whether a path means what the network gives: nothing is cut off.

    >>> is_output(""), is_output("output"), is_output("logits"), is_output("layer1")
    (True, True, True, False)
    """
    return path == "" or path in OUTPUT


def is_scores(path: str) -> bool:
    """Whether a path means a network's scores of its classes, as logits or as probabilities.

    >>> is_scores("output"), is_scores("probabilities"), is_scores("features")
    (True, True, False)
    """
    return is_output(path) or path == PROBABILITIES


def canonical(path: str) -> str:
    """A path with one name for the output.

    >>> canonical("logits"), canonical("layer1")
    ('', 'layer1')
    """
    return "" if is_output(path) else path
