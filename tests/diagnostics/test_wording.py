"""Messages are worded as docs/style.md says."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

from kdplan.diagnostics.report import table
from tests.diagnostics.wording import is_help, never, old_words

ROOT = Path(__file__).parents[2]
ROWS = sorted(table().items())
RAISES = {"error", "diagnostic", "report"}


def test_the_column_is_read() -> None:
    for word in ("moving", "splice", "pictures", "handed out", "world", "follows", "told", "text"):
        assert never().fullmatch(word), word


@pytest.mark.parametrize(("code", "row"), ROWS, ids=[code for code, _ in ROWS])
def test_a_row_has_no_old_word(code: str, row: dict[str, str]) -> None:
    assert {
        k: old_words(row[k]) for k in ("title", "message", "help", "explain") if k in row and old_words(row[k])
    } == {}


@pytest.mark.parametrize(("code", "row"), [(c, r) for c, r in ROWS if "help" in r and r["help"][0] != "{"])
def test_the_help_of_a_row_is_imperative(code: str, row: dict[str, str]) -> None:
    assert is_help(row["help"]), row["help"]


def _helps() -> Iterator[tuple[str, int, str]]:
    """Helps that stand in the source, where a message is raised: file, line, text."""
    for path in sorted((ROOT / "kdplan").rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Call) and RAISES & {getattr(node.func, a, None) for a in ("id", "attr")}:
                for k in node.keywords:
                    if (
                        k.arg == "help"
                        and isinstance(k.value, ast.Constant | ast.JoinedStr)
                        and ast.unparse(k.value) != "None"
                    ):
                        yield str(path), k.value.lineno, ast.unparse(k.value).removeprefix("f")[1:-1]


def _texts(tree: ast.AST) -> Iterator[tuple[int, str]]:
    """The strings of a module, those with values in them without these: line, text."""
    inside = {id(v) for n in ast.walk(tree) if isinstance(n, ast.JoinedStr) for v in n.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield node.lineno, "".join(str(v.value) for v in node.values if isinstance(v, ast.Constant))
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in inside:
            yield node.lineno, node.value


def test_strings_in_the_source_have_pairs_of_backticks() -> None:
    """Strings of one character, fences of Markdown and sets of characters are no sentences."""
    odd = [
        (str(path.relative_to(ROOT)), line, text)
        for path in sorted((ROOT / "kdplan").rglob("*.py"))
        for line, text in _texts(ast.parse(path.read_text(encoding="utf-8")))
        if text.count("`") % 2 and len(text.strip("`\n")) > 1 and not text.startswith("[")
    ]
    assert odd == []


def test_helps_in_the_source_are_imperative() -> None:
    helps = [one for one in _helps() if one[2]]
    assert len(helps) > 20
    assert [one for one in helps if not one[2].startswith("{") and (not is_help(one[2]) or old_words(one[2]))] == []
