"""Benches share one form, chance makes nothing red, and what has become much worse does."""

from __future__ import annotations

import importlib
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.bench import bench_all
from tests.bench.bench_all import AGAIN, COMMITTED, Results, benches, compared, settled
from tests.bench.ratios import Ratios

ROOT = Path(__file__).parents[2]


def measured(*rounds: Ratios) -> Callable[[str], Ratios]:
    """A bench that gives these ratios, one after another."""
    left = iter(rounds)
    return lambda name: next(left)


@pytest.mark.parametrize("name", sorted(benches()))
def test_a_bench_has_its_brief_form(name: str) -> None:
    module = importlib.import_module(f"tests.bench.{benches()[name]}")
    assert callable(module.brief) and callable(module.main)
    assert "entry(main, brief)" in Path(str(module.__file__)).read_text(encoding="utf-8")


def test_committed_ratios_are_those_of_the_benches() -> None:
    committed: Results = json.loads(COMMITTED.read_text(encoding="utf-8"))
    assert committed and committed.keys() <= benches().keys()  # a new bench is shown as such until it is committed
    assert all(ratio > 0 for ratios in committed.values() for ratio in ratios.values())


def test_chance_is_measured_again() -> None:
    """The least of each counts, and what is good is not measured twice."""
    assert settled("b", {"x": 1.0}, measured({"x": 1.05})) == {"x": 1.05}
    assert settled("b", {"x": 1.0, "y": 1.0}, measured({"x": 2.0, "y": 1.0}, {"x": 1.0, "y": 1.4})) == {"x": 1, "y": 1}
    assert settled("b", {"x": 1.0}, measured(*[{"x": 3.0}] * (AGAIN + 1))) == {"x": 3.0}


def test_what_is_printed_and_what_fails() -> None:
    committed = {"b": {"same": 1.0, "worse": 1.0, "bad": 1.0, "gone": 1.0}}
    lines, fails = compared({"b": {"same": 1.09, "worse": 1.2, "bad": 1.7, "new": 5.0}}, committed)
    assert fails and [line.split(": ")[::2] for line in lines] == [
        ["worse", "worse"], ["FAILS", "bad"], ["new", "new"], ["gone", "gone"]
    ]  # fmt: skip
    assert compared({"b": {"same": 1.0, "worse": 1.59, "bad": 0.5, "gone": 1.0}}, committed) == (
        ["worse: b: worse: 1.590, 1.59 x 1.000"], False
    )  # fmt: skip


def test_a_bench_that_fails_or_hangs_is_said_to(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bench_all, "benches", lambda: {"none": "bench_that_is_not_there"})
    with pytest.raises(RuntimeError, match="none failed"):
        bench_all.brief("none")
    monkeypatch.setattr(bench_all, "LIMIT", 0.01)
    with pytest.raises(RuntimeError, match="takes more than"):
        bench_all.brief("none")


@pytest.mark.slow
def test_nothing_has_become_much_worse() -> None:
    """All benches; red only beyond the margin that `bench_all` states, after it has measured again."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.bench.bench_all"], cwd=ROOT, capture_output=True, text=True, timeout=3600
    )
    assert done.returncode == 0, done.stdout + done.stderr
