"""From the source of a plan to tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from kdplan.diagnostics.span import Source, Span
from kdplan.syntax.grammar import END, STRAY, table


class Token(NamedTuple):
    """A token of the source; `kind` is a terminal of the grammar, `$END`, or `STRAY` for any other character."""

    kind: str
    text: str
    start: int
    end: int

    def span(self, source: Source) -> Span:
        """The token's span in a source."""
        return Span(source, self.start, self.end)


def tokens(text: str, start: int = 0, end: int | None = None) -> Iterator[Token]:
    """The tokens of `text[start:end]`, then `$END`. Space and comments are left out.

    >>> [t.text for t in tokens("a = 1  # one")]
    ['a', '=', '1', '']
    """
    new = tuple.__new__
    end = len(text) if end is None else end
    for m in table().scanner.finditer(text, start, end):
        kind = m.lastgroup
        if kind == "END":
            break
        index = m.lastindex
        at, to = m.span(index)  # type: ignore[arg-type]
        yield new(Token, (kind, text[at:to], at, to))
    yield Token(END, "", end, end)


_COMMENT = re.compile(r"#[^\n]*")


def comments(text: str, start: int, end: int) -> list[Token]:
    """The comments of a stretch between two tokens.

    >>> [c.text for c in comments("a # one", 1, 7)]
    ['# one']
    """
    if end - start < 2 and text[start:end] != "#":
        return []
    return [
        Token("COMMENT", m.group().rstrip(), m.start(), m.start() + len(m.group().rstrip()))
        for m in _COMMENT.finditer(text, start, end)
    ]


__all__ = ["STRAY", "Token", "comments", "tokens"]
