"""The tree of a plan file: plain values with the span of each.

The tree is as written: names are not resolved, and nothing is checked or completed here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from kdplan.diagnostics.span import Source, Span


@dataclass(slots=True)
class Node:
    """A node of the tree, with its span in the source."""

    span: Span


# ---- expressions


@dataclass(slots=True)
class Number(Node):
    """A number, without a sign."""

    value: int | float


@dataclass(slots=True)
class String(Node):
    """A string, without its quotes."""

    value: str


@dataclass(slots=True)
class Name(Node):
    """A name that stands for a value."""

    name: str


@dataclass(slots=True)
class Attr(Node):
    """`base.word`; `span` ends with the word, `word_span` holds the word alone."""

    base: Expr
    word: str
    word_span: Span


@dataclass(slots=True)
class Version(Node):
    """`base@phase`."""

    base: Expr
    phase: str
    phase_span: Span


@dataclass(slots=True)
class Pick(Node):
    """`base[picks]`; a pick is an expression, `All` or `Coordinate`."""

    base: Expr
    picks: list[Expr]


@dataclass(slots=True)
class All(Node):
    """`*` between square brackets."""


@dataclass(slots=True)
class Coordinate(Node):
    """`name = value` between square brackets; the value may be `All`."""

    name: str
    value: Expr


@dataclass(slots=True)
class Call(Node):
    """`function(args, keywords)`."""

    function: Expr
    args: list[Expr]
    keywords: list[Keyword]


@dataclass(slots=True)
class Keyword(Node):
    """`name = value` in a call."""

    name: str
    name_span: Span
    value: Expr


@dataclass(slots=True)
class For(Node):
    """`for name in values`."""

    name: str
    name_span: Span
    values: Expr


@dataclass(slots=True)
class Comprehension(Node):
    """`element for x in xs …`; stands as the only argument of a call, or inside a list."""

    element: Expr
    loops: list[For]


@dataclass(slots=True)
class List(Node):
    """`[items]`."""

    items: list[Expr]


@dataclass(slots=True)
class Range(Node):
    """`low..high`, both ends included."""

    low: Expr
    high: Expr


@dataclass(slots=True)
class Binary(Node):
    """`left op right` with op one of + - * / ** == != < <= > >=."""

    op: str
    left: Expr
    right: Expr


@dataclass(slots=True)
class Negate(Node):
    """`-operand`."""

    operand: Expr


@dataclass(slots=True)
class Chain(Node):
    """`a -> b -> c`, flattened."""

    parts: list[Expr]


Expr = (
    Number
    | String
    | Name
    | Attr
    | Version
    | Pick
    | All
    | Coordinate
    | Call
    | Comprehension
    | List
    | Range
    | Binary
    | Negate
    | Chain
)


# ---- declarations


@dataclass(slots=True)
class Param(Node):
    """A parameter of a `def`."""

    name: str
    default: Expr | None


@dataclass(slots=True)
class Slot(Node):
    """`name in values` of a family: `teacher specialist[v in V]`."""

    name: str
    name_span: Span
    values: Expr


@dataclass(slots=True)
class Clause(Node):
    """A preposition with expressions; `word` is `of on with from by over as`, `=` or `in`."""

    word: str
    word_span: Span
    exprs: list[Expr]


@dataclass(slots=True)
class Setting(Node):
    """`name = value` in a body or a file."""

    name: str
    name_span: Span
    value: Expr


@dataclass(slots=True)
class Pair(Node):
    """`left ~ right`."""

    left: Expr
    right: Expr


@dataclass(slots=True)
class Declaration(Node):
    """`KIND [name[slots] | "string"] clauses { body }`.

    `span` covers the whole declaration, `head_span` all before the body. `items` is the body with braces (an empty
    list for `{ }`), None without one; a comma body is `listing` instead.
    """

    kind: str
    kind_span: Span
    name: str | None
    name_span: Span | None
    text: str | None
    params: list[Param] | None
    slots: list[Slot]
    clauses: list[Clause]
    items: list[Item] | None
    listing: list[Expr] | None
    head_span: Span

    def clause(self, word: str) -> Clause | None:
        """The clause with a preposition, `=` or `in`; None without one."""
        return next((c for c in self.clauses if c.word == word), None)


Item = Declaration | Setting | Pair


@dataclass(slots=True)
class File:
    """A plan file: its source and its items."""

    source: Source
    items: list[Item]

    @property
    def declarations(self) -> Sequence[Declaration]:
        """The items that are declarations."""
        return [i for i in self.items if isinstance(i, Declaration)]
