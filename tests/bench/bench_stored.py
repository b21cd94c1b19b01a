"""Frozen networks in every step against their values computed once: time, disk, memory, and what `auto` chooses.

    python -m tests.bench.bench_stored [--images 600] [--epochs 8] [--repeats 3]

Two teachers over the halves of the digits, at 32 × 32. Three phases read their features, as amalgamating does: two on
maps, one on scores. Both plans train the same phases in stores of their own, turn by turn in one process; the ratio
of medians is what counts. The time of a phase with `stored` includes making what it is the first to need.
"""

from __future__ import annotations

import argparse
import resource
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from kdplan.cli.inputs import compile_file, open_store
from kdplan.cli.parser import parser
from kdplan.compile import inspect
from kdplan.ir.dag import PhaseKey
from kdplan.runtime.execute import run_plan
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from tests.bench.ratios import Ratios, entry

PLAN = """
data digits = digits {{ augment = [resize(32)]  limit = {images} }}
recipe first {{ optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = 1  batch = 64 }}
recipe quick = first {{ epochs = {epochs}  frozen = {frozen} }}
verticals half of digits {{ low = 0..4  high = 5..9 }}
teacher t[v in half] = cifar_resnet(depth = {depth}, channels = 1, classes = v) {{
  phase train on digits[v] with first {{ loss = cross_entropy(self.logits, labels) }}
}}
student small = cifar_resnet(depth = 8, channels = 1)
phase one of upto(small.layer1) on digits.unlabelled with quick {{
  loss = mse(small.layer1, t[low].layer1) + mse(small.layer1, t[high].layer1)
}}
phase two of upto(small.layer3) on digits.unlabelled with quick {{
  loss = mse(small.layer3, t[low].layer3) + mse(small.layer3, t[high].layer3)
}}
phase scores of small on digits.unlabelled with quick {{
  loss = mse(small.logits, concat(t[low].logits, t[high].logits))
}}
"""
PHASES = ("one", "two", "scores")


def _plan(folder: Path, frozen: str, given: argparse.Namespace, store: Path):  # type: ignore[no-untyped-def]
    file = folder / f"{frozen}.kd"
    file.write_text(PLAN.format(images=given.images, epochs=given.epochs, frozen=frozen, depth=given.depth))
    arguments = parser().parse_args(["plan", str(file), "--store", str(store)])
    return compile_file(arguments, open_store(arguments))


def _seconds(made, store: Path, only: str) -> float:  # type: ignore[no-untyped-def]
    start = time.perf_counter()
    result = run_plan(made.plan, {only: made.planned[only]}, made.keys, Store(store), RunOptions(device="cpu"))
    assert not result.failed, result.failed
    return time.perf_counter() - start


def _bytes(folder: Path) -> int:
    return sum(f.stat().st_size for f in folder.rglob("*") if f.is_file())


def _forget(store: Path, keys: dict[str, PhaseKey]) -> None:
    for name in PHASES:
        Store(store).drop(keys[name].key)


def measure(folder: Path, given: argparse.Namespace) -> tuple[dict[tuple[str, str], list[float]], int, Path]:
    """Seconds by phase and form, bytes of stored values, and the store of the teachers."""
    teachers = folder / "teachers"
    base = _plan(folder, "live", given, teachers)
    for phase in base.planned:
        if phase not in PHASES:
            _seconds(base, teachers, phase)
    times: dict[tuple[str, str], list[float]] = {}
    for _ in range(given.repeats):
        for frozen in ("live", "stored"):
            made = _plan(folder, frozen, given, teachers)
            for phase in PHASES:
                times.setdefault((phase, frozen), []).append(_seconds(made, teachers, phase))
            values = _bytes(teachers / "values") if (teachers / "values").exists() else 0
            _forget(teachers, made.keys)
        for values_of_one in (teachers / "values").iterdir():
            shutil.rmtree(values_of_one)
    return times, values, teachers


def brief() -> Ratios:
    """Phases that read stored values over those that run frozen networks."""
    given = argparse.Namespace(images=120, epochs=3, depth=8, repeats=1)
    with tempfile.TemporaryDirectory() as name:
        times, *_ = measure(Path(name), given)
    live, stored = (sum(statistics.median(times[phase, form]) for phase in PHASES) for form in ("live", "stored"))
    return {"stored ÷ live": stored / live}


def main() -> None:
    """Prints a table: phase, seconds live and stored, ratio."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--images", type=int, default=600)
    options.add_argument("--epochs", type=int, default=8)
    options.add_argument("--depth", type=int, default=20)
    options.add_argument("--repeats", type=int, default=3)
    given = options.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        times, values, teachers = measure(folder, given)
        chosen = _plan(folder, "auto", given, teachers)
        inspect(chosen)
        print("phase    live s  stored s  stored / live  auto stores")
        total = {"live": 0.0, "stored": 0.0}
        for phase in PHASES:
            live, kept = (statistics.median(times[phase, f]) for f in ("live", "stored"))
            total["live"] += live
            total["stored"] += kept
            cost = chosen.planned[phase].cost
            print(f"{phase:8} {live:6.2f} {kept:9.2f} {kept / live:14.2f}  {'yes' if cost and cost.stored else 'no'}")
        print(f"all      {total['live']:6.2f} {total['stored']:9.2f} {total['stored'] / total['live']:14.2f}")
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        print(f"on disk: {values / 1e6:.1f} MB of values; peak memory of the process {peak:.0f} MiB")


if __name__ == "__main__":
    entry(main, brief)
