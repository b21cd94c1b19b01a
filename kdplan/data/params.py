"""Parameters of sources and transforms: one table says what may be written, and checks what was."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from kdplan.diagnostics.report import error, nearest
from kdplan.diagnostics.span import Span
from kdplan.ir.spec import Param

Arguments = Mapping[str, Any]
"""Arguments of a call by name, as `bind` gives them: of the types that the row's parameters have."""

_WORDS = {
    "integer": "an integer",
    "number": "a number",
    "boolean": "a boolean",
    "string": "a string",
    "numbers": "a list of numbers",
}


def expected(param: Param) -> str:
    """What may stand here, in words.

    >>> expected(Param("pad", "integer", 4, low=0))
    'an integer, at least 0'
    """
    word, low, high = _WORDS[param.type], param.low, param.high
    if low is not None and high is not None:
        return f"{word} from {low:g} to {high:g}"
    if low is not None:
        return f"{word}, at least {low:g}"
    return f"{word}, at most {high:g}" if high is not None else word


def accepts(param: Param, value: object) -> bool:
    """Whether `value` has the right type and range; None has where it is the default.

    >>> accepts(Param("pad", "integer", 4, low=0), -1)
    False
    """
    if value is None:
        return param.default is None
    if param.type == "boolean":
        return isinstance(value, bool)
    if param.type == "string":
        return isinstance(value, str)
    if param.type == "numbers":
        return isinstance(value, Sequence) and not isinstance(value, str) and all(_number(param, v) for v in value)
    return _number(param, value)


def _number(param: Param, value: object) -> bool:
    kinds = (int,) if param.type == "integer" else (int, float)
    if isinstance(value, bool) or not isinstance(value, kinds) or value != value:
        return False
    return (param.low is None or value >= param.low) and (param.high is None or value <= param.high)


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
    >>> bind("crop", [Param("size", "integer"), Param("pad", "integer", 4)], [32], {})
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
                raise error("KD0722", span, owner=owner, arg=p.name, expected=expected(p))
            full[p.name] = p.default
            continue
        if not accepts(p, given[p.name]):
            raise error("KD0721", span, owner=owner, arg=p.name, expected=expected(p), found=repr(given[p.name]))
        full[p.name] = given[p.name]
    full.update({n: v for n, v in given.items() if n not in known})
    return full
