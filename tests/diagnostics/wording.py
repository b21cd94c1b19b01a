"""The rules of docs/style.md for messages, as functions."""

from __future__ import annotations

import re
from functools import cache
from pathlib import Path

STYLE = Path(__file__).parents[2] / "docs" / "style.md"
USUAL = ("moving average", "in place", "takes place")  # terms of the field that hold a word of the column
IMPERATIVE = re.compile(
    r"(Add|Begin|Call|Check|Choose|Close|Compare|Copy|Count|Declare|Delete|Do|End|Export|Free|Give|Halve|Install|Join|"
    r"Leave|List|Make|Match|Measure|Multiply|Name|Pick|Put|Read|Reduce|Remove|Rename|Report|Run|Save|See|Separate|Set|"
    r"Store|Swap|Sweep|Tap|Train|Try|Use|Wait|Write)\b"
)


@cache
def never() -> re.Pattern[str]:
    """One expression for all entries of the column *never*, in all their forms; notes in round brackets are no entries.

    >>> [m.group() for m in never().finditer("It moves, is spliced, and places are told.")]
    ['moves', 'spliced', 'places', 'told']
    """
    rows = re.findall(r"(?m)^\|[^|]*\|[^|]*\|([^|]*)\|$", STYLE.read_text(encoding="utf-8"))
    entries = re.sub(r"\([^)]*\)", "", ", ".join(rows[2:])).replace('"', "").split(",")
    return re.compile("|".join(_forms(entry.split()) for entry in entries if entry.strip()), re.IGNORECASE)


def _forms(words: list[str]) -> str:
    forms = [rf"{w}(?:s|d|ed)?|{w.removesuffix('e')}ing" + ("|told" if w == "tell" else "") for w in words]
    return r"\b" + r"\s+".join(f"(?:{f})" for f in forms) + r"\b"


def old_words(text: str) -> list[str]:
    """The words of the column *never* in a message; code in backticks and values in braces do not count.

    >>> old_words("`{place}` moves, as a moving average of `text`.")
    ['moves']
    """
    plain = re.sub(r"`[^`]*`|\{[^{}]*\}", " ", text)
    for usual in USUAL:
        plain = plain.replace(usual, " ")
    return [m.group() for m in never().finditer(plain)]


def is_help(text: str) -> bool:
    """Whether a help says what to do, or asks whether a name was meant, in whole sentences.

    >>> is_help("Add `epochs = 10` to the recipe."), is_help("Did you mean `epochs`?"), is_help("`epochs = 10`")
    (True, True, False)
    """
    if not text.endswith((".", "?")):
        return False
    return text.startswith("Did you mean ") or IMPERATIVE.match(text) is not None
