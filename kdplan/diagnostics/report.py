"""Messages about a plan: codes, messages, locations and fixes.

Every message stands in the tables `errors/*.toml`. The compiler names a row and gives its values.
"""

from __future__ import annotations

import difflib
import re
import string
import tomllib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from functools import cache
from importlib import resources
from typing import Any, Literal

from kdplan.diagnostics.span import Span
from kdplan.diagnostics.synonyms import SYNONYMS, forms, plain

Severity = Literal["error", "warning"]
EXCERPT = 60  # characters of a plan that a message quotes
_SILENCED: set[str] = set()


@dataclass(frozen=True, slots=True)
class Note:
    """One more fact about a mistake, with its location where it has one."""

    text: str
    span: Span | None = None


@dataclass(frozen=True, slots=True)
class Diagnostic:
    """One message about a plan."""

    code: str
    message: str
    span: Span | None = None
    help: str | None = None
    notes: tuple[Note, ...] = ()
    severity: Severity = "error"


class PlanError(Exception):
    """A plan has mistakes: `diagnostics` holds their messages.

    Without any it stands for a mistake that another part has reported: whatever depends on it stops without a message.
    """

    def __init__(self, diagnostics: Sequence[Diagnostic]) -> None:
        self.diagnostics = [d for d in diagnostics if d.code not in _SILENCED]
        super().__init__()

    def __str__(self) -> str:
        more = len(self.diagnostics) - MOST_LINES
        lines = [one_line(d) for d in self.diagnostics[:MOST_LINES]]
        return "\n".join([*lines, *([f"and {counted(more, 'more mistake')}"] if more > 0 else [])])


MOST_LINES = 5
WRITTEN = "written here"
"""The text of the note that names the line of Python which wrote a declaration."""


def one_line(d: Diagnostic) -> str:
    """A diagnostic with its help, and the line of Python that it comes from, or else its location in the plan.

    >>> one_line(Diagnostic("KD0501", "`small` has no tap `x`.", help="Did you mean `fc`?"))
    'KD0501: `small` has no tap `x`. Did you mean `fc`?'
    """
    python = next((f"{n.span.file}:{n.span.line}" for n in d.notes if n.text == WRITTEN and n.span is not None), None)
    where = python or (str(d.span) if d.span is not None else "")
    return ": ".join(p for p in (where, d.code, d.message) if p) + (f" {d.help}" if d.help else "")


@contextmanager
def silenced(code: str) -> Iterator[None]:
    """Without the check `code`: for the test that each row of the table fails without its check."""
    _SILENCED.add(code)
    try:
        yield
    finally:
        _SILENCED.discard(code)


@cache
def table() -> dict[str, dict[str, Any]]:
    """All rows: code -> {title, message, help?, explain, severity?, bad: […]}; errors/README.md has the format."""
    rows: dict[str, dict[str, Any]] = {}
    for file in sorted((resources.files("kdplan.diagnostics") / "errors").iterdir(), key=lambda f: f.name):
        if file.name.endswith(".toml"):
            for code, row in tomllib.loads(file.read_text(encoding="utf-8")).items():
                if code in rows:
                    raise ValueError(f"{file.name}: {code} is in two tables")
                rows[code] = row
    return rows


class _Filler(string.Formatter):
    """`{what!c}` is the value with a capital letter, for the beginning of a sentence."""

    def convert_field(self, value: object, conversion: str | None) -> object:
        """The value of a placeholder, converted."""
        if conversion == "c":
            text = str(value)
            return text[:1].upper() + text[1:]
        return super().convert_field(value, conversion)


_FILL = _Filler().vformat


def diagnostic(
    code: str,
    span: Span | None,
    /,
    *,
    notes: Iterable[Note] = (),
    help: str | None = None,
    **values: object,
) -> Diagnostic:
    """The row `code`, filled with `values`, and with `excerpt`: the source that `span` covers.

    The row's help is left out where one of its values is missing, None or "".

    Raises
    ------
    KeyError
        If there is no such row, or its message names a value that is not given.
    """
    row = table()[code]
    values.setdefault("excerpt", _excerpt(span))
    if help is None and "help" in row:
        needed = {name for _, name, _, _ in string.Formatter().parse(row["help"]) if name}
        if all(values.get(name) not in (None, "") for name in needed):
            help = _FILL(row["help"], (), values)
    return Diagnostic(code, _FILL(row["message"], (), values), span, help, tuple(notes), row.get("severity", "error"))


