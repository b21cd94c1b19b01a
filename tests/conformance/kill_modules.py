"""Runs the phases of many cases in processes of their own, each of which is killed in the middle of a phase.

    python kill_modules.py WHOLE BROKEN SEED CASE…

Every phase runs uninterrupted into the store WHOLE. Into BROKEN a process trains until a random step of the first phase
that is not done, and is killed there by SIGKILL, or stopped by SIGTERM; the next one resumes. So every phase is
interrupted once. Processes are forked from one that has only loaded the libraries and compiled the plan. Prints for
each case the signal and the step.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import warnings
from pathlib import Path

import torch
import torch._dynamo  # optimizers load it at their first step: here once, before processes are forked

from kdplan.compile import Compiled
from kdplan.runtime.events import NoEvents
from kdplan.runtime.execute import run_plan
from kdplan.runtime.interrupt import INTERRUPTED
from kdplan.runtime.loop import Training
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import run_phase  # noqa: F401  loaded before processes are forked
from kdplan.runtime.store import Store
from kdplan.runtime.streams import Batch
from tests.conformance.cases import cases
from tests.conformance.phases import compiled

STEPS = 8
EVERY = 2  # steps from one checkpoint to the next, so that a kill loses some


def run(ready: Compiled, names: list[str], store: str) -> int:
    """Train phases to the end."""
    torch.set_num_threads(1)
    planned = {name: ready.planned[name] for name in names}
    options = RunOptions(device="cpu", checkpoint_steps=EVERY)
    result = run_plan(ready.plan, planned, ready.keys, Store(Path(store)), options, NoEvents())
    for name, problem in result.failed.items():
        print(name, problem, file=sys.stderr)
    return result.exit_code


def killed(ready: Compiled, name: str, store: str, at: int, number: signal.Signals) -> int:
    """Train a phase until a signal comes, while step `at` is computed."""
    plain = Training.train_step

    def train_step(self: Training, batch: Batch) -> None:
        if self.step == at:
            os.kill(os.getpid(), number)
        plain(self, batch)

    Training.train_step = train_step  # type: ignore[method-assign]
    return run(ready, [name], store)


def forked(*arguments: object) -> int:
    """How a process of its own ends that does this: its status as `waitpid` gives it."""
    sys.stdout.flush()
    child = os.fork()
    if child == 0:
        function, *rest = arguments
        code = 70
        try:
            code = function(*rest)  # type: ignore[operator]
        finally:
            os._exit(code)
    return os.waitpid(child, 0)[1]


def main(whole: str, broken: str, seed: str, *wanted: str) -> int:
    """Both runs."""
    warnings.simplefilter("ignore")
    draw = random.Random(int(seed))
    chosen = [case for case in cases() if case.id in wanted]
    ready = compiled(chosen, STEPS, Path.cwd())
    names = {case.id: next(n for n in ready.plan.phases if n.startswith(f"{case.id}_train")) for case in chosen}
    if forked(run, ready, list(names.values()), whole) != 0:
        return 1
    hits = {}
    for case, name in names.items():
        at, number = draw.randrange(1, STEPS - 1), draw.choice([signal.SIGKILL, signal.SIGTERM])
        ended = forked(killed, ready, name, broken, at, number)
        expected = signal.SIGKILL if number == signal.SIGKILL else INTERRUPTED << 8
        if ended != expected:
            print(f"{case}: ended with {ended} instead of {expected} at step {at}", file=sys.stderr)
            return 1
        hits[case] = (number.name, at)
        if forked(run, ready, [name], broken) != 0:
            print(f"{case}: not resumed", file=sys.stderr)
            return 1
    print(json.dumps({case: [names[case], *hit] for case, hit in hits.items()}))
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
