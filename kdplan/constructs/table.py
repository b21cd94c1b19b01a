"""All kinds of the language: those of the core and the constructs. A new construct is a file and its line here."""

from __future__ import annotations

from kdplan.constructs.amalgamate import AMALGAMATE
from kdplan.constructs.branches import BRANCHES
from kdplan.constructs.construct import Construct, LocalName
from kdplan.constructs.ensemble import ENSEMBLE
from kdplan.constructs.generations import GENERATIONS
from kdplan.constructs.stages import STAGES
from kdplan.ir.kinds import CORE, NETWORKS, RESULTS
from kdplan.ir.spec import Kind
from kdplan.syntax import ast

CONSTRUCTS: dict[str, Construct] = {c.kind.name: c for c in (STAGES, GENERATIONS, BRANCHES, AMALGAMATE, ENSEMBLE)}
KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        *(kind for kind in CORE if kind.name not in RESULTS),
        *(kind for c in CONSTRUCTS.values() for kind in (c.kind, *c.parts)),
        *(kind for kind in CORE if kind.name in RESULTS),
    )
}
LOCAL_NAMES: dict[str, LocalName] = {n.name: n for c in CONSTRUCTS.values() for n in c.names}
"""Names that exist only in the bodies of some construct."""

LADDERS = frozenset(name for name, c in CONSTRUCTS.items() if c.phases is not None)
"""Constructs that lower to phases: named after `@`."""
TRAINS = LADDERS | {"phase"}
"""Kinds that train networks which stand elsewhere: `N@NAME`."""
NAMED_AS_NETWORKS = NETWORKS | {name for name, c in CONSTRUCTS.items() if c.network is not None}
"""Kinds whose names mean networks."""
AFTER_AT = TRAINS | RESULTS
"""Kinds whose names are looked up only after `@` and on the command line."""


def slots(node: ast.Declaration) -> list[ast.Slot]:
    """The indices of a declaration, with those that its kind has without their being written."""
    construct = CONSTRUCTS.get(node.kind)
    return node.slots if construct is None else construct.slots(node)
