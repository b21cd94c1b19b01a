"""The table of errors is its own test: each bad example gives the message of its row."""

from __future__ import annotations

import re
import string
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from kdplan.diagnostics.render import explain, render_text, to_json
from kdplan.diagnostics.report import Diagnostic, Reporter, silenced, table
from kdplan.diagnostics.span import Source
from kdplan.syntax.parse import parse_recovering
from tests.diagnostics.wording import is_help, old_words

ROOT = Path(__file__).parents[2]
ROWS = sorted(table().items())
STAGES = ("parse", "check")  # those that need a plan file alone


def _bad() -> Iterator[Any]:
    for code, row in ROWS:
        for i, bad in enumerate(row.get("bad", [])):
            if bad.get("stage", "check") in STAGES:
                yield pytest.param(code, i, id=f"{code}-{i}")


def diagnostics_of(bad: dict[str, Any]) -> list[Diagnostic]:
    """The messages of an example; its other files are in its folder."""
    if bad.get("stage") == "parse":
        reporter = Reporter()
        parse_recovering(Source("example.kd", bad["plan"]), reporter)
        return reporter.diagnostics
    from kdplan.compile import check_text

    with TemporaryDirectory() as folder:
        for name, text in bad.get("files", {}).items():
            path = Path(folder) / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text, encoding="utf-8")
        return check_text(bad["plan"], folder=Path(folder))


@cache
def answer(code: str, i: int) -> list[Diagnostic]:
    return diagnostics_of(table()[code]["bad"][i])


def says(code: str, bad: dict[str, Any], answers: list[Diagnostic]) -> bool:
    """Whether `code` is among the messages of the example, and the right span is underlined."""
    return any(
        d.code == code and (d.span.text if d.span else None) == bad.get("at", d.span and d.span.text) for d in answers
    )


@pytest.mark.parametrize(("code", "row"), ROWS, ids=[code for code, _ in ROWS])
def test_each_row_is_complete(code: str, row: dict[str, Any]) -> None:
    assert re.fullmatch(r"KD\d{4}", code)
    assert row["title"] and not row["title"].endswith(".")
    assert row["message"].endswith((".", "?", "}"))
    assert row["explain"].strip()
    assert row.get("severity", "error") in ("error", "warning")
    assert set(row) <= {"title", "message", "help", "explain", "severity", "bad", "test"}
    for text in (row["message"], row.get("help", "")):
        for _, name, _, _ in string.Formatter().parse(text):
            assert name is None or name.isidentifier(), f"a value of {code} has no name"
    assert row.get("bad") or row.get("test"), "a row needs an example, or the test that shows it"
    if "test" in row:
        file, name = row["test"].split("::", 1)
        assert f"def {name.split('::')[-1].split('[')[0]}(" in (ROOT / file).read_text(encoding="utf-8")
    for bad in row.get("bad", []):
        assert bad.get("stage", "check") in ("parse", "check", "compile", "data", "run")
        assert set(bad) <= {"plan", "at", "stage", "files"}
        assert bad["plan"].strip()
        assert bad.get("at", bad["plan"]) in bad["plan"]


@pytest.mark.parametrize(("code", "i"), _bad())
def test_each_example_is_answered_with_its_row(code: str, i: int) -> None:
    bad, answers = table()[code]["bad"][i], answer(code, i)
    assert says(code, bad, answers), [(d.code, d.message, d.span and d.span.text) for d in answers]
    assert {d.severity for d in answers if d.code == code} == {table()[code].get("severity", "error")}
    assert f"[{code}]" in render_text(answers, color=False)
    assert code in [d["code"] for d in to_json(answers)]


@pytest.mark.parametrize(("code", "i"), _bad())
def test_each_example_has_one_mistake(code: str, i: int) -> None:
    """A mistake gives one message."""
    assert [d.code for d in answer(code, i)] == [code]


@pytest.mark.parametrize(("code", "i"), _bad())
def test_each_sentence_stands_alone(code: str, i: int) -> None:
    for d in answer(code, i):
        assert d.message[0].isupper() or not d.message[0].isalpha(), d.message
        assert d.message.endswith((".", "?")) and not d.message.endswith("..") and "{" not in d.message.split("`")[0]
        assert not old_words(d.message) and not old_words(d.help or "")
        assert d.help is None or is_help(d.help), d.help


@pytest.mark.parametrize(("code", "i"), _bad())
def test_code_is_between_backticks(code: str, i: int) -> None:
    """In what is shown of each example, every backtick has its partner."""
    for d in answer(code, i):
        for text in (d.message, d.help or "", *(n.text for n in d.notes)):
            assert text.count("`") % 2 == 0 and "``" not in text, text


@pytest.mark.parametrize("code", [code for code, _ in ROWS])
def test_a_row_has_pairs_of_backticks(code: str) -> None:
    row = table()[code]
    assert [k for k in ("title", "message", "help", "explain") if row.get(k, "").count("`") % 2] == []


@pytest.mark.parametrize(("code", "i"), _bad())
def test_each_example_fails_without_its_check(code: str, i: int) -> None:
    bad = table()[code]["bad"][i]
    with silenced(code):
        assert not says(code, bad, diagnostics_of(bad))


@pytest.mark.parametrize("code", [code for code, _ in ROWS])
def test_each_code_can_be_explained(code: str) -> None:
    text = explain(code)
    assert text is not None and text.startswith(f"{code}: ") and "{{" not in text


def _used() -> dict[str, str]:
    return {
        code: str(path)
        for path in sorted((ROOT / "kdplan").rglob("*.py"))
        for code in re.findall(r'"(KD\d{4})"', path.read_text(encoding="utf-8"))
    }


def test_each_code_in_the_source_has_a_row() -> None:
    assert {code: path for code, path in _used().items() if code not in table()} == {}


def test_each_row_is_used_in_the_source() -> None:
    assert sorted(set(table()) - set(_used())) == []