def _excerpt(span: Span | None) -> str:
    """What a span covers, on one line and shortened, so that a message stands alone without the source line.

    >>> from kdplan.diagnostics.span import Source
    >>> _excerpt(Span(Source("a.kd", "a  =\\n  b"), 0, 8))
    'a = b'
    """
    if span is None:
        return ""
    excerpt = " ".join(span.source.text[span.start : min(span.end, span.start + 10 * EXCERPT)].split())
    return excerpt if len(excerpt) <= EXCERPT else f"{excerpt[: EXCERPT - 1]}…"


def error(
    code: str, span: Span | None, /, *, notes: Iterable[Note] = (), help: str | None = None, **values: object
) -> PlanError:
    """`diagnostic` as an exception, to be raised where the caller cannot continue."""
    return PlanError([diagnostic(code, span, notes=notes, help=help, **values)])


@dataclass
class Gather:
    """Lets independent parts fail one by one, so that all their mistakes are reported.

    Examples
    --------
    >>> gather = Gather()
    >>> for n in (1, 2):
    ...     with gather:
    ...         raise PlanError([Diagnostic("KD0106", f"Mistake {n}.")])
    >>> gather.raise_if_failed()
    Traceback (most recent call last):
    ...
    kdplan.diagnostics.report.PlanError: KD0106: Mistake 1.
    KD0106: Mistake 2.
    """

    diagnostics: list[Diagnostic] = field(default_factory=list)
    failed: bool = False

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: type[BaseException] | None, problem: BaseException | None, trace: object) -> bool:
        if isinstance(problem, PlanError):
            self.failed = True
            self.diagnostics += [d for d in problem.diagnostics if d not in self.diagnostics]
            return True
        return False

    def raise_if_failed(self) -> None:
        """Raise a `PlanError` with all messages if a part failed."""
        if self.failed:
            raise PlanError(self.diagnostics)


_POINT = re.compile(r"\[[^\[\]]*=[^\[\]]*\]")
"""Coordinates in a name: `[seed=0, weight=5]`."""


_ALSO = "also here"
MOST_NOTES = 5  # other locations of one mistake that are shown


def _mistakes(d: Diagnostic) -> tuple[object, object]:
    """What a diagnostic has in common with others about the same mistake, None for nothing: one name in several lines
    of a file, and one line (of a `def`, say) for several networks."""
    if d.span is None or d.code.startswith("KD01"):  # each mistake of form is one of its own
        return None, None
    by_name = (d.code, d.help, id(d.span.source), _POINT.sub("", d.message)) if "`" in d.message else None
    return by_name, (d.code, d.help, d.span) if d.code.startswith(("KD05", "KD06")) else None


