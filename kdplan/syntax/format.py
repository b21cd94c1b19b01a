"""One look for all plans: spaces, indentation, alignment; words, comments and line breaks stay the author's."""

from __future__ import annotations

from dataclasses import dataclass, field

from kdplan.diagnostics.span import Source
from kdplan.syntax import ast
from kdplan.syntax.aliases import rewritten
from kdplan.syntax.grammar import BRACKETS, ENDS_VALUE, RESERVED
from kdplan.syntax.lexer import Token, comments, tokens
from kdplan.syntax.parse import parse
from kdplan.syntax.walk import walk
from kdplan.syntax.write import WIDTH

INDENT = 2
CONTINUED = 4  # further in than the item that a line goes on with
CLOSE = set(BRACKETS.values())
OPERATORS = {"PLUS", "MINUS", "STAR", "SLASH", "POWER", "ARROW", "COMP", "RANGE"}
MAX_ALIGN = 12  # names that differ by more in length are not aligned
MAX_COMMENT_SHIFT = 40


@dataclass
class _Text:
    """The tokens with comments, and what the layout has to know of each."""

    source: Source
    words: list[Token]
    items: dict[int, ast.Item]  # start of an item -> the item
    mates: dict[int, int] = field(default_factory=dict)  # opening -> closing, both ways
    bodies: dict[int, int] = field(default_factory=dict)  # start of an item -> the brace it stands in, -1 for none
    broken: set[int] = field(default_factory=set)  # braces whose body stands on lines of its own
    split: set[int] = field(default_factory=set)  # those of them that did not fit: each item on its own line

    def gap(self, i: int) -> int:
        """Line ends between word `i` and the one before."""
        return self.source.text.count("\n", self.words[i - 1].end if i else 0, self.words[i].start)

    def starts_item(self, i: int) -> bool:
        return self.words[i].kind == "NAME" and self.words[i].start in self.items


@dataclass
class _Line:
    words: range
    blank: bool = False  # an empty line goes before it
    indent: int = 0
    pad: int = 0  # spaces more before the first `=`
    text: str = ""
    comment: str = ""


def format_text(source: Source) -> str:
    """A plan's text in the usual layout.

    Every comment is kept, the tree is the same, old words are today's (`kdplan.syntax.aliases`), and formatting twice
    changes nothing more.

    Parameters
    ----------
    source
        A plan without mistakes of form.

    Raises
    ------
    PlanError
        If the text does not parse.

    Examples
    --------
    >>> print(format_text(Source("a.kd", "recipe r{epochs=2   # short\\n batch  = 64}")), end="")
    recipe r {
      epochs = 2  # short
      batch  = 64
    }
    """
    source = rewritten(source, parse(source))
    text = _read(source)
    while True:
        lines = _lines(text)
        _indent_and_spell(text, lines, align=False)
        wide = {b for line in lines if line.indent + len(line.text) > WIDTH for b in _first_body(text, line)}
        if not wide:
            break
        text.broken |= wide
        text.split |= wide
    _indent_and_spell(text, lines, align=True)
    _align_comments(lines)
    out = "".join(("\n" if line.blank else "") + _whole(line) + "\n" for line in lines)
    assert _same_words(source.text, out), "formatting changed the words of a plan"
    return out


def _read(source: Source) -> _Text:
    items = {n.span.start: n for n in walk(parse(source)) if isinstance(n, ast.Declaration | ast.Setting | ast.Pair)}
    words: list[Token] = []
    end = 0
    for token in tokens(source.text):
        words += comments(source.text, end, token.start)
        words.append(token)
        end = token.end
    words.pop()  # the end
    text = _Text(source, words, items)
    open_: list[int] = []
    for i, w in enumerate(words):
        if w.start in items:
            text.bodies[i] = open_[-1] if open_ else -1
        if w.kind in BRACKETS:
            open_.append(i)
        elif w.kind in CLOSE:
            start = open_.pop()
            text.mates[start], text.mates[i] = i, start
            if w.kind == "RBRACE" and i > start + 1 and "\n" in source.text[words[start].end : w.start]:
                text.broken.add(start)
    return text


def _lines(text: _Text) -> list[_Line]:
    """Cut the words into lines."""
    if not text.words:
        return []
    starts = [i for i in range(len(text.words)) if i == 0 or _breaks(text, i)]
    ends = [*starts[1:], len(text.words)]
    return [_Line(range(a, b), _blank(text, a)) for a, b in zip(starts, ends, strict=True)]


def _breaks(text: _Text, i: int) -> bool:
    """Whether a line begins with word `i`."""
    before, word = text.words[i - 1], text.words[i]
    by_author = text.gap(i) > 0
    if before.kind == "COMMENT":
        return True
    if word.kind == "COMMENT":
        return by_author
    if word.kind == "LBRACE":
        return False
    if before.kind == "LBRACE":
        return i - 1 in text.broken
    if word.kind == "RBRACE":
        return text.mates[i] in text.broken
    if before.kind == "RBRACE" and text.mates[i - 1] in text.broken:
        return True
    if text.starts_item(i) and not by_author:
        return text.bodies[i] in text.split
    return by_author


