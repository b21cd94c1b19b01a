"""Pieces of syntax tree, for what constructs lower to: each has the span of the declaration that it lowers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import reduce

from kdplan.diagnostics.span import Span
from kdplan.ir.settings import RECIPE
from kdplan.syntax import ast
from kdplan.syntax.write import expression

_RECIPE = frozenset(s.name for s in RECIPE)


def name(word: str, span: Span) -> ast.Name:
    """A bare name."""
    return ast.Name(span, word)


def literal(value: object, span: Span) -> ast.Expr:
    """A number, or else the text of a value."""
    if isinstance(value, int | float):
        return ast.Negate(span, ast.Number(span, -value)) if value < 0 else ast.Number(span, value)
    return ast.String(span, str(value))


def call(function: ast.Expr, args: Sequence[ast.Expr], span: Span, **keywords: ast.Expr) -> ast.Call:
    """`function(args, keyword = value …)`."""
    return ast.Call(span, function, list(args), [ast.Keyword(span, k, span, v) for k, v in keywords.items()])


def tap(network: ast.Expr, path: str, span: Span) -> ast.Expr:
    """`network.path`, word by word."""
    return reduce(lambda base, word: ast.Attr(span, base, word, span), path.split("."), network)


def total(terms: Sequence[ast.Expr], span: Span) -> ast.Expr:
    """The sum of one or more terms."""
    return reduce(lambda a, b: ast.Binary(span, "+", a, b), terms)


def setting(word: str, value: ast.Expr) -> ast.Setting:
    """`word = value` in a body."""
    return ast.Setting(value.span, word, value.span, value)


def clause(word: str, exprs: Iterable[ast.Expr], span: Span) -> ast.Clause:
    """A preposition and the expressions after it: `of a, b`."""
    return ast.Clause(span, word, span, list(exprs))


def declaration(
    kind: str, word: str, span: Span, clauses: list[ast.Clause], items: list[ast.Item] | None = None
) -> ast.Declaration:
    """A declaration `kind word …` with the span of what it was lowered from."""
    return ast.Declaration(span, kind, span, word, span, None, None, [], clauses, items, None, span)


def phase(word: str, span: Span, clauses: list[ast.Clause], items: list[ast.Item]) -> ast.Declaration:
    """`phase word …`."""
    return declaration("phase", word, span, clauses, items)


def bare(network: ast.Expr) -> ast.Expr:
    """A network without its version: `small` in `small@pre`."""
    while isinstance(network, ast.Version):
        network = network.base
    return network


def rooted(tap: ast.Expr, network: ast.Expr, new: ast.Expr) -> ast.Expr | None:
    """A tap of `network` as the same tap of `new`, or None where it is a tap of something else.

    >>> from kdplan.diagnostics.span import Source
    >>> from kdplan.syntax.parse import parse
    >>> pair = parse(Source("a.kd", 'stage s { small.fpn["0"] ~ big.layer1 }')).declarations[0].items[0]
    >>> small = ast.Name(pair.span, "small")
    >>> trained = ast.Version(pair.span, small, "s1", pair.span)
    >>> expression(rooted(pair.left, small, trained)), rooted(pair.right, small, trained)
    ('small@s1.fpn["0"]', None)
    """
    if expression(tap) == expression(network):
        return new
    if isinstance(tap, ast.Attr):
        base = rooted(tap.base, network, new)
        return None if base is None else ast.Attr(tap.span, base, tap.word, tap.word_span)
    if isinstance(tap, ast.Pick):
        base = rooted(tap.base, network, new)
        return None if base is None else ast.Pick(tap.span, base, tap.picks)
    return None


# ---- what a construct's body holds


def inner(node: ast.Declaration) -> list[ast.Declaration]:
    """The declarations in a body."""
    return [i for i in node.items or [] if isinstance(i, ast.Declaration)]


def is_shared(item: ast.Item) -> bool:
    """What holds for every phase: settings of recipes, the seed, definitions."""
    if isinstance(item, ast.Setting):
        return item.name in _RECIPE or item.name == "seed"
    return isinstance(item, ast.Declaration) and item.kind == "def"


def not_in(shared: list[ast.Item], own: list[ast.Item]) -> list[ast.Item]:
    """Shared items without those that a part says itself."""
    names = {i.name for i in own if isinstance(i, ast.Setting | ast.Declaration)}
    return [i for i in shared if not isinstance(i, ast.Setting | ast.Declaration) or i.name not in names]
