"""`kdplan plan`: the table, and the form for scripts."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from kdplan.view import plan as view
from kdplan.view.plan import print_plan, saved, to_json, to_train
from tests.view.samples import sample


def printed(family: int = 0, every: bool = False, width: int = 200) -> str:
    console = Console(width=width, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_plan(sample(family)[1], title="a.kd", every=every, console=console)
    return console.export_text()


def test_table() -> None:
    text = printed()
    line = next(line for line in text.splitlines() if line.lstrip().startswith("-/+"))
    for word in ("kd", "`weight` changed: 5 → 9", "a.kd:3:4", "big@train", "278 k", "6.93 T", "20 s"):
        assert word in line
    assert "1 cached, 1 to resume, 1 to rerun" in text
    assert "saved by the store: 660 steps" in text and "about 40 s" in text


def test_large_families_are_one_line() -> None:
    assert "sweep[…] (13)" in printed(13) and "sweep[weight=3]" not in printed(13)
    assert "sweep[weight=3]" in printed(13, every=True)


def test_what_a_phase_needs_is_named_with_its_indices() -> None:
    planned = sample()[1]
    planned["kd"].needs = ["line[generation=1]@train"]
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_plan(planned, title="a.kd", console=console)
    assert "line[generation=1]@train" in console.export_text()


def test_narrow_terminal_loses_columns_not_names() -> None:
    text = printed(width=80)
    assert "big@train" in text and "memory" not in text and "memory" in printed()


def test_json() -> None:
    data = json.loads(json.dumps(to_json(sample()[1], file="a.kd")))
    phases = {p["name"]: p for p in data["phases"]}
    assert list(phases) == ["big@train", "kd", "alone"]
    assert set(phases["kd"]) == {"name", "action", "reasons", "key", "needs", "cost"}
    assert phases["kd"]["reasons"][0]["at"] == "a.kd:3:4" and phases["alone"]["resume_step"] == 300
    assert data["totals"]["saved"]["steps"] == 660 and data["totals"]["to_do"]["seconds"] == 40.0


def test_equal_content_is_counted_once() -> None:
    planned = sample(2)[1]
    planned["sweep[weight=1]"].same_as = "sweep[weight=0]"
    assert [p.name for p in to_train(planned.values())] == ["kd", "alone", "sweep[weight=0]"]
    assert [p.name for p in saved(planned.values())] == ["big@train", "sweep[weight=1]"]


@pytest.mark.parametrize("width", [60, 100, 200])
@pytest.mark.parametrize("title", ["", "plan.kd"])
def test_long_tables_look_as_short_ones(width: int, title: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def text(long: int) -> str:
        monkeypatch.setattr(view, "LONG", long)
        out = io.StringIO()
        print_plan(sample(30)[1], title=title, every=True, console=Console(file=out, width=width, highlight=False))
        return out.getvalue()

    assert text(1) == text(1000)


def test_long_tables_are_written_without_rich(monkeypatch: pytest.MonkeyPatch) -> None:
    def never(*_: object) -> None:
        raise AssertionError("rich laid out a long table")

    monkeypatch.setattr(view, "LONG", 10)
    monkeypatch.setattr(view, "_rich_table", never)
    print_plan(sample(30)[1], every=True, console=Console(file=io.StringIO(), width=200, highlight=False))
