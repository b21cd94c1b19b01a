"""Checkpoints of a network of 25 million parameters with Adam: what one costs, and how long it takes to go on from it.

    python -m tests.bench.bench_checkpoint [ROUNDS]

Goals: below 1% of the time at one a minute. Writing is set beside writing the same bytes to a file and flushing it.
"""

from __future__ import annotations

import json
import os
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

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


def main(rounds: int) -> None:
    """Print medians."""
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
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
