"""The store that this version wrote is read by every later one."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from kdplan.cli import main
from tests.golden.make_store import PLAN, STOPPED, STORE

Run = Callable[..., tuple[int, str]]
FINISHED = ("big@train", "distil")
OLDER = STORE.with_name("store_of_older_keys")


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """A command on a copy of the store: its exit code, and what it printed."""
    shutil.copytree(STORE, tmp_path / "store")
    (tmp_path / "a.kd").write_text(PLAN)
    monkeypatch.chdir(tmp_path)

    def command(*arguments: str) -> tuple[int, str]:
        capsys.readouterr()
        code = main([*arguments, "--store", "store"])
        caught = capsys.readouterr()
        return code, caught.out if "--json" in arguments else caught.out + caught.err

    return command


def planned(run: Run) -> dict[str, Any]:
    code, printed = run("plan", "a.kd", "--json", "--no-cost")
    assert code == 0, printed
    return {p["name"]: p for p in json.loads(printed)["phases"]}


def test_nothing_is_trained_again(run: Run, tmp_path: Path) -> None:
    """Finished phases are cached, the third goes on where it stopped, and stored numbers are shown."""
    phases = planned(run)
    assert [phases[name]["action"] for name in FINISHED] == ["cached", "cached"]
    assert phases["further"]["action"] == "resume"
    before = {p: p.read_bytes() for p in (tmp_path / "store" / "phases").rglob("*") if p.is_file()}
    numbers = {p.name: p.read_bytes() for p in (tmp_path / "store" / "measures").iterdir()}
    code, printed = run("run", "a.kd")
    assert code == 0, printed
    assert f"step {STOPPED}" in printed or f"{STOPPED} of 12" in printed, printed
    assert all(p.read_bytes() == content for p, content in before.items())
    assert {p.name: p.read_bytes() for p in (tmp_path / "store" / "measures").iterdir()} == numbers
    assert {p["action"] for p in planned(run).values()} == {"cached"}


def test_every_command_reads_it(run: Run) -> None:
    for command in (["status", "a.kd"], ["why", "a.kd", "distil"], ["store", "ls"], ["store", "du"], ["store", "gc"]):
        code, printed = run(*command)
        assert code == 0 and "KD09" not in printed, printed
    assert run("store", "verify")[0] == 0
    code, printed = run("export", "a.kd", "tiny", "-o", "tiny")
    assert code == 0, printed


def test_results_of_older_keys_stay_and_are_trained_again(run: Run, tmp_path: Path) -> None:
    """SGD and Adam are rounded otherwise since: nothing of before is taken for what would be trained now."""
    shutil.rmtree(tmp_path / "store")
    shutil.copytree(OLDER, tmp_path / "store")
    before = {p: p.read_bytes() for p in (tmp_path / "store" / "phases").rglob("*") if p.is_file()}
    assert {p["action"] for p in planned(run).values()} == {"rerun", "run"}
    assert run("store", "verify")[0] == 0
    code, printed = run("run", "a.kd")
    assert code == 0, printed
    assert {p["action"] for p in planned(run).values()} == {"cached"}
    assert all(p.read_bytes() == content for p, content in before.items())


@pytest.mark.parametrize("days", [-3650, -1, 1, 3650])
def test_a_clock_that_was_set(days: int, run: Run, tmp_path: Path) -> None:
    """Files seem to come from the future, or to be ten years old: no time decides what is trained, kept or shown."""
    then = time.time() + days * 86400
    for path in (tmp_path / "store").rglob("*"):
        os.utime(path, (then, then))
    phases = planned(run)
    assert [phases[name]["action"] for name in FINISHED] == ["cached", "cached"]
    test_every_command_reads_it(run)
    test_nothing_is_trained_again(run, tmp_path)


@pytest.mark.parametrize("number", [0, 2])
def test_another_format_is_said(number: int, run: Run, tmp_path: Path) -> None:
    """It is not read as if it were this one: `verify` says so, and a run trains anew what it needs."""
    key = planned(run)["distil"]["key"]
    manifest = tmp_path / "store" / "phases" / key / "manifest.json"
    manifest.write_text(manifest.read_text().replace('"format": 1', f'"format": {number}'))
    code, printed = run("store", "verify")
    assert code == 4 and f"it has format {number}, this kdplan knows format 1" in " ".join(printed.split()), printed
    code, printed = run("run", "a.kd")
    assert code == 0 and "Traceback" not in printed, printed
    assert '"format": 1' in manifest.read_text()
