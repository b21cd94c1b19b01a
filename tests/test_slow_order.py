"""Which slow tests a round runs, and which come first in the next."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import pairwise
from pathlib import Path

import pytest

from tests import slow_order
from tests.slow_order import Outcome, Result, load, ordered, run_files, save, slow_files

FILES = ["a", "b", "c", "d"]


def play(
    last: Mapping[str, Result], durations: Mapping[str, float], seconds: float, turn: int = 0
) -> tuple[list[str], dict[str, Result]]:
    """A round in which every file takes as long as `durations` says: the files that were started, and all results."""
    now, started = 0.0, []

    def run(file: str, left: float) -> Outcome:
        nonlocal now
        started.append(file)
        now += min(left, durations[file])
        return "passed" if durations[file] <= left else "cut off"

    results = run_files(ordered(list(durations), last, turn), last, seconds, run, lambda results: None, lambda: now)
    return started, results


def test_slow_files_are_found_by_their_mark(tmp_path: Path) -> None:
    mark = ".".join(["pytest", "mark", "slow"])  # not in one piece: this file has no slow tests
    texts = {"test_a.py": f"@{mark}", "sub/test_b.py": f"pytestmark = {mark}", "test_c.py": "", "d.py": f"@{mark}"}
    for name, text in texts.items():
        (tmp_path / "tests" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "tests" / name).write_text(text)
    assert slow_files(tmp_path) == ["tests/sub/test_b.py", "tests/test_a.py"]


def test_all_files_are_run_where_there_is_time() -> None:
    started, results = play({}, dict.fromkeys(FILES, 100.0), 1000)
    assert sorted(started) == FILES and {r.outcome for r in results.values()} == {"passed"}


def test_each_file_is_run_in_one_of_two_rounds() -> None:
    durations = {"a": 500.0, "b": 900.0, "c": 300.0, "d": 700.0}
    last: dict[str, Result] = {}
    finished = []
    for _ in range(6):
        _, last = play(last, durations, 1300)
        finished.append({f for f, r in last.items() if r.outcome == "passed"})
    # 2,400 s of tests, 1,300 s a round: one of two rounds has time for each.
    for one, two in pairwise(finished[1:]):
        assert one | two == set(FILES)


def test_a_file_that_is_longer_than_a_round_does_not_keep_others_out() -> None:
    durations = {"a": 5000.0, "b": 200.0, "c": 200.0}
    last: dict[str, Result] = {}
    rounds = []
    for _ in range(4):
        names, last = play(last, durations, 1000)
        rounds.append(names)
    assert rounds == [["a"], ["b", "c"], ["a"], ["b", "c"]]


def test_a_file_is_not_started_where_it_cannot_end() -> None:
    last = {"a": Result("passed", 80, "1"), "b": Result("passed", 90, "2"), "c": Result("passed", 10, "3")}
    started, results = play(last, {"a": 80, "b": 90, "c": 10}, 150)
    assert started == ["a", "c"] and results["b"] == Result("not run", 90, "2")


def test_without_results_rounds_in_a_row_leave_out_others() -> None:
    durations = {f"test_{i}": 100.0 for i in range(10)}
    for turn in range(20):
        runs = [set(play({}, durations, 700, t)[0]) for t in (turn, turn + 1)]
        assert runs[0] | runs[1] == set(durations)


def test_results_are_kept(tmp_path: Path) -> None:
    path = tmp_path / "cache" / "slow.json"
    assert load(path) == {}
    save(path, {"a": Result("failed", 3.5, "2026-01-02")})
    assert load(path) == {"a": Result("failed", 3.5, "2026-01-02")}
    for damaged in ("{", "[]", '{"a": 3}', '{"a": {"colour": 1}}'):
        path.write_text(damaged)
        assert load(path) == {}
    save(path / "below a file", {})  # cannot be written, and does not raise


@pytest.mark.parametrize(
    ("body", "outcome"), [("assert True", "passed"), ("assert False", "failed"), ("time.sleep(60)", "cut off")]
)
def test_outcomes_of_pytest(tmp_path: Path, body: str, outcome: str) -> None:
    file = tmp_path / "test_it.py"
    file.write_text(f"import time, pytest\n@pytest.mark{'.'}slow\ndef test_it():\n    {body}\n")
    assert slow_order.pytest_file(str(file), 5.0 if outcome == "cut off" else 120.0) == outcome


def test_a_failed_file_fails_the_round(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(slow_order, "slow_files", lambda root: FILES)

    def outcomes(of: Mapping[str, Outcome]) -> Callable[[str, float], Outcome]:
        return lambda file, seconds: of.get(file, "passed")

    monkeypatch.setattr(slow_order, "pytest_file", outcomes({"b": "cut off"}))
    assert slow_order.main(100) == 0
    assert "cut off  b: " in capsys.readouterr().out
    monkeypatch.setattr(slow_order, "pytest_file", outcomes({"b": "failed"}))
    assert slow_order.main(100) == 1
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].startswith("failed: b"), "cut off in the round before, so first in this one"
    assert load(tmp_path / slow_order.STATE)["b"].outcome == "failed"
