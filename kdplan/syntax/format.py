"""One layout for all plans: spaces, indentation, alignment. Tokens, comments and line breaks stay the author's."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdplan.diagnostics.span import Source
from kdplan.syntax import ast
from kdplan.syntax.aliases import rewrite_old_names
from kdplan.syntax.grammar import BRACKETS, ENDS_VALUE, RESERVED
from kdplan.syntax.lexer import Token, comments, tokens
from kdplan.syntax.parse import parse
from kdplan.syntax.walk import walk
from kdplan.syntax.write import WIDTH

INDENT = 2
CONTINUED = 4  # indent of a line that continues an item
CLOSE = set(BRACKETS.values())
OPERATORS = {"PLUS", "MINUS", "STAR", "SLASH", "POWER", "ARROW", "COMP", "RANGE"}
MAX_ALIGN = 12  # names that differ by more in length are not aligned
MAX_COMMENT_SHIFT = 40


@dataclass
class _Layout:
    """The tokens with comments, and what the layout depends on."""

    source: Source
    tokens: list[Token]
    items: dict[int, ast.Item]  # start of an item -> the item
    mates: dict[int, int] = field(default_factory=dict)  # opening -> closing, both ways
    bodies: dict[int, int] = field(default_factory=dict)  # start of an item -> the brace it stands in, -1 for none
    broken: set[int] = field(default_factory=set)  # braces whose body stands on lines of its own
    split: set[int] = field(default_factory=set)  # those of them that did not fit: each item on its own line

    def gap(self, i: int) -> int:
        """Line ends between token `i` and the one before."""
        return self.source.text.count("\n", self.tokens[i - 1].end if i else 0, self.tokens[i].start)

    def starts_item(self, i: int) -> bool:
        """Whether an item begins with token `i`."""
        return self.tokens[i].kind == "NAME" and self.tokens[i].start in self.items


@dataclass
class _Line:
    tokens: range
    blank: bool = False  # an empty line goes before it
    indent: int = 0
    pad: int = 0  # spaces more before the first `=`
    text: str = ""
    comment: str = ""


def format_text(source: Source) -> str:
    """A plan in the usual layout.

    Every comment is kept and the tree is the same. Old names become current ones (`kdplan.syntax.aliases`). Formatting
    twice changes nothing more.

    Parameters
    ----------
    source
        A plan without mistakes of form.

    Raises
    ------
    PlanError
        If the plan does not parse.

    Examples
    --------
    >>> print(format_text(Source("a.kd", "recipe r{epochs=2   # short\\n batch  = 64}")), end="")
    recipe r {
      epochs = 2  # short
      batch  = 64
    }
    """
    source = rewrite_old_names(source, parse(source))
    layout = _read(source)
    while True:
        lines = _lines(layout)
        _indent_and_spell(layout, lines, align=False)
        wide = {b for line in lines if line.indent + len(line.text) > WIDTH for b in _first_body(layout, line)}
        if not wide:
            break
        layout.broken |= wide
        layout.split |= wide
    _indent_and_spell(layout, lines, align=True)
    _align_comments(lines)
    out = "".join(("\n" if line.blank else "") + _whole(line) + "\n" for line in lines)
    assert _same_tokens(source.text, out), "formatting changed the tokens of a plan"
    return out


def _read(source: Source) -> _Layout:
    items = {n.span.start: n for n in walk(parse(source)) if isinstance(n, ast.Declaration | ast.Setting | ast.Pair)}
    with_comments: list[Token] = []
    end = 0
    for token in tokens(source.text):
        with_comments += comments(source.text, end, token.start)
        with_comments.append(token)
        end = token.end
    with_comments.pop()  # the end
    layout = _Layout(source, with_comments, items)
    open_: list[int] = []
    for i, w in enumerate(with_comments):
        if w.start in items:
            layout.bodies[i] = open_[-1] if open_ else -1
        if w.kind in BRACKETS:
            open_.append(i)
        elif w.kind in CLOSE:
            start = open_.pop()
            layout.mates[start], layout.mates[i] = i, start
            if w.kind == "RBRACE" and i > start + 1 and "\n" in source.text[with_comments[start].end : w.start]:
                layout.broken.add(start)
    return layout


def _lines(layout: _Layout) -> list[_Line]:
    """Cut the tokens into lines."""
    if not layout.tokens:
        return []
    starts = [i for i in range(len(layout.tokens)) if i == 0 or _breaks(layout, i)]
    ends = [*starts[1:], len(layout.tokens)]
    return [_Line(range(a, b), _blank(layout, a)) for a, b in zip(starts, ends, strict=True)]


def _breaks(layout: _Layout, i: int) -> bool:
    """Whether a line begins with token `i`."""
    before, token = layout.tokens[i - 1], layout.tokens[i]
    by_author = layout.gap(i) > 0
    if before.kind == "COMMENT":
        return True
    if token.kind == "COMMENT":
        return by_author
    if token.kind == "LBRACE":
        return False
    if before.kind == "LBRACE":
        return i - 1 in layout.broken
    if token.kind == "RBRACE":
        return layout.mates[i] in layout.broken
    if before.kind == "RBRACE" and layout.mates[i - 1] in layout.broken:
        return True
    if layout.starts_item(i) and not by_author:
        return layout.bodies[i] in layout.split
    return by_author


def _blank(layout: _Layout, i: int) -> bool:
    if i == 0 or layout.gap(i) < 2 or layout.tokens[i - 1].kind in BRACKETS:
        return False
    j = i
    while j < len(layout.tokens) and layout.tokens[j].kind == "COMMENT":
        j += 1
    if j == len(layout.tokens):
        return True
    return layout.starts_item(j) or (j > i and layout.tokens[j].kind == "RBRACE")


def _first_body(layout: _Layout, line: _Line) -> list[int]:
    """The first body of a line that could be broken: a list of one or none."""
    for i in line.tokens:
        if layout.tokens[i].kind == "LBRACE" and layout.mates[i] in line.tokens and layout.mates[i] > i + 1:
            return [i]
    return []


def _indent_and_spell(layout: _Layout, lines: list[_Line], align: bool) -> None:
    """Set each line's indent and text; with `align`, the `=` of neighbours one below the other."""
    if align:
        _align_equals(layout, lines)
    open_: list[tuple[int, bool]] = []  # of each open bracket: the indent it counts from, and whether it holds items
    item = 0  # indent of the item being read
    equals: int | None = None  # column of its `=`
    for line in lines:
        first = next((i for i in line.tokens if layout.tokens[i].kind != "COMMENT"), None)
        leads = _next_token(layout, line.tokens.start)  # a comment stands like what comes after it
        kind = layout.tokens[leads].kind if leads is not None else ""
        if kind in CLOSE:
            inside = first is None
            line.indent = open_[-1][0] + (INDENT if inside else 0)
        elif leads is None or layout.starts_item(leads) or (not open_ and kind == ""):
            line.indent = open_[-1][0] + INDENT if open_ else 0
        elif kind == "LBRACE":
            line.indent = item
        elif open_ and not open_[-1][1]:
            line.indent = open_[-1][0] + INDENT
        else:
            line.indent = equals if equals is not None and kind in OPERATORS else item + CONTINUED
        spelled: list[str] = []
        column = line.indent
        line.comment = ""
        for i in line.tokens:
            token = layout.tokens[i]
            if token.kind == "COMMENT":
                line.comment = token.text
                break
            space = _space(layout, i) if i > line.tokens.start else 0
            if layout.starts_item(i):
                item, equals = line.indent, None
            elif token.kind == "EQUAL" and equals is None and i > 0 and layout.starts_item(i - 1):
                space += line.pad if i == line.tokens.start + 1 else 0
                equals = column + space
            elif token.kind == "EQUAL" and line.pad and i == line.tokens.start + 2:
                space += line.pad
            if token.kind == "LBRACE":
                open_.append((item, not _is_listing(layout, i)))
            elif token.kind in BRACKETS:
                open_.append((line.indent, False))
            elif token.kind in CLOSE:
                open_.pop()
            spelled.append(" " * space + token.text)
            column += space + len(token.text)
        line.text = "".join(spelled)


