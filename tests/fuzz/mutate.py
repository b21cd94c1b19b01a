"""Changes of plans at random: tokens, values, settings, whole declarations, and parts of other plans."""

from __future__ import annotations

import random
from collections.abc import Callable
from functools import cache

from kdplan.constructs.table import KINDS
from kdplan.ir.functions import RESERVED
from kdplan.resolve.choices import choices
from kdplan.syntax.grammar import BRACKETS
from kdplan.syntax.lexer import Token, tokens
from tests.fuzz.corpus import originals
from tests.fuzz.values import VALUES

NUMBERS = ("0", "1", "2", "7", "-1", "0.5", "1000", "100000", "1000000000", "10 ** 18", "2 ** 63", "10 ** 400", "1e308",
           "1e-308", "0 / 0", "1..3", "0..1000000000", "1000000000000")  # fmt: skip
BETWEEN = ("+", "-", "*", "/", "**", "==", "<", "..", "->", ",", "=", "~", ".", "@", "for i in 0..2", "in", "of", "on")


@cache
def _words() -> list[str]:
    """Names of the language, settings and rows of tables."""
    rows = [name for table in choices().values() for name in table]
    settings = [s.name for kind in KINDS.values() for s in kind.settings]
    return sorted({*RESERVED, *rows, *settings, *KINDS, "train", "test", "best", "last", "init", "classes"})


def mutated(text: str, draw: random.Random) -> str:
    """A plan with one to four changes; more in a long one."""
    most = 4 if len(text) < 4000 else 8
    for _ in range(draw.randint(1, most)):
        text = draw.choices([c for c, _ in CHANGES], [w for _, w in CHANGES])[0](text, draw)
    return text[:100_000]


def _tokens(text: str) -> list[Token]:
    return list(tokens(text))[:-1]


def _replaced(text: str, start: int, end: int, new: str) -> str:
    return f"{text[:start]}{new}{text[end:]}"


def _some(text: str, draw: random.Random, *kinds: str) -> Token | None:
    found = [t for t in _tokens(text) if not kinds or t.kind in kinds]
    return draw.choice(found) if found else None


def _value(draw: random.Random) -> str:
    return draw.choice([*VALUES.values()])


def number(text: str, draw: random.Random) -> str:
    """Another number in the place of one."""
    t = _some(text, draw, "NUMBER")
    return text if t is None else _replaced(text, t.start, t.end, draw.choice(NUMBERS))


def name(text: str, draw: random.Random) -> str:
    """Another name: of the plan, or of the language."""
    t = _some(text, draw, "NAME")
    own = [o.text for o in _tokens(text) if o.kind == "NAME"]
    return (
        text if t is None else _replaced(text, t.start, t.end, draw.choice([draw.choice(own), draw.choice(_words())]))
    )


def token(text: str, draw: random.Random) -> str:
    """A token that is left out, doubled, or replaced by one of any plan."""
    t = _some(text, draw)
    if t is None:
        return text
    other = _some(draw.choice(originals()).text, draw) or t
    new = draw.choice(["", f"{t.text} {t.text}", f" {other.text} ", f" {draw.choice(BETWEEN)} "])
    return _replaced(text, t.start, t.end, new)


def swap(text: str, draw: random.Random) -> str:
    """Two tokens in each other's place."""
    one, two = _some(text, draw), _some(text, draw)
    if one is None or two is None or one.start == two.start:
        return text
    one, two = sorted((one, two), key=lambda t: t.start)
    return f"{text[: one.start]}{two.text}{text[one.end : two.start]}{one.text}{text[two.end :]}"


def _expression(text: str, draw: random.Random) -> tuple[int, int] | None:
    """Where a value stands: a name, number, string or bracket, with what follows it without a gap in the grammar."""
    parts = _tokens(text)
    starts = [
        i for i in range(1, len(parts)) if parts[i - 1].text in ("=", "(", ",", "[", "+", "*", "of", "on", "in", "with")
    ]
    if not starts:
        return None
    i = draw.choice(starts)
    end = i
    while end < len(parts):
        if parts[end].kind in BRACKETS:
            end = _closing(parts, end)
        following = parts[end + 1].kind if end + 1 < len(parts) else ""
        if following in ("DOT", "AT") and end + 2 < len(parts):
            end += 2
        elif following in ("LPAR", "LSQB") and parts[end].kind in ("NAME", "RPAR", "RSQB"):
            end += 1
        else:
            break
    return parts[i].start, parts[min(end, len(parts) - 1)].end


