"""Whole runs with two workers against the same runs in one process, and what a phase costs besides its training.

    python -m tests.bench.bench_jobs [ROUNDS]

Goals on two quiet cores: at most 0.6 of the time of one process; below 1 s a phase on a worker that has trained before.
The second plan needs CIFAR-100 in KDPLAN_DATA.
"""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.ratios import Ratios, entry

ROOT = Path(__file__).resolve().parents[2]
SHORT = ("epochs=1", "images=1000", "heads=1", "teacher_depth=8", "student_depth=8")
TINY = """
param number in 1..20
data digits = digits { limit = 200 }
recipe quick { optimizer = sgd(lr = 0.005 * number)  epochs = 2  batch = 50 }
student small = digits_net(width = 2)
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
"""


def seconds(plan: Path, *options: str) -> tuple[float, float]:
    """The time of a run in an empty store, and the sum of its phases' own seconds."""
    with tempfile.TemporaryDirectory() as store:
        command = [sys.executable, "-m", "kdplan", "run", str(plan), "--store", store, *options]
        began = time.perf_counter()
        subprocess.run(command, check=True, capture_output=True, cwd=ROOT)
        whole = time.perf_counter() - began
        own = [json.loads(p.read_text())["seconds"] for p in Path(store).glob("phases/*/summary.json")]
        return whole, sum(own)


def compare(name: str, plan: Path, *options: str, rounds: int) -> None:
    """Serial and two workers in turn."""
    pairs = [(seconds(plan, *options)[0], seconds(plan, *options, "--jobs", "2")[0]) for _ in range(rounds)]
    ratios = [two / one for one, two in pairs]
    for one, two in pairs:
        print(f"{name}: {one:.1f} s in one process, {two:.1f} s with two workers, ratio {two / one:.2f}")
    print(f"{name}: median ratio {statistics.median(ratios):.2f}")


def brief() -> Ratios:
    """Two small phases with two workers, over the same in one process."""
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "tiny.kd"
        plan.write_text(TINY)
        options = ("--set", "number=[1, 2]")
        return {
            "two phases, two workers ÷ one process": seconds(plan, *options, "--jobs", "2")[0]
            / seconds(plan, *options)[0]
        }


def main() -> None:
    """Print all comparisons."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 3
    compare("quickstart", ROOT / "plans" / "quickstart.kd", rounds=rounds)
    if os.environ.get("KDPLAN_DATA"):
        options = [word for setting in SHORT for word in ("--set", setting)]
        compare("figure1 in short", ROOT / "plans" / "stage_by_stage" / "figure1.kd", *options, rounds=rounds)
    with tempfile.TemporaryDirectory() as folder:
        plan = Path(folder) / "tiny.kd"
        plan.write_text(TINY)
        for _ in range(rounds):
            few = seconds(plan, "--jobs", "1", "--set", "number=[1, 2]")
            many = seconds(plan, "--jobs", "1")
            print(f"a phase on a warm worker: {(many[0] - few[0] - many[1] + few[1]) / 18:.3f} s besides its training")


if __name__ == "__main__":
    entry(main, brief)
