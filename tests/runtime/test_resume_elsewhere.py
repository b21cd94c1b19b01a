"""A checkpoint knows what rounded its sums; a run that goes on under other conditions says so."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.runtime import agreed, loop
from tests.golden.make_store import PLAN, STORE

Capture = pytest.CaptureFixture[str]


@pytest.fixture
def interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(STORE, tmp_path / "store")
    (tmp_path / "a.kd").write_text(PLAN)
    monkeypatch.chdir(tmp_path)
    checkpoint = next((tmp_path / "store" / "work").glob("*/checkpoints/*/state.json"))
    assert '"rounding"' in checkpoint.read_text()
    return tmp_path


def run(capsys: Capture) -> str:
    capsys.readouterr()
    assert main(["run", "a.kd", "--store", "store"]) == 0
    caught = capsys.readouterr()
    return " ".join((caught.out + caught.err).split())


def conditions_are(monkeypatch: pytest.MonkeyPatch, conditions: dict[str, str]) -> None:
    """Let this machine be of these."""
    for module in (agreed, loop):  # where a checkpoint is compared, and where one is written
        monkeypatch.setattr(module, "rounding", lambda device, sums: conditions)


def test_it_is_said(interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    conditions = {"torch": "9.0.0", "system": "Other x", "device": "cpu"}
    conditions_are(monkeypatch, conditions)
    said = run(capsys)
    assert "KD0838: Phase `further` goes on from step 7 under other conditions: torch" in said
    assert (
        "9.0.0 now" in said
        and "Other x now" in said
        and "device" not in said.partition("KD0838")[2].partition("whole")[0]
    )


def test_nothing_is_said_of_the_same(interrupted: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    before = next((interrupted / "store" / "work").glob("*/checkpoints/*/state.json")).read_text()
    conditions_are(monkeypatch, json.loads(before)["rounding"])
    assert "KD0838" not in run(capsys)
