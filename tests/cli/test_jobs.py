"""`run --jobs` and `--engine`: what the options mean, and what is wrong with them."""

from __future__ import annotations

import subprocess
import sys
import time
from importlib.metadata import EntryPoint
from pathlib import Path

import pytest

from tests.cli.conftest import Kdplan
from tests.cli.test_run import environment
from tests.scale.together import run, together


@pytest.mark.parametrize(
    "options",
    [["--jobs", "0"], ["--jobs", "many"], ["--jobs", "-1"], ["--jobs", "2.0"], ["--jobs", "²"],
     ["--jobs", "2", "--engine-option", "partition"], ["--jobs", "2", "--engine-option", "=gpu"],
     ["--engine-option", "partition=gpu"]],
)  # fmt: skip
def test_options_that_are_not_understood(kdplan: Kdplan, folder: Path, options: list[str]) -> None:
    ran = kdplan("run", "a.kd", *options)
    assert ran.code == 2 and "KD0975" in ran.err
    assert not (folder / ".kdplan" / "runs").exists()


def test_an_unknown_engine(kdplan: Kdplan, folder: Path) -> None:
    ran = kdplan("run", "a.kd", "--engine", "kubernetes")
    assert ran.code == 2 and "KD0972" in ran.err and "local" in ran.err


def test_an_engine_that_is_not_installed(kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("ray", "no_such_module_xyz:engine", "kdplan.engines")
    monkeypatch.setattr("kdplan.runtime.engines.engine.entry_points", lambda group: [point])
    ran = kdplan("run", "a.kd", "--engine", "ray")
    assert ran.code == 2 and "KD0973" in ran.err and "pip install 'kdplan[ray]'" in ran.err


def test_nothing_to_train_starts_no_worker(kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert kdplan("run", "a.kd").code == 0
    monkeypatch.setattr("subprocess.Popen", None)
    ran = kdplan("run", "a.kd", "--jobs", "2")
    assert ran.code == 0 and "2 cached" in ran.out


def test_a_detached_run_goes_on_in_the_background(kdplan: Kdplan, folder: Path) -> None:
    """Mistakes are reported before; then the command ends, and another process trains and measures."""
    text = (folder / "a.kd").read_text()
    (folder / "wrong.kd").write_text(text.replace("cross_entropy(self.logits", "cross_entropy(self.nothing"))
    assert kdplan("run", "wrong.kd", "--detach").code == 2 and not list(folder.glob(".kdplan/runs/*"))
    ran = kdplan("run", "a.kd", "--detach", "--jobs", "2")
    assert ran.code == 0 and "table" not in ran.out
    [log] = folder.glob(".kdplan/runs/*.log")
    assert str(log.relative_to(folder)) in ran.out and "kdplan status a.kd" in ran.out
    until = time.monotonic() + 120
    while "table on digits.test" not in log.read_text():
        assert time.monotonic() < until, log.read_text()
        time.sleep(0.1)
    assert kdplan("run", "a.kd", "--detach").out.count("2 cached") == 1


def test_a_table_says_what_is_not_trained(kdplan: Kdplan, folder: Path) -> None:
    ran = kdplan("run", "a.kd", "--only", "big@train")
    assert ran.code == 0 and "table: 1 of 2 networks not trained yet" in ran.out
    assert "not trained yet" not in kdplan("run", "a.kd").out


def test_workers_below_torchrun(folder: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "kdplan", "run", "a.kd"]
    ran = subprocess.run([*command, "--jobs", "2"], capture_output=True, text=True, env=environment(), timeout=120)
    assert ran.returncode != 0 and "KD0977" in ran.stderr


def test_a_background_below_torchrun(folder: Path) -> None:
    """With the variables that torchrun sets."""
    [codes] = together([run("a", 2, ".kdplan", "--detach")], folder)
    assert 0 not in codes and "KD0977" in (folder / "out-0-0").read_text()
