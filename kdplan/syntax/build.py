"""From the grammar's rules to the tree: one method for each rule, with its name."""

from __future__ import annotations

import math
from collections.abc import Set
from itertools import pairwise
from typing import Any, NamedTuple, cast

from kdplan.diagnostics.report import Diagnostic, diagnostic
from kdplan.diagnostics.span import Source, Span
from kdplan.syntax import ast
from kdplan.syntax.lexer import Token

# Functions over the tree may recurse, except along the left side of sums and products, which may be long.
MAX_CHAIN = 100  # links of a.b.c…
MAX_NESTING = 200  # entries of the parser's stack: open brackets and the operators before them
SHORT = frozenset({"use", "recipe"})
PACKAGE = ("use", "package")
"""The words before the name of an installed package."""
"""Kinds in whose bodies `name` alone is `name = name`."""
NAMES_FIRST = "Write names alone first, then settings: `{ epochs, batch = 64 }`."
"""The help where they do not."""
Values = list[Any]
"""What the parser's stack holds for the symbols of a rule: tokens, nodes and lists of them."""
FOREIGN = ("and", "or", "not", "if", "else", "is")
"""Words of other languages that no plan has as names."""
_CHOICE = "Multiply by a mask: `a * (epoch > 3)`, or `a * (x) + b * (1 - (x))` for one of two."
FOREIGN_HELPS = {
    "if": _CHOICE,
    "else": _CHOICE,
    "not": "Write `1 - (a)` for the other mask.",
    "or": "Add masks: `(a) + (b)`.",
    "is": "Write `a == b`.",
    "for": "Write an axis: `student small[i in 0..2] = …`; what reads it has it too.",
    "lambda": "Write a function as `def f(x) = …`.",
}
"""The helps of KD0111, where masks alone do not help. `for` and `lambda` may be right elsewhere."""


class _Part(NamedTuple):
    """A bracketed part of a declaration: its kind, its elements, its first and its last character."""

    what: str
    value: list[Any]
    start: int
    end: int


class TooDeep(Exception):
    """A chain of `.`, `@`, `[ ]` and calls is longer than `MAX_CHAIN`."""


