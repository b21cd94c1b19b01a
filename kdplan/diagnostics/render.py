"""Diagnostics for people (with the span of the plan underlined) and for programs (JSON)."""

from __future__ import annotations

import re
import textwrap
import unicodedata
from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

from kdplan.diagnostics.report import Diagnostic, Note, table
from kdplan.diagnostics.span import Span

LONGEST = 600  # characters of an example that `explain` shows, cut at the end of a line
WIDTH = 120  # columns of the plan that are shown
TAB = 4
MOST_ALIKE = 3
"""Warnings of one kind that are all shown."""
NAMED = 4
"""Names of the others, where there are more."""
_QUOTED = re.compile("`.+?`")
ELLIPSIS = "…"
STYLES = {"error": "1;31", "warning": "1;33", "frame": "34", "bold": "1", "help": "36"}


class _Paint:
    def __init__(self, color: bool) -> None:
        self.color = color

    def __call__(self, style: str, text: str) -> str:
        return f"\x1b[{STYLES[style]}m{text}\x1b[0m" if self.color and text else text


def render_text(diagnostics: Iterable[Diagnostic], color: bool) -> str:
    """All diagnostics as lines, each with its span underlined, and the number of errors at the end.

    Of more than `MOST_ALIKE` warnings with one code, the first stands for all, with the names that others are about.

    Parameters
    ----------
    diagnostics
        The diagnostics, in this order.
    color
        Whether to use the terminal's colours.

    Examples
    --------
    >>> from kdplan.diagnostics.report import diagnostic
    >>> from kdplan.diagnostics.span import Source
    >>> s = Source("a.kd", "recipe r {\\n  epochs: 240\\n}")
    >>> print(render_text([diagnostic("KD0101", Span(s, 19, 20), fix="epochs = 240")], color=False))
    error[KD0101]: A `:` has no meaning in a plan.
     --> a.kd:2:9
      |
    2 |   epochs: 240
      |         ^
      = help: Write `epochs = 240`.
    <BLANKLINE>
    1 error; run `kdplan explain KD0101` for details
    """
    shown = list(diagnostics)
    paint = _Paint(color)
    blocks = [_rendered(d, paint) for d in _one_of_a_kind(shown)]
    if shown:
        blocks.append(_count(shown))
    return "\n\n".join(blocks)


def _one_of_a_kind(shown: Sequence[Diagnostic]) -> list[Diagnostic]:
    """The diagnostics; of many warnings with one code the first, with a note about the others."""
    kinds: dict[str, list[Diagnostic]] = {}
    for d in shown:
        if d.severity == "warning":
            kinds.setdefault(d.code, []).append(d)
    firsts: list[Diagnostic] = []
    for d in shown:
        alike = kinds.get(d.code, [])
        if len(alike) <= MOST_ALIKE or d.severity != "warning":
            firsts.append(d)
        elif d is alike[0]:
            firsts.append(replace(d, notes=(*d.notes, Note(_about_others(d, alike[1:])))))
    return firsts


def _about_others(first: Diagnostic, others: Sequence[Diagnostic]) -> str:
    """How many warnings are like the first one, and what some of them are about.

    >>> warnings = [Diagnostic("KD0362", f"`s{i}` is never used.", severity="warning") for i in range(99)]
    >>> print(_about_others(warnings[0], warnings[1:]))
    98 more like this, of `s1`, `s2`, `s3`, `s4` and 94 others (`kdplan check --format json` has all)
    """
    known = set(_QUOTED.findall(first.message))
    quoted = ([n for n in _QUOTED.findall(d.message) if n not in known] for d in others)
    names = list(dict.fromkeys(new[0] for new in quoted if new))
    if not names:
        names = list(dict.fromkeys(f"line {d.span.line}" for d in others if d.span is not None))
    of = f", of {', '.join(names[:NAMED])}" if names else ""
    more = f" and {len(names) - NAMED} others" if len(names) > NAMED else ""
    return f"{len(others)} more like this{of}{more} (`kdplan check --format json` has all)"


def _count(shown: Sequence[Diagnostic]) -> str:
    errors = sum(d.severity == "error" for d in shown)
    counts = [(errors, "error"), (len(shown) - errors, "warning")]
    text = ", ".join(f"{n} {what}{'s' if n > 1 else ''}" for n, what in counts if n)
    return f"{text}; run `kdplan explain {shown[0].code}` for details"


def _rendered(d: Diagnostic, paint: _Paint) -> str:
    numbers = [s.end_position[0] for s in (d.span, *(n.span for n in d.notes)) if s is not None]
    margin = len(str(max(numbers, default=1)))
    lines = [paint(d.severity, f"{d.severity}[{d.code}]") + paint("bold", f": {d.message}")]
    if d.span is not None:
        lines += _underlined_lines(d.span, margin, paint, d.severity)
    for note in d.notes:
        lines += _note("note", note, margin, paint)
    if d.help:
        lines += _note("help", Note(d.help), margin, paint)
    return "\n".join(lines)


def _note(label: str, note: Note, margin: int, paint: _Paint) -> list[str]:
    first, *rest = note.text.split("\n")
    indent = " " * (margin + len(label) + 5)
    lines = [f"{' ' * margin} {paint('frame', '=')} {paint('help', label)}: {first}", *(indent + r for r in rest)]
    return lines + (_underlined_lines(note.span, margin, paint, "frame") if note.span is not None else [])


