"""After a mistake: find all others, and keep the declarations that parse.

The source is cut into its top-level declarations, and each is parsed by itself. One that fails is cut again into the
items of its body. Brackets are matched first: with a missing one, every later message would be at the wrong location.
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

from kdplan.diagnostics.report import Note, Reporter
from kdplan.diagnostics.span import Source, Span
from kdplan.syntax import ast
from kdplan.syntax.build import SHORT, Builder, Stuck
from kdplan.syntax.diagnose import AFTER_KIND, diagnose
from kdplan.syntax.grammar import BRACKETS, END, STRAY
from kdplan.syntax.lexer import Token, tokens

WORD = re.compile(r"[A-Za-z0-9_]+")
MAX_ERRORS = 20
WINDOW = 500_000  # characters after the first mistake that are searched for more
OPENS = {close: open for open, close in BRACKETS.items()}
# after one of these the next line continues the same item
GOES_ON = {"COMMA", "EQUAL", "PLUS", "MINUS", "STAR", "SLASH", "POWER", "ARROW", "RANGE", "COMP", "PREP", "FOR", "IN"}
GOES_ON |= {"DOT", "AT", "TILDE"}
BEGINS_ITEM = {"NAME", "STRING", "EQUAL", "LBRACE", "PREP", "TILDE", "DOT", STRAY}

ParseTokens = Callable[[Iterable[Token], Builder], list[ast.Item]]


@dataclass
class _Search:
    """The state of the search for mistakes."""

    source: Source
    builder: Builder
    reporter: Reporter
    parse_tokens: ParseTokens
    tokens: list[Token]
    depth: list[int] = field(default_factory=list)  # of each token, its brackets outside
    mates: dict[int, int] = field(default_factory=dict)  # index of an opening bracket -> of its closing one
    broken: set[int] = field(default_factory=set)  # tokens at which a bracket is wrong
    starts: set[int] = field(default_factory=set)  # tokens that begin a declaration in spite of an open bracket

    @property
    def full(self) -> bool:
        """Whether enough mistakes are reported."""
        return len(self.reporter.errors) >= MAX_ERRORS


def recover(
    source: Source, text: str, builder: Builder, reporter: Reporter, first: Stuck, parse_tokens: ParseTokens
) -> list[ast.Item]:
    """Report the mistakes of a source that does not parse, and return the items that do.

    Parameters
    ----------
    source, text, builder, reporter
        The source, its text without lines that are reported already, the builder of its nodes, and the reporter of its
        mistakes.
    first
        How parsing the whole source ended.
    parse_tokens
        The parser.
    """
    if first.too_deep:
        reporter.report("KD0114", first.token.span(source))
        return []
    before = len(reporter.errors)
    cut = first.token.end + WINDOW
    cut = len(source.text) if cut >= len(source.text) else source.text.rfind("\n", 0, cut) + 1 or cut
    stream = _join_quotes(source, list(tokens(text, 0, cut)))
    search = _Search(source, builder, reporter, parse_tokens, stream[:-1])
    unclosed = [i for i, w in enumerate(search.tokens) if w.kind == STRAY and _unclosed(w.text)]
    if not _match_brackets(search, layout=False):
        for i in unclosed[:MAX_ERRORS]:
            reporter.report("KD0112", search.tokens[i].span(source))
        _match_brackets(search, layout=True, quiet=bool(unclosed))
        search.broken.update(unclosed)
    bounds = [i for i in range(len(search.tokens)) if _begins_declaration(search, i)]
    if not bounds or bounds[0] != 0:
        bounds.insert(0, 0)
    items: list[ast.Item] = []
    for begin, end in zip(bounds, [*bounds[1:], len(search.tokens)], strict=True):
        if search.full or (cut < len(source.text) and end == len(search.tokens) and reporter.errors):
            break
        items += _parse_piece(search, begin, end)
    if search.full:
        last = reporter.diagnostics[-1]
        more = Note(f"Only the first {MAX_ERRORS} mistakes are shown; the rest of the file was not checked.")
        reporter.diagnostics[-1] = replace(last, notes=(*last.notes, more))
    if len(reporter.errors) == before:
        # every piece parses alone and the whole does not: report where the whole stopped
        reporter.add([diagnose(source, stream, _index(stream, first.token), first)])
    return items


def _index(stream: list[Token], token: Token) -> int:
    return min(bisect_left(stream, token.start, key=lambda t: t.start), len(stream) - 1)


def _join_quotes(source: Source, stream: list[Token]) -> list[Token]:
    """One stray token for each string in wrong or missing quotes, and for each number that continues with letters."""
    joined: list[Token] = []
    past = line_end = 0
    for t in stream:
        if t.start < past:
            continue
        if t.kind == STRAY and t.text in "'\"":
            if t.start >= line_end:
                line_end = source.text.find("\n", t.start)
                line_end = len(source.text) if line_end < 0 else line_end
            close = source.text.find(t.text, t.end, line_end)
            # without a closing quote, the brackets at the end of the line hardly belong to the string
            rest = source.text[t.start : line_end].rstrip(" \t\r)]},") if close < 0 else ""
            past = close + 1 if close >= 0 else t.start + len(rest)
            text = source.text[t.start : past]
            joined.append(Token(STRAY, text, t.start, past))
        elif t.kind == STRAY and t.text in "0123456789":
            past = WORD.match(source.text, t.start).end()  # type: ignore[union-attr]
            joined.append(Token(STRAY, source.text[t.start : past], t.start, past))
        else:
            joined.append(t)
    return joined


def _first_of_line(search: _Search, i: int) -> bool:
    return i == 0 or "\n" in search.source.text[search.tokens[i - 1].end : search.tokens[i].start]


def _column_one(source: Source, token: Token) -> bool:
    return token.start == 0 or source.text[token.start - 1] == "\n"


def _begins_declaration(search: _Search, i: int) -> bool:
    t = search.tokens[i]
    if i in search.starts:
        return True
    if search.depth[i] or t.kind != "NAME" or not _column_one(search.source, t):
        return False
    return i == 0 or search.tokens[i - 1].kind not in GOES_ON


def _unclosed(text: str) -> bool:
    return text[0] == '"' and (len(text) == 1 or text[-1] != '"')


def _match_brackets(search: _Search, layout: bool, quiet: bool = False) -> bool:
    """Match the brackets; True if they do.

    With `layout`, mistakes are reported, and two names at the beginning of a line start a declaration whatever is open.
    With `quiet` they are not: an unclosed string may hold the missing brackets.
    """
    source, stream = search.source, search.tokens
    search.depth, search.mates, search.broken = [], {}, set()
    open_: list[int] = []
    right = True

    def report_all_unclosed(where: str) -> None:
        for i in open_[-3:]:  # the innermost are the likeliest; a hundred messages would not help
            report_unclosed(i, where)
        open_.clear()

    def report_unclosed(i: int, where: str) -> None:
        nonlocal right
        right = False
        if layout and not search.full:
            search.broken.add(i)
        if layout and not search.full and not quiet:
            line = source.position(stream[i].start)[0]
            search.reporter.report("KD0104", stream[i].span(source), open=stream[i].text, line=line, where=where)

    for i, t in enumerate(stream):
        if layout and open_ and t.kind == "NAME" and _column_one(source, t) and _two_names(stream, i):
            report_all_unclosed(f"`{t.text}` begins on line {source.position(t.start)[0]}")
            search.starts.add(i)
        if t.kind in OPENS:
            partner = next((k for k in range(len(open_) - 1, -1, -1) if stream[open_[k]].kind == OPENS[t.kind]), None)
            if partner is None:
                right = False
                if layout and not search.full:
                    search.broken.add(i)
                if layout and not search.full and not quiet:
                    head = _without_brace(search, i) if t.kind == "RBRACE" else None
                    if head is not None:
                        search.reporter.report("KD0127", head[0], help=head[1])
                    else:
                        search.reporter.report("KD0115", t.span(source), found=t.text)
            else:
                while len(open_) > partner + 1:
                    report_unclosed(open_.pop(), f"`{t.text}` is on line {source.position(t.start)[0]}")
                search.mates[open_.pop()] = i
        search.depth.append(len(open_))
        if t.kind in BRACKETS:
            open_.append(i)
    report_all_unclosed("the file ends")
    return right


def _without_brace(search: _Search, close: int) -> tuple[Span, str | None] | None:
    """The head of the last declaration before a `}` whose items follow, behind it or further right, without a `{`.

    With what to write, where that is not the help of KD0127.
    """
    source, stream = search.source, search.tokens

    def column(i: int) -> int:
        return source.position(stream[i].start)[1]

    for begin in range(close - 2, -1, -1):
        if stream[begin].kind != "NAME" or stream[begin + 1].kind not in AFTER_KIND:
            continue
        behind = _behind(search, begin, close)
        if behind is not None and _first_of_line(search, begin):
            return Span(
                source, stream[begin].start, stream[behind - 1].end
            ), f"Write `{{` before `{stream[behind].text}`."
        lines = (i for i in range(begin + 1, close) if _first_of_line(search, i) and stream[i].kind == "NAME")
        item = next((i for i in lines if stream[i - 1].kind not in GOES_ON), close)
        braces = any(t.kind in ("LBRACE", "RBRACE") for t in stream[begin:item])
        if item < close and not braces and _first_of_line(search, begin) and column(item) > column(begin):
            return Span(source, stream[begin].start, stream[item - 1].end), None
    return None


def _behind(search: _Search, begin: int, close: int) -> int | None:
    """The first item that follows a declaration's head on its line, with no `{` between."""
    for i in range(begin + 1, close - 1):
        here, following = search.tokens[i], search.tokens[i + 1]
        if here.kind == "LBRACE" or (i > begin + 1 and _first_of_line(search, i)):
            return None
        item = here.kind == "NAME" and following.kind == "EQUAL" and search.depth[i] == search.depth[begin]
        if item and i > begin + 1 and search.tokens[i - 1].kind not in GOES_ON:
            return i
    return None


