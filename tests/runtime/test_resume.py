"""A phase that is stopped at any moment and resumed: the final weights are bit-equal."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from kdplan.ir.plan import Item
from kdplan.runtime.interrupt import Interrupt, Interrupted
from kdplan.runtime.loop import Training
from kdplan.runtime.store import Store, read_metrics
from tests.runtime.small import job, network, recipe, same, train

SCRIPT = Path(__file__).with_name("train_small.py")
ROOT = Path(__file__).parents[2]


def call(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), env=environment(), capture_output=True, text=True, timeout=300)


def command(*arguments: str) -> list[str]:
    return [sys.executable, str(SCRIPT), *arguments]


def environment() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def files(store: Path) -> dict[str, bytes]:
    folder = store / "phases" / "key-train"
    return {f.name: f.read_bytes() for f in sorted(folder.glob("weights-*"))}


def numbers(store: Path) -> list[dict[str, object]]:
    lines = read_metrics(store / "phases" / "key-train" / "metrics.jsonl")
    return [{k: v for k, v in line.items() if k != "seconds"} for line in lines]


@pytest.mark.parametrize("options", [{}, {"at_once": 0}], ids=["written at once", "written by a thread"])
def test_killed_at_random_moments(options: dict[str, int], tmp_path: Path) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended = call("kill", str(whole), str(broken), json.dumps(options), "1", "8")
    assert ended.returncode == 0, ended.stderr
    hits = json.loads(ended.stdout)
    assert len(hits) >= 4 and len(set(hits)) >= 3  # a fast machine may finish early
    assert hits == sorted(hits)  # no checkpoint was lost
    assert files(whole).keys() == {f"weights-0-{s}.safetensors" for s in ("last", "best", "ema", "epoch=3", "epoch=30")}
    assert files(whole) == files(broken)
    assert numbers(whole) == numbers(broken) != []


def images(folder: Path) -> str:
    draw = random.Random(0)
    for name in ("cat", "dog"):
        (folder / name).mkdir(parents=True)
        for i in range(40):
            Image.frombytes("RGB", (8, 8), draw.randbytes(192)).save(folder / name / f"{i}.png")
    return str(folder)


def test_killed_with_loader_workers(tmp_path: Path) -> None:
    """Images are read by two processes; the whole phase is run once without them, and once with them and kills."""
    settings = {"folder": images(tmp_path / "images"), "epochs": 15, "batch": 16, "keep_epochs": []}
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    ended = call("kill", str(whole), str(broken), json.dumps(settings | {"workers": 2}), "2", "3")
    assert ended.returncode == 0, ended.stderr
    assert len(set(json.loads(ended.stdout))) >= 2
    assert files(whole) == files(broken)
    assert numbers(whole) == numbers(broken) != []


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_signals_stop_with_a_checkpoint(tmp_path: Path, number: signal.Signals) -> None:
    store = tmp_path / "store"
    settings = {"folder": images(tmp_path / "images"), "batch": 16, "workers": 1, "epochs": 100000}
    options = json.dumps(settings | {"checkpoint_seconds": 1000})
    process = subprocess.Popen(command("run", str(store), options), env=environment(), start_new_session=True)
    metrics = store / "work" / "key-train" / "metrics.jsonl"
    end = time.monotonic() + 60
    while not read_metrics(metrics) and time.monotonic() < end:  # an epoch is done: workers are at work
        time.sleep(0.02)
    os.killpg(process.pid, number)  # as a terminal or a scheduler does, loader workers included
    assert process.wait(60) == 75
    assert Store(store).state("key-train") == "interrupted"
    assert Store(store).resume_step("key-train")


def test_second_signal_ends_at_once() -> None:
    code = (
        "import os, signal; from kdplan.runtime.interrupt import Interrupt\n"
        "with Interrupt() as i:\n"
        "    os.kill(os.getpid(), signal.SIGINT); assert i.requested and i.by == 'SIGINT'\n"
        "    os.kill(os.getpid(), signal.SIGTERM); print('still here')\n"
    )
    ended = subprocess.run([sys.executable, "-c", code], env=environment(), capture_output=True, text=True, timeout=60)
    assert (ended.returncode, ended.stdout) == (75, "")


@pytest.mark.parametrize("optimizer", ["sgd", "adam", "adagrad", "rmsprop", "asgd", "nadam", "adafactor"])
@pytest.mark.parametrize("channels_last", [False, True])
def test_resumed_equals_uninterrupted(tmp_path: Path, optimizer: str, channels_last: bool) -> None:
    settings = {"lr": 0.01} | ({"momentum": 0.9} if optimizer == "sgd" else {})
    change = recipe(
        optimizer=Item(optimizer, settings),
        schedule=Item("cosine"),
        warmup=0.5,
        clip=1.0,
        ema=0.8,
        accumulate=2,
        batch=32,
        layout="channels_last" if channels_last else "contiguous",
    )
    whole, parts = network(), network()
    one = train(tmp_path / "a", change, whole)
    for stop in (3, 4, 9):
        interrupt = StopAt(stop)
        with Store(tmp_path / "b").begin("k") as work:
            training = Training(job(work, change, network(seed=0 if stop == 3 else stop), interrupt=interrupt))
            interrupt.training = training
            with pytest.raises(Interrupted):
                training.run()
            assert training.step == stop
    other = train(tmp_path / "b", change, parts)
    assert same(whole, parts)
    a, b = ([{k: v for k, v in r.items() if k != "seconds"} for r in ended.history] for ended in (one, other))
    assert a == b and len(a) == 2


class StopAt(Interrupt):
    """Asks to stop once a step is done."""

    training: Training

    def __init__(self, step: int) -> None:
        super().__init__()
        self.at = step

    @property
    def requested(self) -> bool:
        return hasattr(self, "training") and self.training.step >= self.at

    @requested.setter
    def requested(self, value: bool) -> None:
        assert not value
