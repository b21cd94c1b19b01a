"""The logic of `tests/gpu/run.sh`: budgets, what is left, what is written; and the whole of it on a CPU."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import pytest

from tests.gpu import sections
from tests.gpu.sections import LEAST, SECTIONS, Section, chosen, code_of, result, run_all, run_process

ROOT = Path(__file__).parents[2]


class Machine:
    """A machine on which sections take so many seconds, and fail or not."""

    def __init__(self, takes: dict[str, float], failing: Sequence[str] = ()) -> None:
        self.now, self.takes, self.failing = 0.0, takes, failing
        self.commands: list[list[str]] = []

    def clock(self) -> float:
        return self.now

    def run(self, command: Sequence[str], seconds: float) -> tuple[int | None, str]:
        self.commands.append(list(command))
        name = command[2]
        self.now += min(seconds, self.takes[name])
        if self.takes[name] > seconds:
            return None, "cut"
        return (1, "no\n") if name in self.failing else (0, f'words\n{{"name": "{name}"}}\n')


def table(*seconds: float) -> list[Section]:
    return [Section(n, s, (n,), (n, "little")) for n, s in zip("abc", seconds, strict=False)]


def test_sections_run_in_order_and_leave_what_has_no_time(tmp_path: Path) -> None:
    machine, out = Machine({"a": 30, "b": 999, "c": 5}), tmp_path / "gpu.json"
    report = run_all(table(60, 60, 60), out, 100, False, machine.run, machine.clock)
    assert [c[1:] for c in machine.commands] == [["-m", "a"], ["-m", "b"]]
    assert report["sections"]["a"] == {"state": "ok", "seconds": 30.0, "numbers": {"name": "a"}}
    assert report["sections"]["b"]["state"] == "out of time" and report["sections"]["b"]["seconds"] == 60
    assert report["left"] == ["c"] and report["sections"]["c"] == {"state": "left"}  # 10 s are too few
    assert json.loads(out.read_text()) == report and code_of(report) == 1


def test_time_that_a_section_does_not_need_goes_to_the_next(tmp_path: Path) -> None:
    machine = Machine({"a": 1, "b": 1, "c": 90})
    report = run_all(table(60, 60, 95), tmp_path / "o", 100, False, machine.run, machine.clock)
    assert report["left"] == [] and code_of(report) == 0


def test_a_section_that_fails_does_not_end_the_run(tmp_path: Path) -> None:
    machine = Machine({"a": 1, "b": 1, "c": 1}, failing="a")
    report = run_all(table(9, 9, 9), tmp_path / "o", 100, True, machine.run, machine.clock)
    assert [s["state"] for s in report["sections"].values()] == ["failed", "ok", "ok"]
    assert report["sections"]["a"]["output"] == "no\n" and report["rehearsal"] is True and code_of(report) == 1
    assert machine.commands[1][2:] == ["b", "little"]


def test_what_is_written_after_each_section_survives_the_next(tmp_path: Path) -> None:
    out = tmp_path / "o"

    def run(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
        if command[2] == "b":
            raise KeyboardInterrupt
        return 0, "fine"

    with pytest.raises(KeyboardInterrupt):
        run_all(table(60, 60), out, 100, False, run)
    held = json.loads(out.read_text())
    assert held["sections"]["a"]["lines"] == ["fine"] and held["left"] == ["b"]


def test_a_process_and_its_children_end_with_their_time() -> None:
    child = "import subprocess, sys; subprocess.run([sys.executable, '-c', 'import time; time.sleep(60)'])"
    began = time.monotonic()
    code, _ = run_process([sys.executable, "-c", child], 2)
    assert code is None and time.monotonic() - began < 30


def test_lines_stand_in_for_numbers() -> None:
    assert result(0, "a\nb", 1.0) == {"state": "ok", "seconds": 1.0, "lines": ["a", "b"]}
    assert result(None, "x" * 9999, 1.0)["output"] == "x" * sections.TAIL


def test_the_most_valuable_sections_have_time() -> None:
    """Those that say whether it works at all fit into nine minutes whatever they take."""
    names = [s.name for s in SECTIONS]
    assert names[:4] == ["facts", "tests", "determinism", "step"] and len(set(names)) == len(names)
    assert sum(s.seconds for s in SECTIONS[:5]) <= 540 and all(s.seconds >= LEAST for s in SECTIONS)
    assert [s.name for s in chosen(["step", "facts"])] == ["facts", "step"]


def test_the_command_says_where_its_results_are(tmp_path: Path) -> None:
    out = tmp_path / "gpu.json"
    command = ["tests/gpu/run.sh", "--rehearse", "--only", "facts", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_env())
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"results: {out}" in done.stdout
    assert json.loads(out.read_text())["sections"]["facts"]["numbers"]["torch"]


@pytest.mark.slow
def test_rehearsal(tmp_path: Path) -> None:
    """Every section runs on a CPU."""
    out = tmp_path / "gpu.json"
    command = ["tests/gpu/run.sh", "--rehearse", "--seconds", "2400", "--out", str(out)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env=_env())
    report = json.loads(out.read_text())
    assert done.returncode == 0 and report["left"] == [], report
    found = {name: section.get("numbers") for name, section in report["sections"].items()}
    assert found["determinism"]["ok"] and found["nccl"]["same"] and found["jobs"]["same"]
    assert set(found["step"]["ms"]) == {"eager", "lean"}


def _env() -> dict[str, str]:
    return os.environ | {"PYTHON": sys.executable}
