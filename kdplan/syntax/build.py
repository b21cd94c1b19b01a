"""From the grammar's rules to the tree: one method a rule, named after it."""

from __future__ import annotations

import math
from collections.abc import Set
from itertools import pairwise
from typing import Any, NamedTuple, cast

from kdplan.diagnostics.report import Diagnostic, diagnostic
from kdplan.diagnostics.span import Source, Span
from kdplan.syntax import ast
from kdplan.syntax.lexer import Token

# Those who walk the tree may recurse, except along the left side of sums and products, which may be long.
MAX_CHAIN = 100  # links of a.b.c…
MAX_NESTING = 200  # entries of the parser's stack: open brackets and the operators before them
SHORT = frozenset({"use", "recipe"})
"""Kinds in whose bodies `name` alone is `name = name`."""
NOT_WORDS = ("and", "or", "not", "if", "else", "is")


class _Part(NamedTuple):
    """A bracketed part of a declaration: what it is, what it holds, where it begins and ends."""

    what: str
    value: list[Any]
    start: int
    end: int


class TooDeep(Exception):
    """A chain of `.`, `@`, `[ ]` and calls is longer than `MAX_CHAIN`."""


class Stuck(Exception):
    """The parser met a token that cannot follow.

    `values` is what it had put together by then. `expected` holds the kinds that could follow where it stopped, and
    `arrived` those of the place where it first saw the token: more of them, since what was open had not been closed.
    """

    def __init__(
        self,
        token: Token,
        values: list[Any],
        expected: Set[str] = frozenset(),
        arrived: Set[str] = frozenset(),
        too_deep: bool = False,
    ) -> None:
        super().__init__(token)
        self.token = token
        self.values = values
        self.expected = expected
        self.arrived = arrived
        self.too_deep = too_deep