def _next_token(layout: _Layout, i: int) -> int | None:
    while i < len(layout.tokens) and layout.tokens[i].kind == "COMMENT":
        i += 1
    return i if i < len(layout.tokens) else None


def _is_listing(layout: _Layout, i: int) -> bool:
    j = _next_token(layout, i + 1)
    return j is not None and layout.tokens[j].kind != "RBRACE" and not layout.starts_item(j)


def _space(layout: _Layout, i: int) -> int:
    """Spaces between token `i` and the one before it, on one line."""
    a, b = layout.tokens[i - 1], layout.tokens[i]
    if layout.starts_item(i):
        return 1 if a.kind in ("LBRACE", "COMMA") else 2
    if a.kind in ("LPAR", "LSQB", "DOT", "AT", "RANGE") or b.kind in ("RPAR", "RSQB", "COMMA", "DOT", "AT", "RANGE"):
        return 0
    if a.kind == "LBRACE" and b.kind == "RBRACE":
        return 0
    if b.kind in ("LPAR", "LSQB"):
        return 0 if _ends_value(layout, i - 1) else 0 if _unary(layout, i - 1) else 1
    return 0 if _unary(layout, i - 1) else 1


def _ends_value(layout: _Layout, i: int) -> bool:
    token = layout.tokens[i]
    if token.kind in RESERVED:
        return i > 0 and layout.tokens[i - 1].kind == "DOT"
    return token.kind in ENDS_VALUE or (token.kind == "STAR" and layout.tokens[i + 1].kind in ("RSQB", "COMMA"))


