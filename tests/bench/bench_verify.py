"""What comparing a user's code with its graph costs: `check`, and the first step of a phase, as ratios in one run.

    python -m tests.bench.bench_verify [ROUNDS]

Every round runs `check` of the quickstart and of examples/02 with and without the comparison, turn by turn, in a child
process that has imported all modules: the first time (no verdict is kept) and the second time (all are in a store).

For the first step, the phase of examples/02 that has a network and a function of the user is made ready to train
without and with the comparison, in pairs in one process; its teacher is fresh. The differences are given in steps of
that phase. Goals: `check` of the quickstart is no slower, the first step is at most one step longer.
"""

from __future__ import annotations

import os
import pickle
import re
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch

from kdplan.compile import compile_source, inspect
from kdplan.diagnostics.span import Source
from kdplan.graph.verify import _KNOWN
from kdplan.runtime import phase as phases
from kdplan.runtime.loop import Training
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import PhaseRun
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources

ROOT = Path(__file__).parents[2]
PLANS = {"quickstart": ROOT / "plans/quickstart.kd", "examples/02": ROOT / "examples/02_own_network_and_loss/plan.kd"}
CALLS = ("kdplan.graph.inspect.verify", "kdplan.graph.inspect.verify_calls")
IN_RUN = ("kdplan.runtime.phase.verify", "kdplan.runtime.phase.verify_calls")
STEPS = 10


def without(names: tuple[str, ...]) -> ExitStack:
    """A context in which nothing is compared."""
    stack = ExitStack()
    for name in names:
        stack.enter_context(patch(name, lambda *_, **__: []))
    return stack


def in_child(work: Callable[[], Any]) -> Any:
    """What `work` gives in a fork of this process, which keeps nothing of it."""
    read, write = os.pipe()
    if os.fork() == 0:
        os.write(write, pickle.dumps(work()))
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        result = pickle.loads(pipe.read())
    os.wait()
    return result


def compiled(path: Path) -> Any:
    return compile_source(Source(str(path), path.read_text()), path.parent)


def check(path: Path, folder: str | None, names: tuple[str, ...] = ()) -> float:
    """Seconds of CPU of a check, with verdicts in a folder."""
    began = time.process_time()
    with without(names):
        inspect(compiled(path), verdicts=Store(folder) if folder is not None else None)
    return time.process_time() - began


def first_steps(path: Path, name: str, rounds: int) -> tuple[float, list[float]]:
    """Seconds of CPU of a step of a phase, and how much longer it takes to be ready, pair by pair."""
    text = re.sub(r"\bbig\.", "big@init.", path.read_text())
    plan = compile_source(Source(str(path), text), path.parent)
    phase, key = plan.plan.phases[name], plan.keys[name].key
    assert phase.code and any(plan.plan.networks[t.base.network].code for t in phase.trainees), "nothing to compare"
    longer, steps = [], []
    for number in range(rounds + 1):  # the first pair imports, and is left out
        ready = []
        for names in (IN_RUN, ()):
            _KNOWN.clear()
            with tempfile.TemporaryDirectory() as folder, without(names):
                store = Store(folder)
                run = PhaseRun(Sources(plan.plan, store, plan.keys), RunOptions(device="cpu"))
                with store.begin(key) as work:
                    began = time.process_time()
                    job = phases.make_job(run, phase, key, work, torch.device("cpu"))
                    ready.append(time.process_time() - began)
                    training, batches = Training(job), iter(job.streams.epoch(0))
                    training.train_step(next(batches))
                    began = time.process_time()
                    for _ in range(STEPS):
                        training.train_step(next(batches))
                    steps.append((time.process_time() - began) / STEPS)
        if number:
            longer.append(ready[1] - ready[0])
    return statistics.median(steps), longer


def main() -> None:
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    for path in PLANS.values():
        in_child(lambda path=path: check(path, None))  # type: ignore[misc]
    print(f"{'plan':14} {'off s':>7} {'first':>7} {'second':>7}   (ratios to off; medians of {rounds}, CPU seconds)")
    for name, path in PLANS.items():
        rows = []
        for _ in range(rounds):
            with tempfile.TemporaryDirectory() as folder:
                off = in_child(lambda path=path: check(path, None, CALLS))  # type: ignore[misc]
                first, second = (in_child(lambda path=path, f=folder: check(path, f)) for _ in range(2))  # type: ignore[misc]
                rows.append((off, first / off, second / off))
        off, first, second = (statistics.median(c) for c in zip(*rows, strict=True))
        print(f"{name:14} {off:7.2f} {first:7.2f} {second:7.2f}")
    print(f"{'first step of':14} {'step ms':>8} {'longer by, in steps: median':>28} {'least':>7} {'most':>7}")
    for name, phase in (("examples/02", "imitate"),):
        step, longer = in_child(lambda n=name, p=phase: first_steps(PLANS[n], p, 2 * rounds))  # type: ignore[misc]
        middle, least, most = (value / step for value in (statistics.median(longer), min(longer), max(longer)))
        print(f"{name:14} {step * 1e3:8.1f} {middle:28.2f} {least:7.2f} {most:7.2f}")


if __name__ == "__main__":
    main()
