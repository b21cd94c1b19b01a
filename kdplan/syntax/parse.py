"""Text to tree.

The loop below is an LALR parser over the table of `grammar.table`. Chains of rules that only pass a value on (an
operand is a factor is a term is a sum …) are taken in one step, which is what keeps long plans fast.
"""

from __future__ import annotations

import gc
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

from kdplan.diagnostics.report import PlanError, Reporter
from kdplan.diagnostics.span import Source
from kdplan.syntax import ast
from kdplan.syntax.build import Builder, TooDeep
from kdplan.syntax.grammar import END, Table, table
from kdplan.syntax.lexer import Token, tokens

MAX_NESTING = 200  # entries of the parser's stack, so that those who walk the tree may recurse


class Stuck(Exception):
    """The parser met a token that cannot follow."""

    def __init__(self, token: Token, expected: set[str], too_deep: bool = False) -> None:
        super().__init__(token)
        self.token = token
        self.expected = expected
        self.too_deep = too_deep


def parse(source: Source) -> ast.File:
    """The tree of a plan.

    Parameters
    ----------
    source
        The plan's text.

    Raises
    ------
    PlanError
        With all the mistakes of form that were found.

    Examples
    --------
    >>> file = parse(Source("a.kd", "student small = resnet20"))
    >>> file.declarations[0].name
    'small'
    """
    reporter = Reporter()
    file = parse_recovering(source, reporter)
    reporter.raise_if_errors()
    return file


def parse_recovering(source: Source, reporter: Reporter) -> ast.File:
    """The tree of what can be parsed; mistakes go to `reporter`.

    >>> reporter = Reporter()
    >>> file = parse_recovering(Source("a.kd", "student a = = b\\nstudent c = d"), reporter)
    >>> [d.name for d in file.declarations], len(reporter.errors)
    (['c'], 1)
    """
    builder = Builder(source)
    with _collector_paused():
        try:
            items = run(tokens(source.text), builder)
        except Stuck:
            from kdplan.syntax.recover import recover  # only needed for wrong plans

            items = recover(source, builder, reporter)
    reporter.add(builder.problems)
    return ast.File(source, items)


def run(stream: Iterable[Token], builder: Builder) -> list[ast.Item]:
    """Parse tokens that end with `$END`.

    Raises
    ------
    Stuck
        At the first token that cannot follow.
    """
    made: Table = table()
    actions, gotos, settled, accept = made.actions, made.gotos, made.settled, made.accept
    rules = [(r.size, r.origin, None if r.unit else getattr(builder, r.method)) for r in made.rules]
    states = [made.start]
    values: list[Any] = []
    token = Token(END, "", 0, 0)
    try:
        for token in stream:
            kind = token.kind
            while True:
                top = states[-1]
                action = actions[top].get(kind)
                if action is None:
                    raise Stuck(token, set(actions[top]))
                if action >= 0:
                    states.append(action)
                    values.append(token)
                    break
                size, origin, method = rules[~action]
                if method is None:
                    key = (states[-2], top, kind)
                    state = settled.get(key)
                    states[-1] = _settle(made, key) if state is None else state
                    continue
                if size:
                    taken = values[-size:]
                    del values[-size:]
                    del states[-size:]
                else:
                    taken = []
                values.append(method(taken))
                states.append(gotos[states[-1]][origin])
                if states[-1] == accept and kind == END:
                    return values[-1]  # type: ignore[no-any-return]
            if len(states) > MAX_NESTING:
                raise Stuck(token, set(), too_deep=True)
    except TooDeep:
        raise Stuck(token, set(), too_deep=True) from None
    raise AssertionError("the tokens did not end with $END")


def _settle(made: Table, key: tuple[int, int, str]) -> int:
    """The state on top once all unit rules that apply before `kind` have been taken; remembered."""
    below, top, kind = key
    while True:
        action = made.actions[top].get(kind)
        if action is None or action >= 0 or not made.rules[~action].unit:
            break
        top = made.gotos[below][made.rules[~action].origin]
    made.settled[key] = top
    return top


@contextmanager
def _collector_paused() -> Iterator[None]:
    """Without the cyclic collector: a tree has no cycles, and looking for them takes most of the time."""
    was_on = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if was_on:
            gc.enable()


__all__ = ["PlanError", "parse", "parse_recovering"]
