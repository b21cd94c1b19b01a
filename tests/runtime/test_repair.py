"""Damaged artifacts are trained again where they are needed, and block nothing where they are not."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from kdplan.cli import main

PLAN = """\
param weight = 0.9
data digits = digits { limit = 100 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 50 }
teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2)
phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + weight * kd(teacher = big.logits, student = small.logits)
}
measure table of big, small@kd on digits.test { top1 }
export tiny = small@kd
"""
Run = Callable[..., str]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    """Runs the plan, and gives what it prints."""
    (tmp_path / "plan.kd").write_text(PLAN)
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> str:
        code = main(["run", "plan.kd", *arguments])
        caught = capsys.readouterr()
        assert code == 0, caught.out + caught.err
        return caught.out + caught.err

    call()
    return call


def weights() -> dict[str, bytes]:
    return {p.parent.name: p.read_bytes() for p in Path(".kdplan/phases").glob("*/weights-0-last.safetensors")}


def damage(phase: str) -> Path:
    """Alters a byte in the weights of a phase."""
    folder = next(p for p in Path(".kdplan/phases").iterdir() if f'"{phase}"' in (p / "phase.json").read_text())
    path = folder / "weights-0-last.safetensors"
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)
    return folder


def test_a_teacher_that_is_damaged(run: Run) -> None:
    before = weights()
    damage("big@train")
    output = run("--set", "weight=0.5")
    assert output.count("KD0915") == 1 and "big@train: done" in output and "kd: done" in output
    assert {name: weights()[name] for name in before} == before


def test_a_measure_reads_what_is_damaged(run: Run) -> None:
    before = weights()
    for phase in ("big@train", "kd"):
        damage(phase)
    assert "KD0915" not in run()  # nothing needs the weights: the table is in the store
    shutil.rmtree(".kdplan/measures")
    output = run()
    assert output.count("KD0915") == 2 and "top1" in output
    assert weights() == before


@pytest.mark.parametrize("file", ["phase.json", "manifest.json", "metrics.jsonl", "environment.json", "summary.json"])
@pytest.mark.parametrize("content", [b"", b"[" * 100_000, b'{"a": 1}', b"\xff", None])
def test_an_old_artifact_that_is_damaged_blocks_nothing(run: Run, file: str, content: bytes | None) -> None:
    """The phase's new key has other weights; the old artifact would only give the reason."""
    path = damage("kd") / file
    if content is None:
        path.unlink()
    else:
        path.write_bytes(content)
    assert "kd: done" in run("--set", "weight=0.5")
    for command in ("status", "plan", "why"):
        assert main([command, "plan.kd", *(["kd"] if command == "why" else []), "--set", "weight=0.4"]) == 0


def test_a_shorter_phase_that_is_damaged_is_not_extended(run: Run) -> None:
    """The longer one is trained from its start, to the weights of a run that never was shorter."""
    plan = Path("plan.kd")
    plan.write_text(PLAN.replace("epochs = 1", "epochs = 2"))
    folder = next(p for p in Path(".kdplan/phases").iterdir() if '"big@train"' in (p / "phase.json").read_text())
    state = folder / "final.safetensors"
    state.write_bytes(state.read_bytes()[:-1] + b"!")
    assert "KD0915" in run() and "KD0915" not in run("--store", "whole")
    whole = {p.parent.name: p.read_bytes() for p in Path("whole/phases").glob("*/weights-0-last.safetensors")}
    assert len(whole) == 2 and {name: weights()[name] for name in whole} == whole