def _blank(text: _Text, i: int) -> bool:
    if i == 0 or text.gap(i) < 2 or text.words[i - 1].kind in BRACKETS:
        return False
    j = i
    while j < len(text.words) and text.words[j].kind == "COMMENT":
        j += 1
    if j == len(text.words):
        return True
    return text.starts_item(j) or (j > i and text.words[j].kind == "RBRACE")


def _first_body(text: _Text, line: _Line) -> list[int]:
    """The first body of a line that could be broken: a list of one or none."""
    for i in line.words:
        if text.words[i].kind == "LBRACE" and text.mates[i] in line.words and text.mates[i] > i + 1:
            return [i]
    return []


def _indent_and_spell(text: _Text, lines: list[_Line], align: bool) -> None:
    """Set each line's indent and text; with `align`, the `=` of neighbours one below the other."""
    if align:
        _align_equals(text, lines)
    open_: list[tuple[int, bool]] = []  # of each open bracket: the indent it counts from, and whether it holds items
    item = 0  # indent of the item being read
    equals: int | None = None  # column of its `=`
    for line in lines:
        first = next((i for i in line.words if text.words[i].kind != "COMMENT"), None)
        leads = _next_word(text, line.words.start)  # a comment stands like what comes after it
        kind = text.words[leads].kind if leads is not None else ""
        if kind in CLOSE:
            inside = first is None
            line.indent = open_[-1][0] + (INDENT if inside else 0)
        elif leads is None or text.starts_item(leads) or (not open_ and kind == ""):
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
        for i in line.words:
            word = text.words[i]
            if word.kind == "COMMENT":
                line.comment = word.text
                break
            space = _space(text, i) if i > line.words.start else 0
            if text.starts_item(i):
                item, equals = line.indent, None
            elif word.kind == "EQUAL" and equals is None and i > 0 and text.starts_item(i - 1):
                space += line.pad if i == line.words.start + 1 else 0
                equals = column + space
            elif word.kind == "EQUAL" and line.pad and i == line.words.start + 2:
                space += line.pad
            if word.kind == "LBRACE":
                open_.append((item, not _is_listing(text, i)))
            elif word.kind in BRACKETS:
                open_.append((line.indent, False))
            elif word.kind in CLOSE:
                open_.pop()
            spelled.append(" " * space + word.text)
            column += space + len(word.text)
        line.text = "".join(spelled)


def _next_word(text: _Text, i: int) -> int | None:
    while i < len(text.words) and text.words[i].kind == "COMMENT":
        i += 1
    return i if i < len(text.words) else None


def _is_listing(text: _Text, i: int) -> bool:
    j = _next_word(text, i + 1)
    return j is not None and text.words[j].kind != "RBRACE" and not text.starts_item(j)


def _space(text: _Text, i: int) -> int:
    """Spaces between word `i` and the one before it, on one line."""
    a, b = text.words[i - 1], text.words[i]
    if text.starts_item(i):
        return 1 if a.kind in ("LBRACE", "COMMA") else 2
    if a.kind in ("LPAR", "LSQB", "DOT", "AT", "RANGE") or b.kind in ("RPAR", "RSQB", "COMMA", "DOT", "AT", "RANGE"):
        return 0
    if a.kind == "LBRACE" and b.kind == "RBRACE":
        return 0
    if b.kind in ("LPAR", "LSQB"):
        return 0 if _ends_value(text, i - 1) else 0 if _unary(text, i - 1) else 1
    return 0 if _unary(text, i - 1) else 1


def _ends_value(text: _Text, i: int) -> bool:
    word = text.words[i]
    if word.kind in RESERVED:
        return i > 0 and text.words[i - 1].kind == "DOT"
    return word.kind in ENDS_VALUE or (word.kind == "STAR" and text.words[i + 1].kind in ("RSQB", "COMMA"))


def _unary(text: _Text, i: int) -> bool:
    """Whether word `i` is a minus in front of one value."""
    if text.words[i].kind != "MINUS":
        return False
    j = i - 1
    while text.words[j].kind == "COMMENT":
        j -= 1
    return not _ends_value(text, j)


def _align_equals(text: _Text, lines: list[_Line]) -> None:
    group: list[tuple[_Line, int]] = []
    previous: object = None
    for line in [*lines, _Line(range(0))]:
        key, width = _alignment(text, line)
        if group and (key is None or key != previous or line.blank):
            widths = [w for _, w in group]
            if max(widths) - min(widths) <= MAX_ALIGN:
                for one, w in group:
                    one.pad = max(widths) - w
            group = []
        if key is not None:
            group.append((line, width))
        previous = key


def _alignment(text: _Text, line: _Line) -> tuple[object, int]:
    """What a line's `=` may be aligned with (same body, same sort of item), and the width before it."""
    if not line.words or not text.starts_item(line.words.start):
        return None, 0
    i = line.words.start
    item = text.items[text.words[i].start]
    if isinstance(item, ast.Setting):
        return (line.indent, "setting"), len(item.name)
    if isinstance(item, ast.Declaration) and i + 2 in line.words and text.words[i + 2].kind == "EQUAL":
        return (line.indent, item.kind), len(text.words[i + 1].text)
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


def _same_words(before: str, after: str) -> bool:
    def words(text: str) -> list[tuple[str, str]]:
        end, found = 0, []
        for t in tokens(text):
            found += [(c.kind, c.text) for c in comments(text, end, t.start)]
            found.append((t.kind, t.text))
            end = t.end
        return found

    return words(before) == words(after)
