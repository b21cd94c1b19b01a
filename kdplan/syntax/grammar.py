"""The grammar file, and the tables that the parser runs on.

Lark reads `kdplan.lark` and computes the LALR table. The parser's own loop (see `parse`) then runs over that table,
because it must build the tree directly, report a mistake from its stack, and continue after it.
"""

from __future__ import annotations

import re
from dataclasses import asdict, dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kdplan.syntax import tables

if TYPE_CHECKING:
    from lark import Lark

END = "$END"
STRAY = "STRAY"  # a character that no terminal matches
SKIPPED = ("SPACE", "COMMENT")
RESERVED = {"PREP", "FOR", "IN"}
ENDS_VALUE = {"NAME", "NUMBER", "STRING", "RPAR", "RSQB"}
BRACKETS = {"LPAR": "RPAR", "LSQB": "RSQB", "LBRACE": "RBRACE"}  # opening -> closing


@dataclass(slots=True)
class Rule:
    """One production: how many symbols it takes off the stack, and the builder's method for them."""

    origin: str
    size: int
    method: str
    unit: bool  # passes its only symbol on


@dataclass(slots=True)
class Table:
    """The LALR table with states as small integers.

    `actions[state][kind]` is the state to shift to, or `~index` of the rule to reduce by.
    """

    start: int
    accept: int
    actions: list[dict[str, int]]
    gotos: list[dict[str, int]]
    rules: list[Rule]
    scanner: re.Pattern[str]
    # (state below, state on top, next kind) -> state on top after all unit rules that apply, and the action there;
    # filled while parsing
    settled: dict[tuple[int, int, str], tuple[int, int | None]] = field(default_factory=dict)


def grammar_text() -> str:
    """The grammar's source: packaged with this module, or the checkout's `grammar/kdplan.lark`.

    >>> "start: item*" in grammar_text()
    True
    """
    packaged = resources.files("kdplan.syntax") / "kdplan.lark"
    if packaged.is_file():
        return packaged.read_text(encoding="utf-8")
    return (Path(__file__).parents[2] / "grammar" / "kdplan.lark").read_text(encoding="utf-8")


@cache
def table() -> Table:
    """The compiled grammar, kept for later processes."""
    text = grammar_text()
    name = tables.name_of(text, __file__)
    kept = tables.read(name)
    if kept is None:
        kept = _compiled(text)
        tables.write(name, kept)
    rules = [Rule(**rule) for rule in kept["rules"]]
    scanner = re.compile(kept["scanner"], re.DOTALL)
    return Table(kept["start"], kept["accept"], kept["actions"], kept["gotos"], rules, scanner)


def _compiled(text: str) -> dict[str, Any]:
    """The fields of a `Table` as plain values (0.1 s)."""
    from lark import Lark

    lark = Lark(text, parser="lalr", lexer="basic", maybe_placeholders=False)
    parser = lark.parse_interactive("").parser_state.parse_conf
    numbers = {state: i for i, state in enumerate(parser.states)}
    rules: list[Rule] = []
    seen: dict[object, int] = {}
    actions: list[dict[str, int]] = []
    gotos: list[dict[str, int]] = []
    for row in parser.states.values():
        shifts, jumps = {}, {}
        for symbol, (action, arg) in row.items():
            if action.name == "Reduce":
                if arg not in seen:
                    seen[arg] = len(rules)
                    rules.append(_rule(arg))
                shifts[symbol] = ~seen[arg]
            elif symbol.isupper():
                shifts[symbol] = numbers[arg]
            else:
                jumps[symbol] = numbers[arg]
        actions.append(shifts)
        gotos.append(jumps)
    return {
        "start": numbers[parser.start_state],
        "accept": numbers[parser.end_state],
        "actions": actions,
        "gotos": gotos,
        "rules": [asdict(rule) for rule in rules],
        "scanner": _scanner(lark),
    }


def _rule(rule: Any) -> Rule:
    origin, alias, size = rule.origin.name, rule.alias, len(rule.expansion)
    unit = bool(size == 1 and rule.options.expand1 and not alias)
    method = (
        "grow"
        if origin.startswith("_") and rule.expansion[0].name == origin
        else ("begin" if origin.startswith("_") else alias or origin)
    )
    return Rule(str(origin), size, str(method), unit)


def _scanner(lark: Lark) -> str:
    """One expression for all terminals, the more specific first; space and comments are skipped before each."""
    terminals = sorted(lark.terminals, key=lambda t: (-t.priority, -t.pattern.max_width, -len(t.pattern.value), t.name))
    one = [f"(?P<{t.name}>{t.pattern.to_regexp()})" for t in terminals if t.name not in SKIPPED]
    skipped = "|".join(t.pattern.to_regexp() for t in terminals if t.name in SKIPPED)
    return f"(?:{skipped})*(?:{'|'.join(one)}|(?P<END>\\Z)|(?P<{STRAY}>.))"