def _closing(parts: list[Token], at: int) -> int:
    depth = 0
    for i in range(at, len(parts)):
        depth += (parts[i].kind in BRACKETS) - (parts[i].kind in BRACKETS.values())
        if depth <= 0:
            return i
    return len(parts) - 1


def value(text: str, draw: random.Random) -> str:
    """A value of any kind in the place of another."""
    at = _expression(text, draw)
    return text if at is None else _replaced(text, *at, _value(draw))


def wrapped(text: str, draw: random.Random) -> str:
    """A value inside a call, a list, a comprehension or an operation."""
    at = _expression(text, draw)
    if at is None:
        return text
    old = text[at[0] : at[1]]
    word = draw.choice(_words())
    form = draw.choice(["{w}({old})", "[{old}]", "sum({old} for i in {v})", "({old} + {v})", "{old}[{v}]", "{old}.{w}",
                        "{old}@{w}", "{w}({old}, {v})", "{w}({old}, {w} = {v})", "[{old} for i in {v} for j in {v}]",
                        "{old}({v})", "-{old}", "{old} ** {v}", "({old})..{v}"])  # fmt: skip
    return _replaced(text, *at, form.format(old=old, w=word, v=_value(draw)))


def argument(text: str, draw: random.Random) -> str:
    """One more argument of a call, item of a list, or index."""
    t = _some(text, draw, "LPAR", "LSQB")
    if t is None:
        return text
    new = draw.choice(["{v}, ", "{w} = {v}, ", "{v}"]).format(v=_value(draw), w=draw.choice(_words()))
    return _replaced(text, t.end, t.end, new)


def setting(text: str, draw: random.Random) -> str:
    """One more setting in a body."""
    t = _some(text, draw, "LBRACE")
    return text if t is None else _replaced(text, t.end, t.end, f" {draw.choice(_words())} = {_value(draw)} ")


def _declarations(text: str) -> list[tuple[int, int]]:
    """Where declarations begin and end: at names in the first column."""
    starts = [t.start for t in _tokens(text) if t.kind == "NAME" and (t.start == 0 or text[t.start - 1] == "\n")]
    return list(zip(starts, [*starts[1:], len(text)], strict=False))


def declaration(text: str, draw: random.Random) -> str:
    """A declaration that is left out, doubled, or put elsewhere."""
    parts = _declarations(text)
    if not parts:
        return text
    start, end = draw.choice(parts)
    old = text[start:end]
    rest = _replaced(text, start, end, "")
    return draw.choice([rest, f"{text}\n{old}", f"{old}\n{rest}", f"{rest}\n{old}"])


def spliced(text: str, draw: random.Random) -> str:
    """A declaration of another plan in this one."""
    other = draw.choice(originals()).text
    parts = _declarations(other)
    if not parts:
        return text
    start, end = draw.choice(parts)
    return f"{text}\n{other[start:end]}" if draw.random() < 0.5 else f"{other[start:end]}\n{text}"


def axis(text: str, draw: random.Random) -> str:
    """A new param, most often with many values, that something reads."""
    new = draw.choice(NUMBERS)
    at = _expression(text, draw)
    if at is not None:
        text = _replaced(text, *at, f"({text[at[0] : at[1]]} * many)" if draw.random() < 0.5 else "many")
    return f"param many in {draw.choice(['0..' + new, '[' + new + ', 1]', '1..100', '1..3000'])}\n{text}"


CHANGES: list[tuple[Callable[[str, random.Random], str], int]] = [
    (number, 3), (name, 3), (token, 2), (swap, 1), (value, 6), (wrapped, 3), (argument, 3), (setting, 2),
    (declaration, 1), (spliced, 1), (axis, 1),
]  # fmt: skip
"""Each change, and how often it is made."""
