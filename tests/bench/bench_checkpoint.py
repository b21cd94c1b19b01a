"""Checkpoints: what one costs, how long it takes to go on from it, and their share of a phase's time.

    python -m tests.bench.bench_checkpoint [ROUNDS]

One checkpoint is of a network of 25 million parameters with Adam. Writing is set beside writing the same bytes to a
file and flushing it. The share is that of a network of 9 million parameters with momentum whose epochs last a bit more
than a second each: what training waits, and what the thread computes, over the whole time.

Goals: below 1% of the time, at one a minute and with checkpoints at ends of epochs.
"""

from __future__ import annotations

import hashlib
import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from kdplan.runtime.loop import Training
from kdplan.runtime.store import Store
from tests.bench.ratios import Ratios, by_turns, entry
from tests.runtime.small import job, recipe, streams

PLAN = """\
data digits = digits
recipe quick { optimizer = adam(lr = 0.001)  steps = 10000  batch = 8 }
student large = mlp(inputs = 64, hidden = [4950, 4950])
phase alone of large on digits with quick { loss = cross_entropy(large.logits, labels) }
"""
RUN = """
import json, sys, time
import kdplan.runtime.loop as loop
from kdplan.cli import main
from kdplan.runtime.snapshots import Snapshots
start = time.perf_counter()
save, step, tidy = loop.Training.save, loop.Training.train_step, Snapshots.tidy
def say(what):
    print(json.dumps([what, time.perf_counter() - start]), file=sys.stderr, flush=True)
def saved(self, *a, **k):
    say("save")
    save(self, *a, **k)
    say("go on")
def stepped(self, batch):
    say("step")
    return step(self, batch)
def tidied(self, *a):
    say("done")
    return tidy(self, *a)
loop.Training.save, loop.Training.train_step, Snapshots.tidy = saved, stepped, tidied
sys.exit(main(["run", "a.kd", "--store", "store", "--checkpoint-seconds", "8"]))
"""


def run(folder: Path, saves: int) -> list[tuple[str, float]]:
    """What happened when, up to the first step, or to so many checkpoints; the process is killed then."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    events: list[tuple[str, float]] = []
    for line in process.stderr:
        if line.startswith("["):
            what, at = json.loads(line)
            events.append((what, at))
            if what == "step" and sum(e == "done" for e, _ in events) >= saves:
                break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return events


def costs(events: list[tuple[str, float]]) -> tuple[float, float, float]:
    """Seconds of one checkpoint: that training waits, that it loses to the wait and to slower steps, until it is done.

    Other steps, between two checkpoints, say how long a step takes.
    """
    quiet: list[float] = []
    waits: list[float] = []
    lost: list[float] = []
    until: list[float] = []
    saving, begun, before, busy = False, 0.0, 0.0, []
    for what, at in events:
        if what == "save":
            saving, begun, busy = True, at, [at - before]
        elif what == "go on":
            waits.append(at - begun)
        elif what == "done":
            until.append(at - begun)
            ended = at
            saving = False
        elif what == "step":
            if saving or busy:
                busy.append(at - before)
                if not saving:
                    usual = statistics.median(quiet)
                    lost.append(sum(busy[1:]) - usual * (len(busy) - 1))
                    busy = []
            elif before:
                quiet.append(at - before)
            before = at
    assert ended
    return statistics.median(waits), statistics.median(lost), statistics.median(until)


def plain(folder: Path, size: int) -> float:
    """Seconds to write and flush so many bytes."""
    content, began = os.urandom(1 << 20), time.perf_counter()
    with (folder / "plain").open("wb") as file:
        for _ in range(size >> 20):
            file.write(content)
        file.flush()
        os.fsync(file.fileno())
    return time.perf_counter() - began


@contextmanager
def training(folder: Path, batch: int = 256) -> Iterator[Training]:
    """A network of 9 million parameters with momentum, ready to be trained."""
    torch.manual_seed(0)
    wide = 2950
    net = nn.Sequential(nn.Flatten(), nn.Linear(64, wide), nn.ReLU(), nn.Linear(wide, wide), nn.Linear(wide, 10))
    chosen = recipe(epochs=10_000, batch=batch)
    with Store(folder).begin("k") as work:
        yield Training(job(work, chosen, net, streams=streams(chosen, limit=None), checkpoint_seconds=60))


def share(folder: Path, seconds: float) -> tuple[float, int, float]:
    """Which share of the time checkpoints take, their number, and the seconds of an epoch."""
    spent: list[float] = []
    with training(folder) as one, one.saving:
        save = one.save

        def saved(at_once: bool = False) -> None:
            save(at_once)
            one.saving.collect(wait=True)  # its cost is known when it is written
            spent.append(one.saving.cost)

        one.save = saved  # type: ignore[method-assign]
        one.saved_at = began = time.monotonic()
        epochs = 0
        while time.monotonic() - began < seconds:
            end = time.monotonic() + 1.05
            while time.monotonic() < end:
                one.train_step(next(iter(one.job.streams.epoch(0, 0))))
            one.save_and_report(epochs, last=True)
            epochs += 1
        elapsed = time.monotonic() - began
    return sum(spent) / elapsed, len(spent), elapsed / epochs


def brief() -> Ratios:
    """CPU seconds of a checkpoint over those of copying, hashing and writing its bytes."""
    with tempfile.TemporaryDirectory() as name, training(Path(name) / "store") as one, one.saving:
        one.train_step(next(iter(one.job.streams.epoch(0, 0))))
        source = torch.rand(sum(t.numel() for t in one.checkpoint()[0].values()))
        target = torch.empty_like(source)

        def checkpoint() -> None:
            one.step += 1
            one.save()
            one.saving.collect(wait=True)

        def plainly() -> None:
            content = target.copy_(source).numpy().data.cast("B")
            hashlib.sha256(content).hexdigest()
            with (Path(name) / "plain").open("wb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())

        times = by_turns(checkpoint, plainly, 4)
    return {"CPU seconds of a checkpoint ÷ copy, hash, write": times.ratio}


def main() -> None:
    """Print medians."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    with tempfile.TemporaryDirectory() as name:
        part, number, epoch = share(Path(name), 45)
        print(f"epochs of {epoch:.2f} s, 9M parameters: {number} checkpoints take {100 * part:.2f}% of the time")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "a.kd").write_text(PLAN)
        events = run(folder, rounds)
        fresh = next(at for what, at in events if what == "step")
        size = max(
            sum(f.stat().st_size for f in c.iterdir()) for c in folder.glob("store/work/*/checkpoints/*") if c.is_dir()
        )
        again = [run(folder, 0)[0][1] for _ in range(3)]
        written = statistics.median(plain(folder, size) for _ in range(3))
    wait, lost, until = costs(events)
    print(f"checkpoint: {size / 1e6:.0f} MB on the disk after {until:.2f} s; plain write {written:.2f} s")
    print(f"training waits {wait:.2f} s and loses {lost:.2f} s: at one a minute {100 * lost / 60:.2f}% of the time")
    print(f"to the first step: fresh {fresh:.1f} s, resumed {statistics.median(again):.1f} s")


if __name__ == "__main__":
    entry(main, brief)