class Stuck(Exception):
    """The parser met a token that cannot come next.

    `values` is the parser's stack. `expected` holds the kinds of tokens that could come next where it stopped.
    `arrived` holds those where it first saw the token: there are more of them, since fewer rules had ended.
    """

    def __init__(
        self,
        token: Token,
        values: Values,
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
    """Builds the nodes of one source. Each method takes the values of its rule's symbols."""

    def __init__(self, source: Source) -> None:
        self.source = source
        self.problems: list[Diagnostic] = []

    def _from(self, first: Token | ast.Node, end: int) -> Span:
        return Span(self.source, first.start if type(first) is Token else first.span.start, end)  # type: ignore[union-attr]

    def _token(self, token: Token) -> Span:
        return Span(self.source, token.start, token.end)

    # ---- lists

    def begin(self, values: Values) -> Values:
        """A list with its first element."""
        return [values[-1]]

    def grow(self, values: Values) -> Values:
        """A list with one more element."""
        values[0].append(values[-1])
        return cast(Values, values[0])

    def start(self, values: Values) -> Values:
        """All items of a file."""
        return values[0] if values else []

    # ---- declarations

    def declaration(self, values: Values) -> ast.Declaration:
        """`KIND NAME[slots] clauses { body }`, or one of its shorter forms."""
        kind: Token = values[0]
        name: Token | None = values[1] if type(values[1]) is Token else None
        params: list[ast.Param] | None = None
        slots: list[ast.Slot] = []
        clauses: list[ast.Clause] = []
        items: list[ast.Item] | None = None
        listing: list[ast.Expr] | None = None
        head_end = end = max(t.end for t in values if type(t) is Token)
        for part in values[1:]:
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
        alone = not clauses and items is None and listing is None
        if params is not None and kind.text != "def" and alone and self._token(kind).column > 1:
            value = f"{name.text if name else ''}(…)"
            self.problems.append(diagnostic("KD0102", self._token(kind), name=kind.text, value=value))
        if kind.text in FOREIGN:
            help = FOREIGN_HELPS.get(kind.text)
            self.problems.append(diagnostic("KD0111", self._token(kind), word=kind.text, help=help))
        if kind.text in SHORT and listing and all(type(e) is ast.Name for e in listing):
            items = [ast.Setting(e.span, e.name, e.span, e) for e in listing] + (items or [])  # type: ignore[union-attr]
            listing = None
        source = self.source
        string = name if name and name.kind == "STRING" else None
        if string is None and len(values) > 2 and type(values[2]) is Token:
            string = values[2]
        text = string.text[1:-1] if string else None
        return ast.Declaration(
            Span(source, kind.start, end),
            kind.text,
            self._token(kind),
            name.text if name and name is not string else None,
            self._token(name) if name else None,
            text,
            params,
            slots,
            clauses,
            items,
            listing,
            Span(source, kind.start, head_end),
        )

    def params(self, values: Values) -> _Part:
        """`(f, x = 2)` of a `def`."""
        return _Part("params", values[1], values[0].start, values[-1].end)

    def slots(self, values: Values) -> _Part:
        """`[v in V, w in W]` of a family."""
        return _Part("slots", values[1], values[0].start, values[-1].end)

    def body(self, values: Values) -> _Part:
        """`{ items }`."""
        return _Part("body", values[1] if len(values) == 3 else [], values[0].start, values[-1].end)

    def listing(self, values: Values) -> _Part:
        """`{ a, b }` of a measure."""
        return _Part("listing", values[1], values[0].start, values[-1].end)

    def short(self, values: Values) -> _Part:
        """`{ name, name, name = value }`: names alone, then items."""
        return _Part("short", [values[1], values[3]], values[0].start, values[-1].end)

    def param(self, values: Values) -> ast.Param:
        """`name`, or `name = default`."""
        default = values[2] if len(values) == 3 else None
        return ast.Param(self._from(values[0], default.span.end if default else values[0].end), values[0].text, default)

    def slot(self, values: Values) -> ast.Slot:
        """`name in values`."""
        return ast.Slot(self._from(values[0], values[2].span.end), values[0].text, self._token(values[0]), values[2])

    def setting(self, values: Values) -> ast.Setting:
        """`name = value`."""
        return ast.Setting(self._from(values[0], values[2].span.end), values[0].text, self._token(values[0]), values[2])

    def pair(self, values: Values) -> ast.Pair:
        """`left ~ right`."""
        return ast.Pair(values[0].span.to(values[2].span), values[0], values[2])

    def prepclause(self, values: Values) -> ast.Clause:
        """`of a, b`."""
        return ast.Clause(
            self._from(values[0], values[1][-1].span.end), values[0].text, self._token(values[0]), values[1]
        )

    def makeclause(self, values: Values) -> ast.Clause:
        """`= value`, or `in values`."""
        return ast.Clause(
            self._from(values[0], values[1].span.end), values[0].text, self._token(values[0]), [values[1]]
        )

    # ---- expressions

    def chain(self, values: Values) -> ast.Chain:
        """`a -> b -> c`."""
        parts = [values[0], *values[1]]
        return ast.Chain(self._from(values[0], parts[-1].span.end), parts)

    def binary(self, values: Values) -> ast.Binary:
        """`left + right`, and so for every operator."""
        left, op, right = values
        return ast.Binary(Span(self.source, left.span.start, right.span.end), op.text, left, right)

    def range_(self, values: Values) -> ast.Range:
        """`low..high`."""
        return ast.Range(self._from(values[0], values[2].span.end), values[0], values[2])

    def negate(self, values: Values) -> ast.Negate:
        """`-operand`."""
        return ast.Negate(self._from(values[0], values[1].span.end), values[1])

    def group(self, values: Values) -> ast.Expr:
        """`(expression)`: the expression, with the span of its brackets."""
        # the brackets leave no node, and belong to the span of the expression in them
        inner = cast(ast.Expr, values[1])
        inner.span = Span(self.source, values[0].start, values[2].end)
        return inner

    def number(self, values: Values) -> ast.Number:
        """A number; 0 for one that is too large, which is reported."""
        text: str = values[0].text
        value: int | float = float(text)
        if text.isdigit() and value != math.inf:
            value = int(text) if len(text) <= 19 and int(text) < 2**63 else math.inf
        if value == math.inf:
            self.problems.append(diagnostic("KD0116", self._token(values[0])))
            value = 0
        return ast.Number(self._token(values[0]), value)

    def string(self, values: Values) -> ast.String:
        """A string without its quotes."""
        return ast.String(self._token(values[0]), values[0].text[1:-1])

    def name(self, values: Values) -> ast.Name:
        """A name."""
        token = values[0]
        return ast.Name(Span(self.source, token.start, token.end), token.text)

    def word(self, values: Values) -> Token:
        """A name or a reserved word, after a dot or before `=`."""
        return cast(Token, values[0])

    def attr(self, values: Values) -> ast.Attr:
        """`base.word`."""
        base, word = self._shallow(values[0]), values[2]
        return ast.Attr(self._from(base, word.end), base, word.text, self._token(word))

    def element(self, values: Values) -> ast.Expr:
        """`base.0` is `base[0]`, and `base.0.1` is `base[0][1]`; anything else after the dot is reported."""
        base, dot, number = values
        if dot.start != base.span.end or number.start != dot.end or not number.text.replace(".", "").isdigit():
            fix = f"0.{number.text}" if number.text.isdigit() else None
            self.problems.append(diagnostic("KD0108", Span(self.source, dot.start, number.end), fix=fix))
            return cast(ast.Expr, base)
        start = number.start
        for digits in number.text.split("."):
            span = Span(self.source, start, start + len(digits))
            base = ast.Pick(self._from(base, span.end), self._shallow(base), [ast.Number(span, int(digits))])
            start = span.end + 1
        return cast(ast.Expr, base)

    def version(self, values: Values) -> ast.Version:
        """`base@phase`."""
        base, phase = self._shallow(values[0]), values[2]
        return ast.Version(self._from(base, phase.end), base, phase.text, self._token(phase))

    def pick(self, values: Values) -> ast.Pick:
        """`base[picks]`."""
        return ast.Pick(self._from(values[0], values[3].end), self._shallow(values[0]), values[2])

    def all_(self, values: Values) -> ast.All:
        """`*` in square brackets."""
        return ast.All(self._token(values[0]))

    def coordinate(self, values: Values) -> ast.Coordinate:
        """`name = value` in square brackets."""
        return ast.Coordinate(self._from(values[0], values[2].span.end), values[0].text, values[2])

    def arguments(self, values: Values) -> Values:
        """The arguments of a call."""
        return cast(Values, values[0])

    def application(self, values: Values) -> ast.Call:
        """`function(arguments)`; an argument that stands after a named one is reported."""
        given = values[2] if len(values) == 4 else []
        if type(given) is ast.Comprehension:
            given = [given]
        span = self._from(values[0], values[-1].end)
        args = [a for a in given if type(a) is not ast.Keyword]
        keywords = [a for a in given if type(a) is ast.Keyword] if len(args) < len(given) else []
        for before, after in pairwise(given):
            if type(before) is ast.Keyword and type(after) is not ast.Keyword:
                self.problems.append(diagnostic("KD0117", after.span, name=before.name))
                break
        return ast.Call(span, self._shallow(values[0]), args, keywords)

    def keyword(self, values: Values) -> ast.Keyword:
        """`name = value` in a call."""
        return ast.Keyword(self._from(values[0], values[2].span.end), values[0].text, self._token(values[0]), values[2])

    def loop(self, values: Values) -> ast.For:
        """`for name in values`."""
        return ast.For(self._from(values[0], values[3].span.end), values[1].text, self._token(values[1]), values[3])

    def comprehension(self, values: Values) -> ast.Comprehension:
        """`element for name in values`."""
        return ast.Comprehension(self._from(values[0], values[1][-1].span.end), values[0], values[1])

    def list_(self, values: Values) -> ast.List:
        """`[items]`."""
        items = values[1] if len(values) > 2 else []
        return ast.List(
            self._from(values[0], values[-1].end), items if type(items) is not ast.Comprehension else [items]
        )

    def _shallow(self, base: ast.Expr) -> ast.Expr:
        """`base`, unless it is a chain of more than `MAX_CHAIN` links."""
        node: Any = base
        for _ in range(MAX_CHAIN):
            kind = type(node)
            if kind is ast.Name:
                return base
            node = node.function if kind is ast.Call else node.base
        raise TooDeep
