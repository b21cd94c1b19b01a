"""Forty phases on every engine while workers are killed and the plan is edited: the weights of one process."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.scale.engines import finished, folder, kill_at_random, started, weights

pytestmark = pytest.mark.slow
ENGINES = {
    "jobs": ("--jobs", "2"),
    "ray": ("--engine", "ray", "--jobs", "2"),
    "slurm": ("--engine", "slurm", "--engine-option", "cluster=local", "--jobs", "2"),
}


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    here = folder(tmp_path_factory.mktemp("serial"), "serial")
    assert started(here).wait(timeout=900) == 0, (here / "output.txt").read_text()
    found = weights(here)
    assert len(found) == 8 + 16 + 16
    return found


@pytest.mark.parametrize("engine", ENGINES)
def test_workers_are_killed(engine: str, tmp_path: Path, serial: dict[str, str]) -> None:
    here = folder(tmp_path, engine)
    process = started(here, *ENGINES[engine])
    while not list((here / "store").glob("runs/*/*.jsonl")):
        assert process.poll() is None, (here / "output.txt").read_text()
        time.sleep(0.1)
    (here / "plan.kd").write_text("an edit that is no plan")
    (here / "net.py").write_text("raise RuntimeError('edited')")
    killed = kill_at_random(process, here, every=3.0, most=15, seed=0, limit=1500)
    output = (here / "output.txt").read_text()
    assert process.returncode == 0, output[-3000:]
    assert killed >= 3, output
    assert weights(here) == serial
    assert set(finished(here).values()) == {1} and len(finished(here)) == 40
    assert not list((here / "store" / "work").iterdir())


@pytest.mark.parametrize("engine", ENGINES)
def test_ctrl_c_and_another_engine_goes_on(engine: str, tmp_path: Path, serial: dict[str, str]) -> None:
    here = folder(tmp_path, engine)
    process = started(here, *ENGINES[engine])
    while not list((here / "store").glob("work/*/checkpoints/step-*")):
        assert process.poll() is None, (here / "output.txt").read_text()
        time.sleep(0.1)
    os.kill(process.pid, signal.SIGINT)
    assert process.wait(timeout=120) == 75, (here / "output.txt").read_text()
    assert "the same command resumes there" in (here / "output.txt").read_text()
    assert started(here, "--jobs", "2").wait(timeout=900) == 0, (here / "output.txt").read_text()
    assert weights(here) == serial
