"""Time and memory of `kdplan check` and of a fully cached `kdplan run` on the quickstart, as whole processes.

    python -m tests.bench.bench_check [RUNS]

The cached run needs the plan to have been run into the default store of the current folder; it is left out otherwise.
Goals: a cached run under 3 s.
"""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.bench.ratios import Ratios, entry

ROOT = Path(__file__).parents[2]
PLAN = ROOT / "plans" / "quickstart.kd"


def once(*arguments: str, program: tuple[str, ...] = ("-m", "kdplan")) -> tuple[float, float, int]:
    """Seconds of wall clock and of CPU, and peak memory in MiB, of one command."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *program, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"{' '.join((*program, *arguments))} failed"
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


def brief() -> Ratios:
    """CPU seconds of a whole command over those of importing torch."""
    torch = "import torch, torchvision"
    pairs = [(once("check", str(PLAN))[1], once(program=("-c", torch))[1]) for _ in range(2)]
    return {"check of the quickstart ÷ import of torch": statistics.median(a / b for a, b in pairs)}


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    commands = {"check": ("check", str(PLAN)), "plan --no-cost": ("plan", str(PLAN), "--no-cost")}
    if Path(os.environ.get("KDPLAN_STORE", ".kdplan")).is_dir():
        commands["run, all cached"] = ("run", str(PLAN))
    print(f"{'command':18} {'wall s':>8} {'CPU s':>8} {'MiB':>6}   (medians of {runs})")
    for name, arguments in commands.items():
        found = [once(*arguments) for _ in range(runs)]
        wall, cpu, memory = (statistics.median(column) for column in zip(*found, strict=True))
        print(f"{name:18} {wall:8.2f} {cpu:8.2f} {memory:6.0f}")


if __name__ == "__main__":
    entry(main, brief)
