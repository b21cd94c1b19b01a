"""A small plan in a folder of its own, and commands run in it."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from kdplan.cli import main

PLAN = """\
param epochs = 1
param weight = 0.9

data digits = digits { limit = 100 }

recipe quick {
  optimizer = sgd(lr = 0.1)
  epochs    = epochs
  batch     = 50
}

teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}

student small = digits_net(width = 2)

phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + weight * kd(small.logits, big.logits, temperature = 4)
}

measure table of big, small@kd on digits.test { top1 }

export tiny = small@kd
"""


@dataclass
class Ran:
    """Exit code and output of a command."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The output as JSON."""
        return json.loads(self.out)

    @property
    def phases(self) -> dict[str, dict[str, Any]]:
        """The phases of `kdplan plan --json`, by name."""
        return {p["name"]: p for p in self.json["phases"]}


Kdplan = Callable[..., Ran]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder, with `a.kd` and a store of its own."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDPLAN_STORE", raising=False)
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "a.kd").write_text(PLAN)
    return tmp_path


@pytest.fixture
def kdplan(folder: Path, capsys: pytest.CaptureFixture[str]) -> Kdplan:
    """`kdplan("run", "a.kd")`."""

    def run(*arguments: str) -> Ran:
        capsys.readouterr()
        try:
            code = main(arguments)
        except SystemExit as stop:  # argparse
            code = int(stop.code or 0)
        output = capsys.readouterr()
        return Ran(code, output.out, output.err)

    return run
