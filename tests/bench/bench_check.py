"""Time and memory of commands as whole processes: help, `fmt`, `check` and a fully cached `run` of the quickstart.

    python -m tests.bench.bench_check [RUNS]

The cached run needs the plan to have been run into the default store of the current folder; it is left out otherwise.
The last column is the CPU time in units of `import torch`, measured beside it: the rest depends on the machine.
Goals: a cached run under 3 s; help and `fmt` 0.15 CPU s.
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


KDPLAN = ("-m", "kdplan")
TORCH = ("-c", "import torch")


def once(*arguments: str) -> tuple[float, float, int]:
    """Seconds of wall clock and of CPU, and peak memory in MiB, of one process of Python."""
    began = time.perf_counter()
    process = subprocess.Popen([sys.executable, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    assert status == 0, f"python {' '.join(arguments)} failed"
    return time.perf_counter() - began, used.ru_utime + used.ru_stime, used.ru_maxrss // 1024


def brief() -> Ratios:
    """CPU seconds of a whole command over those of importing torch."""
    pairs = [(once(*KDPLAN, "check", str(PLAN))[1], once(*TORCH)[1]) for _ in range(2)]
    return {"check of the quickstart ÷ import of torch": statistics.median(a / b for a, b in pairs)}


def main() -> None:
    runs = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    commands = {
        "--help": ("--help",),
        "fmt --check": ("fmt", "--check", str(PLAN)),
        "check": ("check", str(PLAN)),
        "plan --no-cost": ("plan", str(PLAN), "--no-cost"),
    }
    if Path(os.environ.get("KDPLAN_STORE", ".kdplan")).is_dir():
        commands["run, all cached"] = ("run", str(PLAN))
    print(f"{'command':18} {'wall s':>8} {'CPU s':>8} {'MiB':>6} {'torch':>6}   (medians of {runs})")
    for name, arguments in commands.items():
        pairs = [(once(*KDPLAN, *arguments), once(*TORCH)) for _ in range(runs)]
        wall, cpu, memory = (statistics.median(column) for column in zip(*(one for one, _ in pairs), strict=True))
        ratio = statistics.median(one[1] / torch[1] for one, torch in pairs)
        print(f"{name:18} {wall:8.2f} {cpu:8.2f} {memory:6.0f} {ratio:6.2f}")


if __name__ == "__main__":
    entry(main, brief)
