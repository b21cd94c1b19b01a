"""`--no-code` runs no code of the user's, and lists what is not checked without it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from kdplan.cli import main

Capture = pytest.CaptureFixture[str]
MINE = """
from pathlib import Path
Path(__file__).with_name("marker").touch()
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
    def forward(self, x):
        return self.fc(x.flatten(1))

def f(z):
    return z.mean()
"""
PLAN = """use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.01)  steps = 3  batch = 32 }
student small = my.Net()
student other = digits_net(width = 2)
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
phase second of other on digits with quick { loss = cross_entropy(other.logits, labels) + my.f(other.logits) }
phase third of other on digits with quick { loss = cross_entropy(other.TAP, labels) }
measure table of small@alone.fc, other@third on digits.test { top1 }
"""
OWN = """data own = source("mine.py:make")
phase fourth of other on own with quick { loss = cross_entropy(other.logits, labels) }
measure more of other@fourth on own.test { top1 }
"""
STAGES = """stages mimic of other from small on digits with quick {
  stages = auto
  head { loss = cross_entropy(other.logits, labels) }
}
"""


def write(folder: Path, more: str = "", tap: str = "logits") -> str:
    (folder / "mine.py").write_text(MINE)
    (folder / "plan.kd").write_text(PLAN.replace("TAP", tap) + more)
    return str(folder / "plan.kd")


@pytest.mark.parametrize("command", [["check"], ["check", "--format", "json"], ["plan"], ["plan", "--no-cost"]])
def test_no_code_runs(command: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    monkeypatch.chdir(tmp_path)
    plan = write(tmp_path, OWN + STAGES)
    assert main([command[0], plan, "--no-code", *command[1:]]) == 0
    assert not (tmp_path / "marker").exists()


def test_the_marker_is_written_otherwise(tmp_path: Path) -> None:
    assert main(["check", write(tmp_path)]) == 0
    assert (tmp_path / "marker").exists()


def test_what_is_not_checked_is_listed(tmp_path: Path, capsys: Capture) -> None:
    assert main(["check", write(tmp_path, OWN + STAGES), "--no-code", "--format", "json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {d["code"] for d in found} == {"KD0544"} and all("`mine.py`" in d["message"] for d in found)
    about = {d["message"].partition(" is not checked")[0] for d in found}
    assert about == {
        "Network `small`",
        "Function `f`",
        "Phase `alone`",
        "Phase `second`",
        "What is measured at `small@alone.fc`",
        "`own`, with all that reads it,",
        "`mimic`, with all that reads it,",
    }
    assert all(d["line"] is not None for d in found)


def test_the_rest_is_checked(tmp_path: Path, capsys: Capture) -> None:
    assert main(["check", write(tmp_path, tap="nothing"), "--no-code"]) == 2
    assert "KD0501" in capsys.readouterr().err


def test_code_runs_again_afterwards(tmp_path: Path) -> None:
    plan = write(tmp_path)
    assert main(["check", plan, "--no-code"]) == 0 == main(["check", plan])
    assert (tmp_path / "marker").exists()


def test_costs_of_the_rest_are_shown(tmp_path: Path, capsys: Capture) -> None:
    assert main(["plan", write(tmp_path), "--no-code", "--json", "--store", str(tmp_path / "store")]) == 0
    phases = {p["name"]: p["cost"] for p in json.loads(capsys.readouterr().out)["phases"]}
    assert phases["alone"] is None and phases["second"] is None and phases["third"]["steps"] == 3
