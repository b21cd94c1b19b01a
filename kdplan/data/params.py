"""Parameters of sources and transforms: one table says what may be written, and checks what was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from kdplan.diagnostics.report import error, nearest
from kdplan.diagnostics.span import Span

REQUIRED: Any = object()
"""The default of a parameter that must be given."""


@dataclass(frozen=True, slots=True)
class Param:
    """One parameter of a source or a transform.

    Parameters
    ----------
    name : str
    type : str
        `int`, `float`, `bool`, `str` or `floats` (a list of numbers).
    default : object
        `REQUIRED` where there is none.
    doc : str
        One sentence for the reference.
    low, high : float, optional
        The range that numbers must keep to, both ends included.
    optional : bool
        Whether None (leave it out) is a value.
    """

    name: str
    type: str
    default: Any
    doc: str
    low: float | None = None
    high: float | None = None
    optional: bool = False

    @property
    def required(self) -> bool:
        return self.default is REQUIRED

    def expected(self) -> str:
        """What may stand here, in words.

        >>> Param("pad", "int", 4, "", low=0).expected()
        'a whole number, at least 0'
        """
        word = {
            "int": "a whole number",
            "float": "a number",
            "bool": "true or false",
            "str": "a text",
            "floats": "a list of numbers",
        }[self.type]
        if self.low is not None and self.high is not None:
            return f"{word} from {self.low:g} to {self.high:g}"
        if self.low is not None:
            return f"{word}, at least {self.low:g}"
        return f"{word}, at most {self.high:g}" if self.high is not None else word

    def accepts(self, value: object) -> bool:
        """Whether `value` has the right type and range.

        >>> Param("pad", "int", 4, "", low=0).accepts(-1)
        False
        """
        if value is None:
            return self.optional
        if self.type == "bool":
            return isinstance(value, bool)
        if self.type == "str":
            return isinstance(value, str)
        if self.type == "floats":
            return isinstance(value, Sequence) and not isinstance(value, str) and all(map(self._number, value))
        return self._number(value)

    def _number(self, value: object) -> bool:
        kinds = (int,) if self.type == "int" else (int, float)
        if isinstance(value, bool) or not isinstance(value, kinds) or value != value:
            return False
        return (self.low is None or value >= self.low) and (self.high is None or value <= self.high)


def bind(
    owner: str,
    params: Sequence[Param],
    positional: Sequence[object],
    named: Mapping[str, object],
    span: Span | None = None,
    *,
    extra: bool = False,
) -> dict[str, Any]:
    """The full, checked arguments of one call.

    Parameters
    ----------
    owner : str
        The name that errors speak of.
    params : sequence of Param
    positional, named
        What was written; names may also carry what a user's own function takes, if `extra`.

    Raises
    ------
    PlanError
        KD0720 unknown, KD0721 wrong type or range, KD0722 missing, KD0723 too many or given twice.

    Examples
    --------
    >>> bind("crop", [Param("size", "int", REQUIRED, ""), Param("pad", "int", 4, "")], [32], {})
    {'size': 32, 'pad': 4}
    """
    known = {p.name: p for p in params}
    if len(positional) > len(params):
        raise error("KD0723", span, owner=owner, limit=len(params), found=len(positional))
    given: dict[str, object] = dict(zip(known, positional, strict=False))
    for name, value in named.items():
        if name in given:
            raise error("KD0724", span, owner=owner, arg=name)
        if name not in known and not extra:
            raise error("KD0720", span, owner=owner, arg=name, nearest=nearest(name, known), known=", ".join(known))
        given[name] = value
    full: dict[str, Any] = {}
    for p in params:
        if p.name not in given:
            if p.required:
                raise error("KD0722", span, owner=owner, arg=p.name, expected=p.expected())
            full[p.name] = p.default
            continue
        if not p.accepts(given[p.name]):
            raise error("KD0721", span, owner=owner, arg=p.name, expected=p.expected(), found=repr(given[p.name]))
        full[p.name] = given[p.name]
    full.update({n: v for n, v in given.items() if n not in known})
    return full
