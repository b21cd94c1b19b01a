"""Words that the language had before. They are still read as today's words, and `kdplan fmt` writes those in.

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
"""Kind of declaration → a setting's old name → its name now."""
FUNCTIONS: dict[str, str] = {"displaced": "perturbed"}
"""A function's old name → its name now. No plan can declare the old name, so it never means anything else."""

_ANY = re.compile(r"\b(" + "|".join({*FUNCTIONS, *(w for words in SETTINGS.values() for w in words)}) + r")\b")


def todays(file: ast.File) -> ast.File:
    """The tree with today's words for old ones; places stay those of the text.

    >>> from kdplan.syntax.parse import parse
    >>> student, = parse(Source("", "student s = displaced(a, distance = 1) { pace = none }")).declarations
    >>> student.clause("=").exprs[0].function.name, student.items[0].name
    ('perturbed', 'logit_scale')
    """
    if _ANY.search(file.source.text):
        for node, _, word in _old(file):
            node.name = word
    return file


def rewritten(source: Source, file: ast.File) -> Source:
    """The text with today's words for old ones, given its tree.

    >>> from kdplan.syntax.parse import parse
    >>> plan = Source("", "student s = a { pace = none }")
    >>> rewritten(plan, parse(plan)).text
    'student s = a { logit_scale = none }'
    """
    if not _ANY.search(source.text):
        return source
    text = source.text
    for _, span, word in sorted(_old(file), key=lambda old: -old[1].start):
        text = text[: span.start] + word + text[span.end :]
    return Source(source.path, text)


def _old(file: ast.File) -> Iterator[tuple[ast.Name | ast.Setting, Span, str]]:
    """Every node that was written with an old word: it, the word's place, today's word."""
    for node in walk(file):
        if isinstance(node, ast.Call) and isinstance(node.function, ast.Name):
            word = FUNCTIONS.get(node.function.span.text)
            if word is not None:
                yield node.function, node.function.span, word
        elif isinstance(node, ast.Declaration) and node.kind in SETTINGS:
            for item in node.items or []:
                word = SETTINGS[node.kind].get(item.name_span.text) if isinstance(item, ast.Setting) else None
                if word is not None and isinstance(item, ast.Setting):
                    yield item, item.name_span, word
