"""All benches, briefly, compared with the ratios that are committed.

    python -m tests.bench.bench_all [--only NAME…] [--write]

Each `bench_NAME.py`, and `peers.py`, runs with `--brief` in a process of its own. Ratios that are more than 10% above
those of `ratios.json` are measured up to twice more, and the least of each counts: other work on the machine makes a
ratio worse by chance, and hardly ever better. What stays above is printed. The exit code is 1 only where a ratio is
above 1.6 times the committed one, or a bench fails. `--write` puts what was measured into `ratios.json`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

from tests.bench.ratios import Ratios

FOLDER = Path(__file__).parent
COMMITTED = FOLDER / "ratios.json"
WORSE, FAILS = 1.1, 1.6
AGAIN = 2
LIMIT = 400
"""Seconds that one bench may take, briefly."""

Results = dict[str, Ratios]
"""Bench -> its ratios."""


def benches() -> dict[str, str]:
    """Name -> module, of all benches but this."""
    files = {p.stem.removeprefix("bench_"): p.stem for p in sorted(FOLDER.glob("bench_*.py")) if p.stem != "bench_all"}
    return files | {"peers": "peers"}


def brief(name: str) -> Ratios:
    """The ratios of a bench, from a process of its own; RuntimeError if it fails or takes too long."""
    command = [sys.executable, "-m", f"tests.bench.{benches()[name]}", "--brief"]
    root = FOLDER.parents[1]
    path = os.pathsep.join(filter(None, (str(root), os.environ.get("PYTHONPATH"))))
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=LIMIT, cwd=root, env=os.environ | {"PYTHONPATH": path}
        )
    except subprocess.TimeoutExpired:
        raise RuntimeError(f"{name} takes more than {LIMIT} s") from None
    if done.returncode:
        raise RuntimeError(f"{name} failed:\n{done.stderr[-2000:]}")
    ratios: Ratios = json.loads(done.stdout.splitlines()[-1])
    return ratios


def worse(ratios: Ratios, committed: Ratios, margin: float) -> dict[str, float]:
    """Name -> how many times the committed ratio, for those above the margin; new ones are never worse.

    >>> worse({"a": 1.3, "b": 1.0, "new": 9.0}, {"a": 1.0, "b": 1.0}, 1.1)
    {'a': 1.3}
    """
    times = {name: ratio / committed[name] for name, ratio in ratios.items() if name in committed}
    return {name: by for name, by in times.items() if by > margin}


def settled(name: str, committed: Ratios, measure: Callable[[str], Ratios] = brief) -> Ratios:
    """The ratios of a bench, measured again as long as one is worse and tries are left; the least of each."""
    best = measure(name)
    for _ in range(AGAIN):
        if not worse(best, committed, WORSE):
            break
        again = measure(name)
        best = {key: min(ratio, again[key]) for key, ratio in best.items()}
    return best


def compared(results: Results, committed: Results) -> tuple[list[str], bool]:
    """Lines on what is worse, new or gone, and whether something fails."""
    lines, fails = [], False
    for name, ratios in results.items():
        before = committed.get(name, {})
        for key, by in worse(ratios, before, WORSE).items():
            bad = by > FAILS
            fails |= bad
            word = "FAILS" if bad else "worse"
            lines.append(f"{word}: {name}: {key}: {ratios[key]:.3f}, {by:.2f} x {before[key]:.3f}")
        lines += [f"new: {name}: {key}: {ratios[key]:.3f}" for key in ratios.keys() - before.keys()]
        lines += [f"gone: {name}: {key}" for key in before.keys() - ratios.keys()]
    return lines, fails


def main() -> int:
    """Run, compare, print; the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", nargs="+", choices=list(benches()), default=list(benches()))
    parser.add_argument("--write", action="store_true", help="commit what is measured now")
    given = parser.parse_args()
    committed: Results = json.loads(COMMITTED.read_text(encoding="utf-8")) if COMMITTED.exists() else {}
    results: Results = {}
    failed = False
    for name in given.only:
        began = time.monotonic()
        try:
            results[name] = settled(name, {} if given.write else committed.get(name, {}))
        except RuntimeError as problem:
            print(f"FAILS: {problem}", flush=True)
            failed = True
            continue
        for key, ratio in results[name].items():
            print(f"{name:12} {ratio:8.3f}  {key}  ({time.monotonic() - began:.0f} s)", flush=True)
    if given.write:
        rounded = {n: {k: round(r, 3) for k, r in ratios.items()} for n, ratios in (committed | results).items()}
        COMMITTED.write_text(json.dumps(rounded, indent=1, ensure_ascii=False, sort_keys=True) + "\n", encoding="utf-8")
        return int(failed)
    lines, fails = compared(results, committed)
    print("\n".join(lines) or "nothing is worse by more than 10%")
    return int(failed or fails)


if __name__ == "__main__":
    sys.exit(main())