def _underlined_lines(span: Span, margin: int, paint: _Paint, style: str) -> list[str]:
    """The file and position, and the lines of the text with the span underlined."""
    source = span.source
    line, column = source.position(span.start)
    last, end = span.end_position
    if last > line and end == 1:
        last, end = last - 1, len(source.line(last - 1)) + 1  # the span ends with a line end
    blank = " " * margin
    bar = paint("frame", "|")
    lines = [f"{blank}{paint('frame', '-->')} {source.path}:{line}:{column}", f"{blank} {bar}"]

    def add_line(number: int, start: int, stop: int) -> None:
        text, under = _underlined(source.line(number), start, stop)
        lines.append(f"{paint('frame', str(number).rjust(margin))} {bar} {text}".rstrip())
        lines.append(f"{blank} {bar} {paint(style, under)}")

    if last == line:
        add_line(line, column, max(end, column + 1))
        return lines
    add_line(line, column, len(source.line(line)) + 1)
    if last > line + 1:
        lines.append(f"{ELLIPSIS.rjust(margin)} {bar}")
    final = source.line(last)
    add_line(last, len(final) - len(final.lstrip()) + 1, max(end, 2))
    return lines


def _underlined(text: str, start: int, stop: int) -> tuple[str, str]:
    """A line and its underline, for columns `start` (from 1) to `stop` (excluded); long lines are cut around it.

    >>> _underlined("a\\tb", 3, 4)
    ('a   b', '    ^')
    """
    stop = max(stop, start + 1)
    before, marked, after = text[: start - 1], text[start - 1 : stop - 1] or " ", text[stop - 1 :]
    if len(marked) > WIDTH - 20:
        marked = marked[: WIDTH - 21] + ELLIPSIS
        after = ""
    if len(text) > WIDTH:
        room = max(WIDTH - len(marked), 20)
        if len(before) > room // 2:
            before = ELLIPSIS + before[len(before) - room // 2 + 1 :]
        if len(after) > room - len(before):
            after = after[: max(room - len(before) - 1, 0)] + ELLIPSIS
    column = 0
    shown: list[str] = []
    widths: list[int] = []
    for piece in (before, marked, after):
        begin = column
        for char in piece:
            char = " " * (TAB - column % TAB) if char == "\t" else char if char.isprintable() else "\ufffd"
            shown.append(char)
            column += _columns(char)
        widths.append(column - begin)
    return "".join(shown).rstrip() if not after else "".join(shown), " " * widths[0] + "^" * max(widths[1], 1)


def _columns(text: str) -> int:
    """Columns that a terminal gives to one character, or to the spaces of a tab."""
    if len(text) > 1 or text.isascii():
        return len(text)
    return 0 if unicodedata.combining(text) else 2 if unicodedata.east_asian_width(text) in "WF" else 1


# ---- JSON


def to_json(diagnostics: Iterable[Diagnostic], facts: Iterable[str] = ()) -> list[dict[str, Any]]:
    """Diagnostics as plain values; lines and columns count from 1, the end is excluded.

    `facts`, which are no mistakes, follow them with the severity "note" and without a code.

    Examples
    --------
    >>> from kdplan.diagnostics.report import diagnostic
    >>> from kdplan.diagnostics.span import Source
    >>> s = Source("a.kd", "a: 3")
    >>> one = to_json([diagnostic("KD0101", Span(s, 1, 2))])[0]
    >>> one["code"], one["line"], one["column"], one["end_column"], one["help"]
    ('KD0101', 1, 2, 3, None)
    """
    return [
        {
            "code": d.code,
            "message": d.message,
            **_json_location(d.span),
            "help": d.help,
            "severity": d.severity,
            "notes": [{"text": n.text, **_json_location(n.span)} for n in d.notes],
        }
        for d in diagnostics
    ] + [
        {"code": None, "message": fact, **_json_location(None), "help": None, "severity": "note", "notes": []}
        for fact in facts
    ]


def _json_location(span: Span | None) -> dict[str, Any]:
    if span is None:
        return {"file": None, "line": None, "column": None, "end_line": None, "end_column": None}
    end_line, end_column = span.end_position
    return {
        "file": span.file,
        "line": span.line,
        "column": span.column,
        "end_line": end_line,
        "end_column": end_column,
    }


# ---- the explanation of one code


def explain(code: str, check: Callable[[str], Iterable[Diagnostic]] | None = None) -> str | None:
    """What a code means, with an example of the mistake; None for an unknown code.

    Parameters
    ----------
    code
        Such as "KD0205".
    check
        Compiles a plan; with it, the example comes with its message.

    Examples
    --------
    >>> print(explain("KD0107").splitlines()[0])
    KD0107: single quotes
    >>> explain("nothing") is None
    True
    """
    code = code.upper()
    row = table().get(code)
    if row is None:
        return None
    paragraphs = [f"{code}: {row['title']}"]
    paragraphs += [textwrap.fill(p, 100) for p in row["explain"].strip().split("\n\n")]
    if row.get("bad"):
        plan = row["bad"][0]["plan"].strip("\n")
        plan_shown = plan if len(plan) <= LONGEST else f"{plan[:LONGEST].rpartition(chr(10))[0]}\n…"
        paragraphs.append("For example\n\n" + textwrap.indent(plan_shown, "    "))
        answers = [d for d in check(plan) if d.code == code] if check is not None else []
        if answers:
            paragraphs.append("gives\n\n" + textwrap.indent(_rendered(answers[0], _Paint(False)), "    "))
    if "help" in row and "{" not in row["help"]:
        paragraphs.append(row["help"])
    return "\n\n".join(paragraphs)
