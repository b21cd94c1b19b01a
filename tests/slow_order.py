"""Run the slow tests, file by file, as long as there is time: `python -m tests.slow_order SECONDS`.

Files for which the last round had no time come first, so that a file is left out at most every second round. Results
are kept in `$XDG_CACHE_HOME/kdplan-ci/slow.json`. Without them the order rotates with the commits and the days.
"""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Literal

ROOT = Path(__file__).parent.parent
STATE = Path("kdplan-ci") / "slow.json"
LEAST = 30.0
"""Seconds below which no file is started."""

Outcome = Literal["passed", "failed", "cut off", "not run"]


@dataclass(frozen=True, slots=True)
class Result:
    """How a file's last round ended."""

    outcome: Outcome = "not run"
    seconds: float = 0.0
    """How long it took when it was last run."""
    date: str = ""
    """When it last ended, or had a whole round's time."""


def slow_files(root: Path) -> list[str]:
    """Test files below `root/tests` with slow tests, sorted."""
    mark = re.compile(r"mark\.slow|pytestmark.*slow")
    files = sorted((root / "tests").rglob("test_*.py"))
    return [f.relative_to(root).as_posix() for f in files if mark.search(f.read_text(encoding="utf-8"))]


def ordered(files: Sequence[str], last: Mapping[str, Result], turn: int) -> list[str]:
    """The files in the order of this round: first those that wait longest since they last ended.

    Without results, the list starts at another file every turn.

    >>> ordered(["a", "b", "c"], {"a": Result("passed", 9, "2"), "b": Result("passed", 9, "1")}, 0)
    ['c', 'b', 'a']
    >>> ordered(["a", "b", "c"], {}, 1)
    ['b', 'c', 'a']
    """
    if not any(f in last for f in files):
        # The golden ratio spreads successive turns: the files at the end of one are at the front of the next.
        start = int(turn * 0.6180339887 % 1 * len(files))
        return [*files[start:], *files[:start]]
    return sorted(files, key=lambda f: (last.get(f, Result()).date, f))


def run_files(
    files: Sequence[str],
    last: Mapping[str, Result],
    seconds: float,
    run: Callable[[str, float], Outcome],
    keep: Callable[[Mapping[str, Result]], None],
    now: Callable[[], float] = time.monotonic,
) -> dict[str, Result]:
    """Run the files in their order, and keep the results after each.

    A file that took longer in its last run than there is time is left for the next round. The first file is not.

    Parameters
    ----------
    files, last
        The files in their order, and their results of the last round.
    seconds
        Time for all of them.
    run
        Runs one file for at most so many seconds.
    keep
        Stores the results.
    """
    results = {f: replace(last.get(f, Result()), outcome="not run") for f in files}
    keep(results)
    end = now() + seconds
    for number, file in enumerate(files):
        began = now()
        left = end - began
        if left < LEAST or (number and left < results[file].seconds):
            continue
        outcome = run(file, left)
        # A file that was cut off waits on, unless it had the whole time and the others must have their turn.
        date = results[file].date if outcome == "cut off" and number else datetime.now(UTC).isoformat()
        results[file] = Result(outcome, round(now() - began, 1), date)
        print(f"{outcome}: {file}, {results[file].seconds:.0f} s", flush=True)
        keep(results)
    return results


def pytest_file(file: str, seconds: float) -> Outcome:
    """Run the slow tests of one file; `timeout` also ends the processes that a test started."""
    began = time.monotonic()
    command = [sys.executable, "-m", "pytest", "-m", "slow", file]
    code = subprocess.run(["timeout", "-k", "10", f"{seconds:.0f}", *command], cwd=ROOT, check=False).returncode
    if code == 0:
        return "passed"
    return "cut off" if time.monotonic() - began > seconds - 1 else "failed"


def load(path: Path) -> dict[str, Result]:
    """The results that `path` holds; none if it cannot be read."""
    try:
        return {f: Result(**r) for f, r in json.loads(path.read_text(encoding="utf-8")).items()}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


def save(path: Path, results: Mapping[str, Result]) -> None:
    """Write the results where that is possible; a round does not fail for want of a cache."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({f: asdict(r) for f, r in results.items()}, indent=1), encoding="utf-8")
    except OSError as problem:
        print(f"results are not kept: {problem}")


def current_turn() -> int:
    """A number that changes with every commit and every day."""
    command = ["git", "rev-list", "--count", "HEAD"]
    try:
        commits = int(subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=True).stdout)
    except (OSError, subprocess.CalledProcessError):
        commits = 0
    return commits + datetime.now(UTC).toordinal()


def main(seconds: float) -> int:
    """Run the slow tests for at most so many seconds; 1 if one failed."""
    path = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / STATE
    last = load(path)
    files = ordered(slow_files(ROOT), last, current_turn())
    results = run_files(files, last, seconds, pytest_file, lambda results: save(path, results))
    outcomes: tuple[Outcome, ...] = ("failed", "cut off", "not run", "passed")
    for outcome in outcomes:
        for file in (f for f, r in results.items() if r.outcome == outcome):
            ran = (
                f"{results[file].seconds:.0f} s"
                if outcome != "not run"
                else "no time left, so among the first in the next round"
            )
            print(f"{outcome:8} {file}: {ran}")
    return int(any(r.outcome == "failed" for r in results.values()))


if __name__ == "__main__":
    sys.exit(main(float(sys.argv[1])))
