"""From a plan's source to its tree.

The loop below is an LALR parser over the table of `grammar.table`. Chains of rules that only pass a value on (an
operand is a factor is a term is a sum …) are taken in one step, which is what keeps long plans fast.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from kdplan.diagnostics.report import PlanError, Reporter
from kdplan.diagnostics.span import Source, Span
from kdplan.syntax import ast
from kdplan.syntax.aliases import with_current_names
from kdplan.syntax.build import MAX_NESTING, Builder, Stuck, TooDeep
from kdplan.syntax.collector import collector_paused
from kdplan.syntax.grammar import END, Table, table
from kdplan.syntax.imports import without_imports
from kdplan.syntax.lexer import Token, tokens
from kdplan.syntax.recover import recover

MAX_CHARACTERS = 4_000_000  # characters: 20,000 phases written out


def parse(source: Source) -> ast.File:
    """The tree of a plan.

    Parameters
    ----------
    source
        The plan.

    Raises
    ------
    PlanError
        With all mistakes of form.

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
    if len(source.text) > MAX_CHARACTERS:
        reporter.report("KD0120", Span(source, 0, 1), size=f"{len(source.text):,}", limit=f"{MAX_CHARACTERS:,}")
        return ast.File(source, [])
    builder = Builder(source)
    text, imports = without_imports(source)
    reporter.add(imports)
    with collector_paused():
        try:
            items = parse_tokens(tokens(text), builder)
        except Stuck as stuck:
            builder.problems.clear()
            items = recover(source, text, builder, reporter, stuck, parse_tokens)
    reporter.add(builder.problems)
    return with_current_names(ast.File(source, items))


def parse_tokens(stream: Iterable[Token], builder: Builder) -> list[ast.Item]:
    """Parse tokens that end with `$END`.

    Raises
    ------
    Stuck
        At the first token that cannot come next.
    """
    grammar: Table = table()
    actions, gotos, settled, accept = grammar.actions, grammar.gotos, grammar.settled, grammar.accept
    rules = [(r.size, r.origin, None if r.unit else getattr(builder, r.method)) for r in grammar.rules]
    states = [grammar.start]
    values: list[Any] = []
    token = Token(END, "", 0, 0)
    try:
        for token in stream:
            kind = token.kind
            top = arrived = states[-1]
            action = actions[top].get(kind)
            while True:
                if action is None:
                    raise Stuck(token, values, set(actions[top]), set(actions[arrived]))
                if action >= 0:
                    states.append(action)
                    values.append(token)
                    break
                size, origin, method = rules[~action]
                if method is None:
                    key = (states[-2], top, kind)
                    top, action = settled.get(key) or _settle(grammar, key)
                    states[-1] = top
                    continue
                if size:
                    taken = values[-size:]
                    del values[-size:]
                    del states[-size:]
                else:
                    taken = []
                values.append(method(taken))
                top = gotos[states[-1]][origin]
                states.append(top)
                if top == accept and kind == END:
                    return values[-1]  # type: ignore[no-any-return]
                action = actions[top].get(kind)
            if len(states) > MAX_NESTING:
                raise Stuck(token, values, too_deep=True)
    except TooDeep:
        raise Stuck(token, values, too_deep=True) from None
    raise AssertionError("the tokens did not end with $END")


def _settle(grammar: Table, key: tuple[int, int, str]) -> tuple[int, int | None]:
    """The state on top once all unit rules that apply before `kind` have been taken, and what to do there; kept."""
    below, top, kind = key
    while True:
        action = grammar.actions[top].get(kind)
        if action is None or action >= 0 or not grammar.rules[~action].unit:
            break
        top = grammar.gotos[below][grammar.rules[~action].origin]
    grammar.settled[key] = top, action
    return top, action


__all__ = ["PlanError", "parse", "parse_recovering", "parse_tokens"]
