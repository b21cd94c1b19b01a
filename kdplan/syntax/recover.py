"""After a mistake: what is wrong, and the declarations that are right."""

from __future__ import annotations

from kdplan.diagnostics.report import Reporter
from kdplan.diagnostics.span import Source
from kdplan.syntax import ast
from kdplan.syntax.build import Builder
from kdplan.syntax.lexer import tokens


def recover(source: Source, builder: Builder, reporter: Reporter) -> list[ast.Item]:
    from kdplan.syntax.parse import Stuck, run

    try:
        return run(tokens(source.text), builder)
    except Stuck as stuck:
        reporter.report("KD0106", stuck.token.span(source), found=stuck.token.text)
    return []