def _unary(layout: _Layout, i: int) -> bool:
    """Whether token `i` is a minus in front of one value."""
    if layout.tokens[i].kind != "MINUS":
        return False
    j = i - 1
    while layout.tokens[j].kind == "COMMENT":
        j -= 1
    return not _ends_value(layout, j)


def _align_equals(layout: _Layout, lines: list[_Line]) -> None:
    group: list[tuple[_Line, int]] = []
    previous: object = None
    for line in [*lines, _Line(range(0))]:
        key, width = _alignment(layout, line)
        if group and (key is None or key != previous or line.blank):
            widths = [w for _, w in group]
            if max(widths) - min(widths) <= MAX_ALIGN:
                for one, w in group:
                    one.pad = max(widths) - w
            group = []
        if key is not None:
            group.append((line, width))
        previous = key


def _alignment(layout: _Layout, line: _Line) -> tuple[object, int]:
    """What a line's `=` may be aligned with (same body, same sort of item), and the width before it."""
    if not line.tokens or not layout.starts_item(line.tokens.start):
        return None, 0
    i = line.tokens.start
    item = layout.items[layout.tokens[i].start]
    if isinstance(item, ast.Setting):
        return (line.indent, "setting"), len(item.name)
    if isinstance(item, ast.Declaration) and i + 2 in line.tokens and layout.tokens[i + 2].kind == "EQUAL":
        return (line.indent, item.kind), len(layout.tokens[i + 1].text)
    return None, 0


def _align_comments(lines: list[_Line]) -> None:
    """Comments at the end of neighbouring lines begin in one column."""
    group: list[_Line] = []
    for line in [*lines, _Line(range(0))]:
        if line.comment and line.text and not (group and line.blank):
            group.append(line)
            continue
        if group:
            widths = [one.indent + len(one.text) for one in group]
            if max(widths) - min(widths) <= MAX_COMMENT_SHIFT:
                for one, width in zip(group, widths, strict=True):
                    one.text += " " * (max(widths) - width)
        group = [line] if line.comment and line.text else []


def _whole(line: _Line) -> str:
    text = f"{line.text}  {line.comment}" if line.comment and line.text else line.text + line.comment
    return " " * line.indent + text


def _same_tokens(before: str, after: str) -> bool:
    return _spelled(before) == _spelled(after)


def _spelled(text: str) -> list[tuple[str, str]]:
    """The tokens and comments of a plan, without their positions."""
    end, spelled = 0, []
    for t in tokens(text):
        spelled += [(c.kind, c.text) for c in comments(text, end, t.start)]
        spelled.append((t.kind, t.text))
        end = t.end
    return spelled
