"""Random trees and random layouts for the property tests."""

from __future__ import annotations

from hypothesis import strategies as st

from kdplan.diagnostics.span import Source, Span
from kdplan.syntax import ast
from kdplan.syntax.lexer import tokens

HERE = Span(Source("", ""), 0, 0)
names = st.sampled_from(["a", "b", "small", "big", "labels", "kl", "x1", "_y", "ones", "format", "android", "inner"])
words = st.one_of(names, st.sampled_from(["of", "on", "with", "from", "by", "over", "as", "for", "in"]))
texts = st.text(st.characters(codec="utf-8", exclude_characters='"\n\r', exclude_categories=["Cs"]), max_size=8)


def _number(value: int | float) -> ast.Number:
    return ast.Number(HERE, value)


numbers = st.one_of(
    st.integers(0, 10**18 - 1).map(_number),
    st.floats(0, allow_nan=False, allow_infinity=False).map(abs).map(_number),
)
plain_paths = st.recursive(
    names.map(lambda n: ast.Name(HERE, n)),
    lambda base: st.one_of(
        st.builds(lambda b, w: ast.Attr(HERE, b, w, HERE), base, words),
        st.builds(lambda b, p: ast.Version(HERE, b, p, HERE), base, names),
        st.builds(
            lambda b, picks: ast.Pick(HERE, b, picks),
            base,
            st.lists(
                st.one_of(
                    numbers,
                    st.just(ast.All(HERE)),
                    st.builds(lambda n, v: ast.Coordinate(HERE, n, v), names, numbers | st.just(ast.All(HERE))),
                ),
                min_size=1,
                max_size=2,
            ),
        ),
    ),
    max_leaves=3,
)


def _grow(inner: st.SearchStrategy[ast.Expr]) -> st.SearchStrategy[ast.Expr]:
    loops = st.lists(st.builds(lambda n, v: ast.For(HERE, n, HERE, v), names, inner), min_size=1, max_size=2)
    comprehension = st.builds(lambda e, fs: ast.Comprehension(HERE, e, fs), inner, loops)
    keywords = st.lists(st.builds(lambda n, v: ast.Keyword(HERE, n, HERE, v), words, inner), max_size=2)
    call = st.one_of(
        st.builds(lambda f, a, k: ast.Call(HERE, f, a, k), plain_paths, st.lists(inner, max_size=2), keywords),
        st.builds(lambda f, c: ast.Call(HERE, f, [c], []), plain_paths, comprehension),
    )
    operators = st.sampled_from(["+", "-", "*", "/", "**", "==", "!=", "<", "<=", ">", ">="])
    return st.one_of(
        call,
        st.builds(lambda c, w: ast.Attr(HERE, c, w, HERE), call, words),
        st.builds(lambda op, a, b: ast.Binary(HERE, op, a, b), operators, inner, inner),
        st.builds(lambda a: ast.Negate(HERE, a), inner),
        st.builds(lambda a, b: ast.Range(HERE, a, b), inner, inner),
        st.builds(lambda p: ast.Chain(HERE, p), st.lists(inner, min_size=2, max_size=3)),
        st.builds(lambda i: ast.List(HERE, i), st.lists(inner, max_size=3)),
        st.builds(lambda c: ast.List(HERE, [c]), comprehension),
    )


leaves = st.one_of(plain_paths, numbers, texts.map(lambda t: ast.String(HERE, t)))
expressions: st.SearchStrategy[ast.Expr] = st.recursive(leaves, _grow, max_leaves=6)
settings_ = st.builds(lambda n, v: ast.Setting(HERE, n, HERE, v), names, expressions)
pairs = st.builds(lambda a, b: ast.Pair(HERE, a, b), plain_paths, plain_paths)
clauses = st.one_of(
    st.builds(
        lambda w, es: ast.Clause(HERE, w, HERE, es),
        st.sampled_from(["of", "on", "with", "from", "by", "over", "as"]),
        st.lists(expressions, min_size=1, max_size=2),
    ),
    st.builds(lambda w, e: ast.Clause(HERE, w, HERE, [e]), st.sampled_from(["=", "in"]), expressions),
)
slots = st.lists(st.builds(lambda n, v: ast.Slot(HERE, n, HERE, v), names, expressions), max_size=2)


@st.composite
def declarations(draw: st.DrawFn, inner: st.SearchStrategy[list[ast.Item]]) -> ast.Declaration:
    form = draw(st.sampled_from(["name", "text", "bare"]))
    given = draw(st.lists(clauses, max_size=2))
    body = draw(st.sampled_from(["items", "listing", "none"]))
    if form == "bare" and (not given or given[0].word in ("=", "in")):
        given, body = [], "items" if body == "none" else body
    return ast.Declaration(
        HERE,
        draw(names),
        HERE,
        draw(names) if form == "name" else None,
        HERE,
        draw(texts) if form == "text" else None,
        None,
        draw(slots) if form == "name" else [],
        given,
        draw(inner) if body == "items" else None,
        draw(st.lists(expressions, min_size=1, max_size=2)) if body == "listing" else None,
        HERE,
    )


items: st.SearchStrategy[list[ast.Item]] = st.recursive(
    st.lists(settings_ | pairs, max_size=3),
    lambda inner: st.lists(st.one_of(settings_, pairs, declarations(inner)), max_size=3),
    max_leaves=4,
)
spaces = [" ", "  ", "\n", "\n\n\n", "\t", " # one\n", '\n# two, of { ( "\n', "#\n", "\r\n"]
gaps = st.lists(st.sampled_from(spaces), max_size=2)


@st.composite
def laid_out(draw: st.DrawFn, text: str) -> str:
    """The tokens of `text` with other space and comments between them."""
    parts = []
    for token in tokens(text):
        gap = "".join(draw(gaps))
        parts += [gap or " ", token.text]
    return "".join(parts)
