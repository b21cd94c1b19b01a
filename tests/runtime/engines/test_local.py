"""Workers on this machine, as real processes: the same bits as one process, whatever is killed or edited meanwhile."""

from __future__ import annotations

import os
import re
import signal
import time
from pathlib import Path

import pytest

from kdplan.runtime.store import Store
from tests.cli.test_run import environment
from tests.processes import PIPE, STDOUT, Command

NET = """
from torch import nn

def tiny(width: int = 8, classes: int = 10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, classes))
"""
PLAN = """
use "net.py" as net
data digits = digits { augment = [pad_crop(8, pad = 1)] }
param seed in 0..1
recipe quick { optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = EPOCHS  batch = 32 }
student big = net.tiny(width = 24) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
student small = net.tiny(width = 8)
phase kd of small on digits with quick { loss = kd(small.logits, big.logits, temperature = 2) }
measure table of small@kd on digits.test { top1 }
"""


def folder(tmp_path: Path, name: str, epochs: int = 8) -> Path:
    here = tmp_path / name
    here.mkdir()
    (here / "net.py").write_text(NET)
    (here / "plan.kd").write_text(PLAN.replace("EPOCHS", str(epochs)))
    return here


def started(here: Path, *options: str) -> Command:
    arguments = ["run", "plan.kd", "--store", "store", "--checkpoint-seconds", "0.3", *options]
    return Command(arguments, cwd=here, env=environment(), stdout=PIPE, stderr=STDOUT)


def weights(here: Path) -> dict[str, str]:
    """Key and file -> hash, of everything that was trained."""
    store = Store(here / "store")
    keys = [p.name for p in (here / "store" / "phases").iterdir() if not p.name.startswith(".")]
    hashes = {key: store.verify(key).files for key in keys}
    return {f"{k}/{n}": str(v) for k, files in hashes.items() for n, v in files.items() if n.startswith("weights")}


def workers_of(pid: int) -> list[int]:
    """The processes that a run has started."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(child) for child in children]


def wait_until(happens: object, seconds: float = 120.0) -> None:
    until = time.monotonic() + seconds
    assert callable(happens)
    while not happens():
        assert time.monotonic() < until, "it does not happen"
        time.sleep(0.02)


def steps_logged(here: Path) -> bool:
    return any(p.stat().st_size for p in (here / "store").glob("runs/*/*.jsonl"))


def checkpoints(here: Path) -> bool:
    return any((here / "store" / "work").rglob("step-*/manifest.json"))


@pytest.fixture(scope="module")
def serial(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    here = folder(tmp_path_factory.mktemp("serial"), "serial")
    process = started(here)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return weights(here)


@pytest.fixture(scope="module")
def long(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    here = folder(tmp_path_factory.mktemp("long"), "long", epochs=60)
    process = started(here)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    return weights(here)


def test_two_workers_give_the_bits_of_one_process(tmp_path: Path, serial: dict[str, str]) -> None:
    here = folder(tmp_path, "two")
    output = started(here, "--jobs", "2").communicate(timeout=300)[0]
    assert "table on digits.test" in output, output
    assert weights(here) == serial and len(serial) == 4
    assert not list((here / "store" / "runs").iterdir()) and not list((here / "store").glob("work/*"))
    again = started(here, "--jobs", "2").communicate(timeout=300)[0]
    assert "4 cached" in again


def test_a_worker_is_killed_and_the_sources_are_edited(tmp_path: Path, long: dict[str, str]) -> None:
    here = folder(tmp_path, "killed", epochs=60)
    process = started(here, "--jobs", "2")
    wait_until(lambda: steps_logged(here))
    (here / "net.py").write_text("raise RuntimeError('edited')")
    (here / "plan.kd").write_text("an edit that is no plan")
    for _ in range(3):
        time.sleep(0.7)
        running = workers_of(process.pid)
        if running:
            os.kill(running[0], signal.SIGKILL)
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 0, output
    assert "its worker was ended by SIGKILL; it " in output
    assert weights(here) == long
    assert "table on digits.test" in output


def test_ctrl_c_stops_all_workers_and_the_next_run_resumes(tmp_path: Path, long: dict[str, str]) -> None:
    here = folder(tmp_path, "stopped", epochs=60)
    process = started(here, "--jobs", "2")
    wait_until(lambda: steps_logged(here))
    running = workers_of(process.pid)
    os.kill(process.pid, signal.SIGINT)
    output = process.communicate(timeout=120)[0]
    assert process.returncode == 75, output
    assert re.search(r"interrupted in .* by SIGINT; the same command resumes there", output)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running), 20)
    assert checkpoints(here)
    # Workers or one process: whoever resumes.
    output = started(here).communicate(timeout=300)[0]
    assert "resumes at step" in output and weights(here) == long


def test_workers_end_with_the_run_that_began_them(tmp_path: Path, long: dict[str, str]) -> None:
    here = folder(tmp_path, "orphans", epochs=60)
    process = started(here, "--jobs", "2")
    wait_until(lambda: checkpoints(here))
    running = workers_of(process.pid)
    assert len(running) == 2
    process.kill()
    process.communicate(timeout=60)
    wait_until(lambda: not any(Path(f"/proc/{pid}").exists() for pid in running), 30)
    output = started(here, "--jobs", "2").communicate(timeout=300)[0]
    assert "resumes at step" in output and weights(here) == long


def test_a_failure_is_shown_and_the_logs_of_the_workers_stay(tmp_path: Path) -> None:
    here = folder(tmp_path, "failing")
    text = PLAN.replace("EPOCHS", "4").replace("lr = 0.05", "lr = 900.0").replace("momentum = 0.9", "momentum = 0.99")
    (here / "plan.kd").write_text(text)
    process = started(here, "--jobs", "2", "--keep-going")
    output = process.communicate(timeout=300)[0]
    assert process.returncode == 1 and "KD0820" in output, output
    logs = list((here / "store" / "runs").glob("*/worker-*.log"))
    assert len(logs) == 2 and all("failed at step" in log.read_text() for log in logs)
