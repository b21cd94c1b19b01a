"""Kinds that lower to networks: what indices they have, and what one member of them is."""

from __future__ import annotations

from typing import Any

from kdplan.constructs import Ask, branches, ensemble, generations, tree
from kdplan.syntax import ast


def slots(node: ast.Declaration) -> list[ast.Slot]:
    """The indices of a declaration, those included that its kind has without their being written."""
    return generations.slots(node) if node.kind == "generations" else node.slots


def network(node: ast.Declaration, labels: dict[str, Any], ask: Ask) -> ast.Declaration:
    """A declaration of the core for the member with these indices; a network is one already."""
    if node.kind == "ensemble":
        return ensemble.lower(node, ask)
    if node.kind == "branches":
        return branches.lower(node, ask)
    if node.kind == "generations":
        picks = [tree.literal(labels[s.name], s.span) for s in node.slots]
        return generations.lower(node, picks, labels[generations.INDEX], ask)
    return node
