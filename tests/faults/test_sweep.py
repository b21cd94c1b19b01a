"""A run that is killed or refused at operations on its store ends, run again, as if nothing had been.

`python -m tests.faults.sweep kill error` fails every operation once.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.faults.sweep import PLANS

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
@pytest.mark.parametrize("plan", list(PLANS))
@pytest.mark.parametrize("kind", ["kill", "error"])
def test_each_failpoint(plan: str, kind: str) -> None:
    result = swept(kind, "--plans", plan, "--short")
    assert result["counts"][kind] >= len(result["points"]) > 20
    assert result["wrong"] == []


def test_a_few_failpoints() -> None:
    result = swept("kill", "error", "--plans", "distil", "--short", "--share", "7", "16")
    assert result["wrong"] == [] and sum(result["counts"].values()) >= 6


def swept(*arguments: str) -> dict[str, object]:
    command = [sys.executable, "-m", "tests.faults.sweep", *arguments]
    ran = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode in (0, 1), ran.stderr
    return json.loads(ran.stdout)  # type: ignore[no-any-return]


def test_runs_at_once() -> None:
    command = [sys.executable, "-m", "tests.faults.together", "2"]
    ran = subprocess.run(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
