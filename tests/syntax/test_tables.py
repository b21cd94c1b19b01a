"""The parser's tables on disk: as good as computed ones, never out of date, and not needed."""

from __future__ import annotations

import multiprocessing
import os
from pathlib import Path

import pytest

from kdplan.diagnostics.span import Source
from kdplan.syntax import grammar, tables
from kdplan.syntax.parse import parse

TEXT = "student s = digits_net(width = 3)"


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache of the test's own; the tables of this process are forgotten."""
    monkeypatch.setenv("KDPLAN_CACHE", str(tmp_path / "cache"))
    grammar.table.cache_clear()
    return tmp_path / "cache"


def computed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Grammars that are computed from now on."""
    calls: list[str] = []
    real = grammar._compiled
    monkeypatch.setattr(grammar, "_compiled", lambda text: calls.append(text) or real(text))
    return calls


def read() -> str | None:
    """What a new process reads."""
    grammar.table.cache_clear()
    return parse(Source("a.kd", TEXT)).declarations[0].name


def test_the_second_process_computes_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = computed(monkeypatch)
    assert read() == "s" and len(calls) == 1
    first = grammar.table()
    assert read() == "s" and len(calls) == 1
    second = grammar.table()
    first.settled.clear(), second.settled.clear()
    assert first == second and first is not second
    assert len(list(cache.iterdir())) == 1


def test_another_grammar_has_other_tables(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = computed(monkeypatch)
    read()
    text = grammar.grammar_text() + "\n// a comment\n"
    monkeypatch.setattr(grammar, "grammar_text", lambda: text)
    read()
    assert len(calls) == 2 and len(list(cache.iterdir())) == 2


def test_other_code_or_another_lark_has_other_tables(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.py").write_text("a")
    (tmp_path / "b.py").write_text("b")
    names = {tables.name_of("g", str(tmp_path / name)) for name in ("a.py", "b.py")}
    monkeypatch.setattr(tables, "_installed", lambda package: "another")
    names.add(tables.name_of("g", str(tmp_path / "a.py")))
    assert len(names) == 3
    assert tables.name_of("g", str(tmp_path / "no source.py")) == ""


@pytest.mark.parametrize("change", [lambda b: b"", lambda b: b[:-1], lambda b: b.replace(b"start", b"stare"),
                                    lambda b: b"\xff" + b])  # fmt: skip
def test_damaged_tables_are_made_anew(cache: Path, change: object, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = computed(monkeypatch)
    read()
    (file,) = cache.iterdir()
    good = file.read_bytes()
    file.write_bytes(change(good))  # type: ignore[operator]
    assert read() == "s" and len(calls) == 2
    assert read() == "s" and len(calls) == 2


def test_nothing_is_kept_where_nothing_can_be_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("KDPLAN_CACHE", str(tmp_path / "file" / "below"))
    assert read() == "s"
    monkeypatch.setenv("KDPLAN_CACHE", "~nobody-of-that-name/cache")
    assert read() == "s"
    monkeypatch.setenv("KDPLAN_CACHE", "/proc/cache")
    assert read() == "s"


def test_a_full_disk_leaves_nothing(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    assert read() == "s" and list(cache.iterdir()) == []


def test_many_processes_at_once(cache: Path) -> None:
    with multiprocessing.get_context("fork").Pool(6) as pool:
        assert pool.map(_read, range(12)) == ["s"] * 12
    assert len(list(cache.iterdir())) == 1


def _read(_: int) -> str | None:
    return read()