@dataclass
class Reporter:
    """Collects diagnostics, so that one run reports as many mistakes as it can.

    The same mistake at every point of a sweep is reported once, for its first point. Where one name is wrong in several
    lines, or one line is wrong for several networks, the first message has notes about the others.

    Examples
    --------
    >>> reporter = Reporter()
    >>> for w in (1, 5):
    ...     reporter.report("KD0223", None, name=f"kd[w={w}]")
    >>> [d.message for d in reporter.diagnostics]
    ['Phase `kd[w=1]` has no loss.']
    """

    diagnostics: list[Diagnostic] = field(default_factory=list)
    _known: set[tuple[str, Span | None, str]] = field(default_factory=set, repr=False)
    _first: dict[object, int] = field(default_factory=dict, repr=False)
    """What diagnostics have in common -> which is the first of these."""
    _indexed: int = field(default=0, repr=False)

    def report(
        self,
        code: str,
        span: Span | None,
        /,
        *,
        notes: Iterable[Note] = (),
        help: str | None = None,
        **values: object,
    ) -> None:
        """Add the row `code`, filled with `values`."""
        self.add([diagnostic(code, span, notes=notes, help=help, **values)])

    def add(self, diagnostics: Iterable[Diagnostic]) -> None:
        """Add diagnostics that are not yet reported at another point of a sweep."""
        for d in diagnostics:
            key = (d.code, d.span, _POINT.sub("", d.message))
            if key not in self._known and d.code not in _SILENCED:
                self._known.add(key)
                self._fold(d)

    def _fold(self, d: Diagnostic) -> None:
        """Add a diagnostic, or a note to an earlier one about the same mistake."""
        if self._indexed > len(self.diagnostics):  # some were taken out
            self._first, self._indexed = {}, 0
        for i in range(self._indexed, len(self.diagnostics)):
            for common in _mistakes(self.diagnostics[i]):
                self._first.setdefault(common, i)
        self._indexed = len(self.diagnostics)
        by_name, by_line = _mistakes(d)
        named, lined = (self._first.get(m) if m is not None else None for m in (by_name, by_line))
        if named is None and lined is None:
            self.diagnostics.append(d)
            return
        at, note = (lined, Note(d.message)) if named is None else (named, Note(_ALSO, d.span))
        first = self.diagnostics[at or 0]
        if len([n for n in first.notes if n.text in (_ALSO, note.text)]) < MOST_NOTES:
            self.diagnostics[at or 0] = replace(first, notes=(*first.notes, note))

    @property
    def errors(self) -> list[Diagnostic]:
        """The diagnostics that are errors and no warnings."""
        return [d for d in self.diagnostics if d.severity == "error"]

    def raise_if_errors(self) -> None:
        """Raise a `PlanError` with all diagnostics, in the order of the source, if one is an error."""
        if self.errors:
            raise PlanError(sorted(self.diagnostics, key=_location))


def _location(d: Diagnostic) -> tuple[str, int, str]:
    return (d.span.file, d.span.start, d.code) if d.span else ("", -1, d.code)


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name that `name` was most likely meant to be, or None.

    In this order: another spelling of it, a synonym in the field, the one with the most letters in common.

    >>> nearest("smal", ["small", "big"])
    'small'
    >>> nearest("MultiStepLR", ["constant", "steps"]), nearest("CrossEntropyLoss", ["cross_entropy"])
    ('steps', 'cross_entropy')
    """
    names: dict[str, str] = {}
    for one in known:
        names.setdefault(plain(one), one)
    for form in forms(name):
        for word in (form, *SYNONYMS.get(form, ())):
            if plain(word) in names:
                return names[plain(word)]
    close = difflib.get_close_matches(plain(name), names, n=1, cutoff=0.6)
    return names[close[0]] if close else None


def suggestion(name: str, known: Iterable[str], limit: int = 12) -> str | None:
    """The help for a name that is not among `known`: the nearest one, else all of them.

    >>> suggestion("smal", ["small", "big"])
    'Did you mean `small`?'
    >>> suggestion("x", ["small", "big"])
    'Choose from `small` and `big`.'
    """
    known = list(known)
    near = nearest(name, known)
    if near:
        return f"Did you mean `{near}`?"
    return f"Choose from {listing(known, limit)}." if known else None


def counted(number: int, what: str, plural: str | None = None) -> str:
    """A number with its noun.

    >>> counted(1, "argument"), counted(2, "index", "indices")
    ('1 argument', '2 indices')
    """
    return f"{number} {what if number == 1 else plural or what + 's'}"


def listing(names: Iterable[str], limit: int = 12) -> str:
    """Names for a sentence, cut where there are many.

    >>> listing(["a", "b", "c"])
    '`a`, `b` and `c`'
    """
    return joined([f"`{n}`" for n in names], limit)


def joined(texts: Sequence[str], limit: int = 12) -> str:
    """Parts of a sentence with commas and `and`, cut where there are many.

    >>> joined(["`a` (1)", "`b` (2)", "`c` (3)"], limit=2)
    '`a` (1), `b` (2) and 1 more'
    """
    if len(texts) > limit:
        texts = [*texts[:limit], f"{len(texts) - limit} more"]
    return texts[0] if len(texts) == 1 else f"{', '.join(texts[:-1])} and {texts[-1]}" if texts else "nothing"
