"""The sections of `tests/gpu/run.sh`: what each runs, how long it may take, and what becomes of its output.

Each section is a process of its own, so that none takes another with it. The file of results is written after each.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]
LEAST = 15.0
"""Seconds below which no section is begun."""
TAIL = 3000
"""Characters of a section's output that are kept where it failed."""


@dataclass(frozen=True, slots=True)
class Section:
    """One part of the run.

    Attributes
    ----------
    name : str
    seconds : float
        Its budget.
    command : tuple of str
        After `python -m`.
    rehearsal : tuple of str
        The same with little work, on a CPU.
    """

    name: str
    seconds: float
    command: tuple[str, ...]
    rehearsal: tuple[str, ...]


def _checks(name: str, seconds: float) -> Section:
    command = ("tests.gpu.checks", name)
    return Section(name, seconds, (*command, "--device", "cuda:0"), (*command, "--device", "cpu", "--small"))


SECTIONS = (
    _checks("facts", 20),
    Section("tests", 150, ("pytest", "-q", "-p", "no:cacheprovider", "-rs", "tests/gpu/test_cuda.py"),
            ("pytest", "-q", "-p", "no:cacheprovider", "-rs", "tests/gpu/test_cuda.py", "tests/gpu/test_beside.py")),
    _checks("determinism", 120),
    Section("step", 120, ("tests.gpu.bench_phase", "--device", "cuda:0"),
            ("tests.gpu.bench_phase", "--device", "cpu", "--steps", "2", "--batch", "8", "--depths", "8", "8",
             "--arms", "eager", "lean")),
    _checks("quickstart", 80),
    Section("branches", 45, ("tests.bench.bench_branches", "--device", "cuda", "--only", "stacked"),
            ("tests.bench.bench_branches", "--only", "stacked", "--steps", "1", "--cases", "1", "--batches", "4")),
    Section("heads", 45, ("tests.bench.bench_heads", "--device", "cuda"),
            ("tests.bench.bench_heads", "--classes", "1000", "--base", "64", "--batch", "8", "--steps", "1")),
    _checks("nccl", 45),
    _checks("jobs", 80),
)  # fmt: skip
"""The most valuable first."""


Run = Callable[[Sequence[str], float], tuple[int | None, str]]
"""Runs a command for so many seconds at most: its exit code (None where it was stopped), and its output."""


def run_process(command: Sequence[str], seconds: float) -> tuple[int | None, str]:
    """Run a command with its children, and end them all when its time is over."""
    process = subprocess.Popen(
        command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    try:
        output, _ = process.communicate(timeout=seconds)
        return process.returncode, output
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        output, _ = process.communicate()
        return None, output


def numbers(output: str) -> Any:
    """The last line of an output that is a JSON object; None where there is none.

    >>> numbers("hello\\n{\\"a\\": 1}\\nbye")
    {'a': 1}
    """
    for line in reversed(output.splitlines()):
        if line.startswith("{") and line.rstrip().endswith("}"):
            try:
                return json.loads(line)
            except json.JSONDecodeError:
                continue
    return None


def result(code: int | None, output: str, seconds: float) -> dict[str, Any]:
    """What the file says about a section that was begun."""
    state = "out of time" if code is None else "ok" if code == 0 else "failed"
    about: dict[str, Any] = {"state": state, "seconds": round(seconds, 1)}
    if (found := numbers(output)) is not None:
        about["numbers"] = found
    elif state == "ok":
        about["lines"] = output.splitlines()[-40:]
    if state != "ok":
        about |= {"exit_code": code, "output": output[-TAIL:]}
    return about


def run_all(
    sections: Sequence[Section],
    out: Path,
    seconds: float,
    rehearse: bool,
    run: Run = run_process,
    clock: Callable[[], float] = time.monotonic,
) -> dict[str, Any]:
    """Run sections in order as long as there is time; the file `out` has what is known after each.

    Returns
    -------
    dict
        `sections`: name -> state (`ok`, `failed`, `out of time`, `left`), seconds, numbers or output; `left`: the
        names of those that were not begun.
    """
    began = clock()
    report: dict[str, Any] = {"rehearsal": rehearse, "sections": {}, "left": [s.name for s in sections]}
    for section in sections:
        left = seconds - (clock() - began)
        if left < LEAST:
            break
        start = clock()
        command = [sys.executable, "-m", *(section.rehearsal if rehearse else section.command)]
        budget = min(left, section.seconds * (4 if rehearse else 1))  # a rehearsal's machine may be a slow one
        about = result(*run(command, budget), clock() - start)
        report["sections"][section.name] = about
        report["left"].remove(section.name)
        report["seconds"] = round(clock() - began, 1)
        out.write_text(json.dumps(report, indent=1), encoding="utf-8")
        print(f"{section.name:12} {about['state']:12} {about['seconds']:6.1f} s", flush=True)
    for name in report["left"]:
        report["sections"][name] = {"state": "left"}
    out.write_text(json.dumps(report, indent=1), encoding="utf-8")
    return report


def chosen(names: Sequence[str] | None, sections: Sequence[Section] = SECTIONS) -> list[Section]:
    """The sections with these names, in the order of the table; all of them for None."""
    return [s for s in sections if names is None or s.name in names]


def code_of(report: Mapping[str, Any]) -> int:
    """1 where a section failed or ran out of time; sections that were left do not count."""
    return int(any(s["state"] in ("failed", "out of time") for s in report["sections"].values()))


def main(argv: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="tests/gpu/run.sh", description=__doc__)
    out = os.environ.get("OUT")
    parser.add_argument("--out", type=Path, default=Path(out) / "gpu.json" if out else Path("gpu.json"))
    parser.add_argument("--seconds", type=float, default=540.0)
    parser.add_argument("--only", nargs="+", choices=[s.name for s in SECTIONS])
    parser.add_argument("--rehearse", action="store_true")
    given = parser.parse_args(argv)
    report = run_all(chosen(given.only), given.out.absolute(), given.seconds, given.rehearse)
    if report["left"]:
        print(f"no time was left for: {', '.join(report['left'])}")
    print(f"results: {given.out}")
    return code_of(report)


if __name__ == "__main__":
    sys.exit(main())
