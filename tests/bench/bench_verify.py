"""What comparing a user's code with its graph costs: `check`, and the first step of a phase, as ratios in one run.

    python -m tests.bench.bench_verify [ROUNDS] [check] [small] [larger]

Every round runs `check` of the quickstart and of examples/02 with and without the comparison, turn by turn, in a child
process that has imported all modules: the first time (no verdict is kept) and the second time (all are in a store).

For the first step, a phase that has a network and a function of the user is made ready and does one step, without and
with the comparison, in pairs in one process: that of examples/02, whose teacher is fresh, and one of a ResNet-18 on
32 x 32 pixels in batches of 64. The differences are given in steps of that phase. Goals: `check` of the quickstart is
no slower, the first step is at most one step longer.
"""

from __future__ import annotations

import os
import pickle
import re
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from kdplan.compile import compile_source, inspect
from kdplan.diagnostics.span import Source
from kdplan.graph.verify import _KNOWN
from kdplan.runtime import phase as phases
from kdplan.runtime.loop import Training
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import PhaseRun
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.bench.ratios import Ratios, entry

ROOT = Path(__file__).parents[2]
PLANS = {"quickstart": ROOT / "plans/quickstart.kd", "examples/02": ROOT / "examples/02_own_network_and_loss/plan.kd"}
CALLS = ("kdplan.graph.inspect.verify", "kdplan.graph.inspect.verify_calls")
IN_RUN = ("kdplan.runtime.phase.verify", "kdplan.runtime.phase.verify_calls", "kdplan.runtime.loop.FirstBatch.of")


