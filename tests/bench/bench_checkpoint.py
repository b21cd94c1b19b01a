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
from kdplan.runtime.store.work import Work
start, said = time.perf_counter(), []
save, step = loop.Training.save, loop.Training.train_step
def saved(self, *a, **k):
    began = time.perf_counter()
    result = save(self, *a, **k)
    print(json.dumps({"save": time.perf_counter() - began}), file=sys.stderr, flush=True)
    return result
def stepped(self, batch):
    if not said:
        said.append(1)
        print(json.dumps({"first": time.perf_counter() - start}), file=sys.stderr, flush=True)
    return step(self, batch)
loop.Training.save, loop.Training.train_step = saved, stepped
sys.exit(main(["run", "a.kd", "--store", "store", "--checkpoint-seconds", "4"]))
"""


def run(folder: Path, saves: int) -> tuple[float, list[float]]:
    """Seconds to the first step, and of so many checkpoints, after which the process is killed."""
    process = subprocess.Popen(
        [sys.executable, "-c", RUN], cwd=folder, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
    )
    assert process.stderr is not None
    first, seconds = 0.0, []
    for line in process.stderr:
        if line.startswith("{"):
            said = json.loads(line)
            first = said.get("first", first)
            seconds += [said["save"]] if "save" in said else []
            if (saves and len(seconds) >= saves) or (not saves and first):
                break
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return first, seconds


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
        fresh, seconds = run(folder, rounds)
        size = max(
            sum(f.stat().st_size for f in c.iterdir()) for c in folder.glob("store/work/*/checkpoints/*") if c.is_dir()
        )
        again = [run(folder, 0)[0] for _ in range(3)]
        written = statistics.median(plain(folder, size) for _ in range(3))
    cost = statistics.median(seconds)
    print(f"checkpoint: {size / 1e6:.0f} MB in {cost:.2f} s; plain write {written:.2f} s, ratio {cost / written:.2f}")
    print(f"one a minute: {100 * cost / 60:.2f}% of the time")
    print(f"to the first step: fresh {fresh:.1f} s, resumed {statistics.median(again):.1f} s")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 5)
