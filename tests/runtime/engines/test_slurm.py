"""Phases as jobs, with submitit's local cluster: what a job is asked for, and how it ends."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from types import SimpleNamespace

import pytest

from kdplan.diagnostics.report import PlanError
from kdplan.ir.dag import Cost, Planned
from kdplan.runtime.engines.engine import Run
from kdplan.runtime.options import RunOptions
from kdplan.runtime.worker import Task

submitit = pytest.importorskip("submitit")
from kdplan.runtime.engines.slurm import Phases, Slurm, bundles, needs, refused  # noqa: E402


def waiting(*seconds: float | None, flops: int = 0, memory: int = 0) -> list[tuple[Task, Planned]]:
    return [
        (Task(f"p{n}", f"k{n}"), Planned(f"p{n}", f"k{n}", "run", [], [], cost=Cost(0, 0, flops, 1, memory, 0, 0, one)))
        for n, one in enumerate(seconds)
    ]


def names(made: list[list[tuple[Task, Planned]]]) -> list[list[str]]:
    return [[task.name for task, _ in bundle] for bundle in made]


def test_short_phases_share_a_job() -> None:
    assert names(bundles(waiting(200, 200, 200, 200, 900, 100, 1000), 600)) == [
        ["p0", "p1", "p2"], ["p3"], ["p4"], ["p5"], ["p6"]]  # fmt: skip
    assert names(bundles(waiting(None, 1, None), 600)) == [["p0"], ["p1"], ["p2"]]
    assert len(bundles(waiting(*[0.1] * 120), 600)) == 3


def test_resources_follow_from_the_predicted_cost() -> None:
    asked = needs(waiting(600.0, 60.0, flops=3 * 10**9, memory=8 * 10**9))
    assert asked == {"cpus_per_task": 3, "mem_gb": 20.0, "timeout_min": 37}
    assert "timeout_min" not in needs(waiting(None))
    assert needs([(Task("p", "k"), Planned("p", "k", "run", [], []))]) == {}


def run(folder: Path, **settings: str) -> Run:
    return Run(folder, str(folder), RunOptions(), settings=tuple(settings.items()))


def test_what_the_cluster_refuses(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for settings in ({"cluster": "local", "partitoin": "gpu"}, {"cluster": "moon"}, {"timeout_min": "soon"}):
        with pytest.raises(PlanError) as problem:
            Slurm(run(tmp_path, **settings))
        assert [d.code for d in problem.value.diagnostics] == ["KD0976"]
    if not os.environ.get("SLURM_CONF"):
        monkeypatch.setenv("PATH", "")
        with pytest.raises(PlanError, match="KD0976"):
            Slurm(run(tmp_path))
    text = "sbatch: error: invalid partition specified: moon\nsbatch: error: Batch job submission failed"
    assert "invalid partition specified: moon" in str(refused(RuntimeError(text)))


def test_a_phase_with_too_little_memory_asks_for_more(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    engine = Slurm(run(tmp_path, cluster="local"))
    asked: list[float] = []
    monkeypatch.setattr(engine.executor, "update_parameters", lambda **values: asked.append(values["mem_gb"]))
    monkeypatch.setattr(engine.executor, "submit", lambda function: SimpleNamespace(done=lambda: False))
    [(task, step)] = waiting(1.0)
    for alone in (False, True):
        assert engine.room(step, alone) == ""
        engine.submit(task, step)
        engine.lost()
        engine._jobs.clear()
    assert asked == [4.0, 8.0]


def test_a_signal_stops_the_phase_at_a_checkpoint_and_the_job_waits_for_it(tmp_path: Path) -> None:
    """The signal's handler interrupts the job's own waiting, so neither may hold what the other needs."""
    code = (
        "import signal, sys, time, pathlib\n"
        f"signal.signal(signal.SIGUSR2, lambda *_: (time.sleep(0.5), pathlib.Path({str(tmp_path / 'saved')!r}).touch(),"
        " sys.exit(75)))\n"
        f"pathlib.Path({str(tmp_path / 'ready')!r}).touch()\n"
        "time.sleep(60)\n"
    )
    phases = Phases([])
    saved: list[bool] = []

    def interrupted(number: int, frame: object) -> None:
        phases.checkpoint()
        saved.append((tmp_path / "saved").exists())

    before = signal.signal(signal.SIGUSR1, interrupted)
    real = subprocess.Popen

    def started(command: list[str]) -> subprocess.Popen[bytes]:
        return real([sys.executable, "-c", code])

    def ask() -> None:
        while not (tmp_path / "ready").exists():
            time.sleep(0.02)
        os.kill(os.getpid(), signal.SIGUSR1)

    try:
        threading.Thread(target=ask).start()
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr("kdplan.runtime.engines.slurm.subprocess.Popen", started)
            assert phases() == 75
    finally:
        signal.signal(signal.SIGUSR1, before)
    assert saved == [True]
