"""Kinds that lower to phases, and to networks that these move."""

from __future__ import annotations

from collections.abc import Callable

from kdplan.constructs import Ask, amalgamate, stages
from kdplan.syntax import ast

LOWERINGS: dict[str, Callable[[ast.Declaration, Ask], list[ast.Declaration]]] = {
    "stages": stages.lower,
    "amalgamate": amalgamate.lower,
}