def _two_names(stream: list[Token], i: int) -> bool:
    following = stream[i + 1].kind if i + 1 < len(stream) else END
    return following in ("NAME", "STRING") and (i == 0 or stream[i - 1].kind not in GOES_ON)


def _parse_piece(search: _Search, begin: int, end: int, short: bool = False) -> list[ast.Item]:
    """Parse `tokens[begin:end]` by itself; where that fails, report why. `short` where names alone may come first."""
    if begin == end or search.full or any(begin <= i < end for i in search.broken):
        return []  # a wrong bracket has been reported, and may cause every other mistake here
    stream = search.tokens[begin:end]
    stream.append(Token(END, "", stream[-1].end, stream[-1].end))
    try:
        return search.parse_tokens(stream, search.builder)
    except Stuck as caught:
        stuck = caught
    at = begin + _index(stream, stuck.token)
    before = len(search.reporter.errors)
    for i in range(begin, end):
        if search.tokens[i].kind == "LBRACE" and search.depth[i] == search.depth[begin] and i in search.mates:
            close = search.mates[i]
            if at <= i:
                search.reporter.add([diagnose(search.source, stream, at - begin, stuck)])
                at = end
            if _holds_items(search, i, close):
                _parse_items_of_body(search, i + 1, close, short=search.tokens[begin].text in SHORT)
    if len(search.reporter.errors) == before:
        search.reporter.add([diagnose(search.source, stream, at - begin, stuck, short)])
    return []


def _holds_items(search: _Search, open_: int, close: int) -> bool:
    """Whether a body is items and no list: only items have these signs outside of brackets."""
    signs = ("EQUAL", "TILDE", "LBRACE")
    level = search.depth[open_] + 1
    return any(search.depth[i] == level and search.tokens[i].kind in signs for i in range(open_ + 1, close))


def _parse_items_of_body(search: _Search, begin: int, end: int, short: bool) -> None:
    level = search.depth[begin]
    while short and [t.kind for t in search.tokens[begin : begin + 2]] == ["NAME", "COMMA"]:
        begin += 2
    bounds = [begin]
    for i in range(begin + 1, end):
        t = search.tokens[i]
        if t.kind == "NAME" and search.depth[i] == level and search.tokens[i - 1].kind not in GOES_ON:
            after = search.tokens[i + 1].kind
            if after in BEGINS_ITEM and _first_of_line(search, i):
                bounds.append(i)
    for i, j in zip(bounds, [*bounds[1:], end], strict=True):
        _parse_piece(search, i, j, short)