class Builder:
    """Makes the nodes of one source. Each method takes the values of its rule's symbols."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Diagnostic] = []

    def _from(self, first: Token | ast.Node, end: int) -> Span:
        return Span(self.source, first.start if type(first) is Token else first.span.start, end)  # type: ignore[union-attr]

    def _token(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    # ---- lists

    def begin(self, c: list[Any]) -> list[Any]:
        return [c[-1]]

    def grow(self, c: list[Any]) -> list[Any]:
        c[0].append(c[-1])
        return cast(list[Any], c[0])

    def start(self, c: list[Any]) -> list[Any]:
        return c[0] if c else []

    # ---- declarations

    def declaration(self, c: list[Any]) -> ast.Declaration:
        kind: Token = c[0]
        name: Token | None = c[1] if type(c[1]) is Token else None
        params: list[ast.Param] | None = None
        slots: list[ast.Slot] = []
        clauses: list[ast.Clause] = []
        items: list[ast.Item] | None = None
        listing: list[ast.Expr] | None = None
        head_end = end = name.end if name else kind.end
        for part in c[1:]:
            if type(part) is list:
                clauses.extend(part)
                head_end = end = part[-1].span.end
            elif type(part) is ast.Clause:
                clauses.append(part)
                head_end = end = part.span.end
            elif type(part) is _Part:
                end = part.end
                if part.what == "body":
                    items = part.value
                elif part.what == "listing":
                    listing = part.value
                elif part.what == "short":
                    listing, items = part.value
                else:
                    head_end = end
                    if part.what == "params":
                        params = part.value
                    else:
                        slots = part.value
        if params is not None and kind.text != "def" and not clauses and items is None and listing is None:
            value = f"{name.text if name else ''}(…)"
            self.problems.append(diagnostic("KD0102", self._token(kind), name=kind.text, value=value))
        if kind.text in NOT_WORDS:
            self.problems.append(diagnostic("KD0111", self._token(kind), word=kind.text))
        if kind.text in SHORT and listing and all(type(e) is ast.Name for e in listing):
            items = [ast.Setting(e.span, e.name, e.span, e) for e in listing] + (items or [])  # type: ignore[union-attr]
            listing = None
        source = self.source
        text = name.text[1:-1] if name and name.kind == "STRING" else None
        return ast.Declaration(
            Span(source, kind.start, end),
            kind.text,
            self._token(kind),
            name.text if name and text is None else None,
            self._token(name) if name else None,
            text,
            params,
            slots,
            clauses,
            items,
            listing,
            Span(source, kind.start, head_end),
        )

    def params(self, c: list[Any]) -> _Part:
        return _Part("params", c[1], c[0].start, c[-1].end)

    def slots(self, c: list[Any]) -> _Part:
        return _Part("slots", c[1], c[0].start, c[-1].end)

    def body(self, c: list[Any]) -> _Part:
        return _Part("body", c[1] if len(c) == 3 else [], c[0].start, c[-1].end)

    def listing(self, c: list[Any]) -> _Part:
        return _Part("listing", c[1], c[0].start, c[-1].end)

    def short(self, c: list[Any]) -> _Part:
        return _Part("short", [c[1], c[3]], c[0].start, c[-1].end)

    def param(self, c: list[Any]) -> ast.Param:
        default = c[2] if len(c) == 3 else None
        return ast.Param(self._from(c[0], default.span.end if default else c[0].end), c[0].text, default)

    def slot(self, c: list[Any]) -> ast.Slot:
        return ast.Slot(self._from(c[0], c[2].span.end), c[0].text, self._token(c[0]), c[2])

    def setting(self, c: list[Any]) -> ast.Setting:
        return ast.Setting(self._from(c[0], c[2].span.end), c[0].text, self._token(c[0]), c[2])

    def pair(self, c: list[Any]) -> ast.Pair:
        return ast.Pair(c[0].span.to(c[2].span), c[0], c[2])

    def prepclause(self, c: list[Any]) -> ast.Clause:
        return ast.Clause(self._from(c[0], c[1][-1].span.end), c[0].text, self._token(c[0]), c[1])

    def makeclause(self, c: list[Any]) -> ast.Clause:
        return ast.Clause(self._from(c[0], c[1].span.end), c[0].text, self._token(c[0]), [c[1]])

    # ---- expressions

    def chain(self, c: list[Any]) -> ast.Chain:
        parts = [c[0], *c[1]]
        return ast.Chain(self._from(c[0], parts[-1].span.end), parts)

    def binary(self, c: list[Any]) -> ast.Binary:
        left, op, right = c
        return ast.Binary(Span(self.source, left.span.start, right.span.end), op.text, left, right)

    def range_(self, c: list[Any]) -> ast.Range:
        return ast.Range(self._from(c[0], c[2].span.end), c[0], c[2])

    def negate(self, c: list[Any]) -> ast.Negate:
        return ast.Negate(self._from(c[0], c[1].span.end), c[1])

    def group(self, c: list[Any]) -> ast.Expr:
        # the brackets leave no node, and belong to the place of what they hold
        inner = cast(ast.Expr, c[1])
        inner.span = Span(self.source, c[0].start, c[2].end)
        return inner

    def number(self, c: list[Any]) -> ast.Number:
        text: str = c[0].text
        value: int | float = float(text)
        if text.isdigit() and value != math.inf:
            value = int(text) if len(text) <= 19 and int(text) < 2**63 else math.inf
        if value == math.inf:
            self.problems.append(diagnostic("KD0116", self._token(c[0])))
            value = 0
        return ast.Number(self._token(c[0]), value)

    def string(self, c: list[Any]) -> ast.String:
        return ast.String(self._token(c[0]), c[0].text[1:-1])

    def name(self, c: list[Any]) -> ast.Name:
        token = c[0]
        return ast.Name(Span(self.source, token.start, token.end), token.text)

    def word(self, c: list[Any]) -> Token:
        return cast(Token, c[0])

    def attr(self, c: list[Any]) -> ast.Attr:
        base, word = self._shallow(c[0]), c[2]
        return ast.Attr(self._from(base, word.end), base, word.text, self._token(word))

    def version(self, c: list[Any]) -> ast.Version:
        base, phase = self._shallow(c[0]), c[2]
        return ast.Version(self._from(base, phase.end), base, phase.text, self._token(phase))

    def pick(self, c: list[Any]) -> ast.Pick:
        return ast.Pick(self._from(c[0], c[3].end), self._shallow(c[0]), c[2])

    def all_(self, c: list[Any]) -> ast.All:
        return ast.All(self._token(c[0]))

    def coordinate(self, c: list[Any]) -> ast.Coordinate:
        return ast.Coordinate(self._from(c[0], c[2].span.end), c[0].text, c[2])

    def arguments(self, c: list[Any]) -> list[Any]:
        return cast(list[Any], c[0])

    def application(self, c: list[Any]) -> ast.Call:
        given = c[2] if len(c) == 4 else []
        if type(given) is ast.Comprehension:
            given = [given]
        span = self._from(c[0], c[-1].end)
        args = [a for a in given if type(a) is not ast.Keyword]
        keywords = [a for a in given if type(a) is ast.Keyword] if len(args) < len(given) else []
        for before, after in pairwise(given):
            if type(before) is ast.Keyword and type(after) is not ast.Keyword:
                self.problems.append(diagnostic("KD0117", after.span, name=before.name))
                break
        return ast.Call(span, self._shallow(c[0]), args, keywords)

    def keyword(self, c: list[Any]) -> ast.Keyword:
        return ast.Keyword(self._from(c[0], c[2].span.end), c[0].text, self._token(c[0]), c[2])

    def loop(self, c: list[Any]) -> ast.For:
        return ast.For(self._from(c[0], c[3].span.end), c[1].text, self._token(c[1]), c[3])

    def comprehension(self, c: list[Any]) -> ast.Comprehension:
        return ast.Comprehension(self._from(c[0], c[1][-1].span.end), c[0], c[1])

    def list_(self, c: list[Any]) -> ast.List:
        held = c[1] if len(c) > 2 else []
        return ast.List(self._from(c[0], c[-1].end), held if type(held) is not ast.Comprehension else [held])

    def _shallow(self, base: ast.Expr) -> ast.Expr:
        """`base`, unless it is a chain of more than `MAX_CHAIN` links."""
        node: Any = base
        for _ in range(MAX_CHAIN):
            kind = type(node)
            if kind is ast.Name:
                return base
            node = node.function if kind is ast.Call else node.base
        raise TooDeep
