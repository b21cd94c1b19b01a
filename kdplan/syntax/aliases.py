"""Old names of the language. They are still parsed as the current ones, and `kdplan fmt` replaces them.

`pace = none` in a student is `logit_scale = none`; `displaced(n, distance = 1)` is `perturbed(n, distance = 1)`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from kdplan.diagnostics.span import Source, Span
from kdplan.syntax import ast
from kdplan.syntax.walk import walk

_NETWORKS = ("teacher", "student", "network")
SETTINGS: dict[str, dict[str, str]] = {kind: {"pace": "logit_scale"} for kind in _NETWORKS}
"""Kind of declaration → a setting's old name → its current name."""
FUNCTIONS: dict[str, str] = {"displaced": "perturbed"}
"""A function's old name → its current name. No plan can declare the old name, so it never means anything else."""

_ANY = re.compile(r"\b(" + "|".join({*FUNCTIONS, *(w for words in SETTINGS.values() for w in words)}) + r")\b")


def with_current_names(file: ast.File) -> ast.File:
    """The tree with current names for old ones; its spans stay those of the source.

    >>> from kdplan.syntax.parse import parse
    >>> student, = parse(Source("", "student s = displaced(a, distance = 1) { pace = none }")).declarations
    >>> student.clause("=").exprs[0].function.name, student.items[0].name
    ('perturbed', 'logit_scale')
    """
    if _ANY.search(file.source.text):
        for node, _, current in _old_names(file):
            node.name = current
    return file


def rewrite_old_names(source: Source, file: ast.File) -> Source:
    """The source with current names for old ones, given its tree.

    >>> from kdplan.syntax.parse import parse
    >>> plan = Source("", "student s = a { pace = none }")
    >>> rewrite_old_names(plan, parse(plan)).text
    'student s = a { logit_scale = none }'
    """
    if not _ANY.search(source.text):
        return source
    text = source.text
    for _, span, current in sorted(_old_names(file), key=lambda old: -old[1].start):
        text = text[: span.start] + current + text[span.end :]
    return Source(source.path, text)


def _old_names(file: ast.File) -> Iterator[tuple[ast.Name | ast.Setting, Span, str]]:
    """Every node that has an old name: the node, the span of the name, the current name."""
    for node in walk(file):
        if isinstance(node, ast.Call) and isinstance(node.function, ast.Name):
            current = FUNCTIONS.get(node.function.span.text)
            if current is not None:
                yield node.function, node.function.span, current
        elif isinstance(node, ast.Declaration) and node.kind in SETTINGS:
            for item in node.items or []:
                current = SETTINGS[node.kind].get(item.name_span.text) if isinstance(item, ast.Setting) else None
                if current is not None and isinstance(item, ast.Setting):
                    yield item, item.name_span, current