def without(names: tuple[str, ...]) -> ExitStack:
    """A context in which nothing is compared."""
    stack = ExitStack()
    for name in names:
        stack.enter_context(patch(name, lambda *_, n=name, **__: None if n.endswith(".of") else []))
    return stack


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` gives in a fork of this process, which keeps nothing of it."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, pickle.dumps(work()))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pickle.loads(pipe.read())
    os.wait()
    return result


def compiled(path: Path) -> Any:
    return compile_source(Source(str(path), path.read_text()), path.parent)


def check(path: Path, folder: str | None, names: tuple[str, ...] = ()) -> float:
    """Seconds of CPU of a check, with verdicts in a folder."""
    began = time.process_time()
    with without(names):
        inspect(compiled(path), verdicts=Store(folder) if folder is not None else None)
    return time.process_time() - began


def first_steps(folder: Path, text: str, name: str, rounds: int, count: int) -> tuple[float, list[float]]:
    """Seconds of CPU of a step of a phase, and how much longer the first one takes, pair by pair.

    The first one begins with loaded files: the phase is made ready, and does a step. Its verdicts are in the store, as
    `run` checks before.
    """
    plan = compile_source(Source(str(folder / "plan.kd"), text), folder)
    phase, key = plan.plan.phases[name], plan.keys[name].key
    assert any(plan.plan.networks[t.base.network].code for t in phase.trainees), "nothing to compare"
    longer, steps = [], []
    with tempfile.TemporaryDirectory() as stored:
        inspect(plan, [name], verdicts=Store(stored))
        for number in range(rounds + 1):  # the first pair imports, and is left out
            took = []
            for names in (IN_RUN, ()):
                _KNOWN.clear()
                with tempfile.TemporaryDirectory() as made, without(names):
                    store = Store(made)
                    if not names:
                        shutil.copytree(Path(stored) / "verdicts", Path(made) / "verdicts")
                    run = PhaseRun(Sources(plan.plan, store, plan.keys), RunOptions(device="cpu"))
                    with store.begin(key) as work:
                        began = time.process_time()
                        job = phases.make_job(run, phase, key, work, torch.device("cpu"))
                        training, batches = Training(job), iter(job.streams.epoch(0))
                        training.train_step(next(batches))
                        took.append(time.process_time() - began)
                        for _ in range(count):
                            began = time.process_time()
                            training.train_step(next(batches))
                            steps.append(time.process_time() - began)
            if number:
                longer.append(took[1] - took[0])
    return statistics.median(steps), longer


def larger(folder: Path) -> str:
    """A plan whose student is a ResNet-18 of the user's for images of 32 x 32 pixels."""
    (folder / "net.py").write_text(RESNET)
    return LARGER


RESNET = """import torch
import torch.nn.functional as F
from torch import nn


class Block(nn.Module):
    def __init__(self, a, b, stride):
        super().__init__()
        self.conv1, self.bn1 = nn.Conv2d(a, b, 3, stride, 1, bias=False), nn.BatchNorm2d(b)
        self.conv2, self.bn2 = nn.Conv2d(b, b, 3, 1, 1, bias=False), nn.BatchNorm2d(b)
        self.down = nn.Identity()
        if a != b:
            self.down = nn.Sequential(nn.Conv2d(a, b, 1, stride, bias=False), nn.BatchNorm2d(b))

    def forward(self, x):
        y = self.bn2(self.conv2(F.relu(self.bn1(self.conv1(x)))))
        return F.relu(y + self.down(x))


class ResNet18(nn.Module):
    def __init__(self):
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, 64, 3, 1, 1, bias=False), nn.BatchNorm2d(64), nn.ReLU())
        widths = [(64, 64, 1), (64, 128, 2), (128, 256, 2), (256, 512, 2)]
        self.stages = nn.ModuleList(nn.Sequential(Block(a, b, s), Block(b, b, 1)) for a, b, s in widths)
        self.fc = nn.Linear(512, 10)

    def forward(self, x):
        x = self.stem(x)
        for stage in self.stages:
            x = stage(x)
        return self.fc(x.mean((2, 3)))


def data():
    x, y = torch.randn(640, 3, 32, 32), torch.arange(640) % 10
    return {"train": (x, y), "test": (x[:64], y[:64])}


def smooth(z):
    return -F.log_softmax(z, 1).mean()
"""
LARGER = """use "net.py" as my
data own = source("net.py:data")
recipe quick { optimizer = sgd(lr = 0.01, momentum = 0.9)  epochs = 1  batch = 64 }
student small = my.ResNet18()
phase alone of small on own with quick { loss = cross_entropy(small.logits, labels) + 0.1 * my.smooth(small.logits) }
"""


def print_checks(rounds: int) -> None:
    """The table of `check`."""
    for path in PLANS.values():
        in_child(lambda path=path: check(path, None))  # type: ignore[misc]
    print(f"{'plan':14} {'off s':>7} {'first':>7} {'second':>7}   (ratios to off; medians of {rounds}, CPU seconds)")
    for name, path in PLANS.items():
        rows = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                off = in_child(lambda path=path: check(path, None, CALLS))  # type: ignore[misc]
                first, second = (in_child(lambda path=path, f=folder: check(path, f)) for _ in range(2))  # type: ignore[misc]
                rows.append((off, first / off, second / off))
        off, first, second = (statistics.median(c) for c in zip(*rows, strict=True))
        print(f"{name:14} {off:7.2f} {first:7.2f} {second:7.2f}")


def print_first_step(name: str, folder: Path, text: str, phase: str, rounds: int, count: int) -> None:
    """A row of the table of first steps."""
    step, longer = in_child(lambda: first_steps(folder, text, phase, rounds, count))
    middle, least, most = (value / step for value in (statistics.median(longer), min(longer), max(longer)))
    print(f"first step of {name:14} {step * 1e3:8.1f} ms, longer by {middle:.2f} steps ({least:.2f} to {most:.2f})")


def brief() -> Ratios:
    """The first step of a phase with a user's code, in steps."""
    example = PLANS["examples/02"]
    text = re.sub(r"\bbig\.", "big@init.", example.read_text())
    step, longer = in_child(lambda: first_steps(example.parent, text, "imitate", 3, 6))
    return {"first step, compared ÷ a step": 1.0 + statistics.median(longer) / step}


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    which = sys.argv[2:] or ["check", "small", "larger"]
    if "check" in which:
        print_checks(rounds)
    if "small" in which:
        example = PLANS["examples/02"]
        text = re.sub(r"\bbig\.", "big@init.", example.read_text())  # a fresh teacher: it need not be trained first
        print_first_step("examples/02", example.parent, text, "imitate", 2 * rounds, 10)
    if "larger" in which:
        with tempfile.TemporaryDirectory() as folder:
            text = larger(Path(folder))
            print_first_step("ResNet-18", Path(folder), text, "alone", max(rounds // 2, 1), 2)


if __name__ == "__main__":
    entry(main, brief)
