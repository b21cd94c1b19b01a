"""What a construct is: its row in the language's table, and the function that lowers its declarations to the core."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from kdplan.constructs.ask import Ask
from kdplan.ir.spec import Kind
from kdplan.syntax import ast


@dataclass(frozen=True, slots=True)
class LocalName:
    """A name that exists only in the bodies of one kind."""

    name: str
    kind: str
    first: str = ""
    """Why the first member of a line lacks it."""


@dataclass(frozen=True, slots=True)
class Index:
    """An index that every declaration of a construct has without writing it. Members are made in its order."""

    name: str
    count: str
    """The setting that says how many members there are."""
    slot: Callable[[ast.Declaration], ast.Slot]
    """The index with its values, from a declaration."""


@dataclass(frozen=True, slots=True)
class Construct:
    """One construct of the language. It has either `phases` or `network`.

    Attributes
    ----------
    kind : Kind
        Its row: clauses, settings, documentation.
    parts : tuple of Kind
        Rows of the declarations that stand in its body.
    phases : callable or None
        Declaration → declarations of networks and phases, for a construct that is named after `@`.
    network : callable or None
        Declaration, labels of its indices → declaration of one network, for a construct that is named as networks are.
    index : Index or None
        The index that it has without writing it.
    names : tuple of LocalName
        Names that exist only in its bodies.
    """

    kind: Kind
    parts: tuple[Kind, ...] = ()
    phases: Callable[[ast.Declaration, Ask], list[ast.Declaration]] | None = None
    network: Callable[[ast.Declaration, Mapping[str, object], Ask], ast.Declaration] | None = None
    index: Index | None = None
    names: tuple[LocalName, ...] = ()

    def slots(self, node: ast.Declaration) -> list[ast.Slot]:
        """The indices of a declaration, with the one that it has without writing it as the last."""
        return node.slots if self.index is None else [*node.slots, self.index.slot(node)]
