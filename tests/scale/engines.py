"""A plan of forty phases for engines, and workers that are killed meanwhile."""

from __future__ import annotations

import json
import os
import random
import signal
import time
from collections import Counter
from pathlib import Path

from kdplan.runtime.store import Store
from tests.cli.test_run import environment
from tests.processes import STDOUT, Command

PLAN = """
use "net.py" as net
data digits = digits { augment = [pad_crop(8, pad = 1)] }
param seed in 0..7
param temperature in [1, 4]
recipe quick { optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = 25  batch = 32 }
student big = net.tiny(width = 24) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
student small = net.tiny(width = 8)
phase kd of small on digits with quick { loss = kd(small.logits, big.logits, temperature = temperature) }
phase more of small@kd on digits with quick {
  loss = cross_entropy(small.logits, labels) + 0.1 * kd(small.logits, small@kd.logits, temperature = 2)
}
measure table of small@kd on digits.test over seed { top1 }
"""
NET = """
from torch import nn

def tiny(width: int = 8, classes: int = 10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Dropout(0.1), nn.Linear(width, classes))
"""


def folder(parent: Path, name: str, plan: str = PLAN) -> Path:
    here = parent / name
    here.mkdir()
    (here / "net.py").write_text(NET)
    (here / "plan.kd").write_text(plan)
    return here


def started(here: Path, *options: str) -> Command:
    arguments = ["run", "plan.kd", "--store", "store", "--checkpoint-seconds", "0.5", *options]
    with (here / "output.txt").open("w") as output:
        return Command(arguments, cwd=here, env=environment(), stdout=output, stderr=STDOUT)


def weights(here: Path) -> dict[str, str]:
    """Key and file -> hash, of every artifact; each is verified."""
    store = Store(here / "store")
    keys = [p.name for p in (here / "store" / "phases").iterdir() if not p.name.startswith(".")]
    return {
        f"{key}/{name}": str(digest)
        for key in keys
        for name, digest in store.verify(key).files.items()
        if name.startswith("weights")
    }


def finished(here: Path) -> Counter[str]:
    """Phase -> how often the run showed that it was done."""
    lines = (here / "output.txt").read_text().splitlines()
    return Counter(line.partition(":")[0] for line in lines if ": done in " in line)


def workers(here: Path) -> dict[str, int]:
    """Key of a phase that is trained -> the process that has its lock."""
    holders = {}
    for path in (here / "store" / "work").glob("*/holder.json"):
        try:
            holders[path.parent.name] = int(json.loads(path.read_text())["value"]["pid"])
        except (OSError, ValueError, KeyError):
            continue
    return holders


def kill_at_random(process: Command, here: Path, every: float, most: int, seed: int, limit: float) -> int:
    """Kills a worker every few seconds until the run ends, `most` times at most; returns how many.

    A phase is killed at most twice without a newer checkpoint: one that never advances has failed.
    """
    draw, killed, began = random.Random(seed), 0, time.monotonic()
    store, at = Store(here / "store"), Counter[tuple[str, int | None]]()
    while process.poll() is None:
        assert time.monotonic() - began < limit, (here / "output.txt").read_text()[-3000:]
        time.sleep(draw.uniform(0.5, 1.5) * every)
        there = [(key, pid) for key, pid in workers(here).items() if at[key, store.resume_step(key)] < 2]
        if there and killed < most:
            key, pid = draw.choice(there)
            at[key, store.resume_step(key)] += 1
            try:
                os.kill(pid, signal.SIGKILL)
                killed += 1
            except ProcessLookupError:
                continue
    return killed
