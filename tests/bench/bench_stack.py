"""The time of a step of a stack, in parts of that of its phases one after another.

    python -m tests.bench.bench_stack [--rounds 20] [--only NAME]

Steps of both kinds take turns in one process, so only the ratio counts: below 1 the stack is faster. Whole steps are
timed: batches are there already, and forward, backward, optimizer, sums of losses are done.
"""

from __future__ import annotations

import argparse
import statistics
import tempfile
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from kdplan.graph.stack import differing
from kdplan.runtime.loop import Training
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import PhaseRun, begin, in_its_surroundings, make_job
from kdplan.runtime.stack_trial import _first_batches, try_out
from kdplan.runtime.stacked import Form, Stack, graph_of
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.bench.ratios import Ratios, entry

PLAN = """
param seed in 0..LAST
data digits = digits { limit = 512 }
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 5e-4)  epochs = 1  batch = 64 }
student small = NETWORK
phase p of small on digits with quick { loss = cross_entropy(small.logits, labels) }
"""
MLP = """
from torch import nn

def mlp(width=16, classes=10):
    return nn.Sequential(nn.Flatten(), nn.Linear(64, width), nn.ReLU(), nn.Linear(width, classes))
"""


@dataclass(frozen=True)
class Case:
    """So many phases of one network."""

    name: str
    network: str
    members: int


CASES = [
    *(Case(f"{k} x digits_net(2)", "digits_net(width = 2)", k) for k in (3, 6, 12)),
    *(Case(f"{k} x mlp(16)", "my.mlp(width = 16)", k) for k in (3, 6, 12)),
    Case("6 x digits_net(8)", "digits_net(width = 8)", 6),
    Case("6 x digits_net(24, blocks 2)", "digits_net(width = 24, blocks = 2)", 6),
    Case("3 x resnet8", "cifar_resnet(depth = 8, channels = 1)", 3),
]


def measure(case: Case, rounds: int) -> tuple[float, float, float]:
    """Milliseconds of a stack's step; its ratio to the phases alone in seconds, and in seconds of the processor."""
    with tempfile.TemporaryDirectory() as name, ExitStack() as locks:
        folder = Path(name)
        (folder / "net.py").write_text(MLP)
        text = PLAN.replace("LAST", str(case.members - 1)).replace("NETWORK", case.network)
        whole = compile_source(Source("plan.kd", f'use "net.py" as my\n{text}' if "my." in text else text), folder)
        store = Store(folder / "store")
        members: dict[int, Training] = {}
        for row, phase in enumerate(whole.plan.phases.values()):
            run = PhaseRun(Sources(whole.plan, store, whole.keys), RunOptions(device="cpu"))
            key = whole.keys[phase.name].key
            work = locks.enter_context(store.begin(key))
            members[row] = Training(make_job(run, phase, key, work, begin(run, phase)))
        numbers = tuple(differing([graph_of(t) for t in members.values()]))
        stack = Stack(members, Form(case.members, False, numbers))
        with in_its_surroundings(stack.first):
            try_out(stack, timed=False)
            batches = _first_batches(members, shared=False)
            alone, together = [], []
            for _ in range(rounds):
                for row in members:
                    stack.release(row)
                alone.append(_timed(lambda: [t.train_step(batches[row]) for row, t in members.items()]))
                stack.train_step(members, batches)  # its tensors are the members' again
                together.append(_timed(lambda: stack.train_step(members, batches)))
    wall = [statistics.median(t[0] for t in times) for times in (together, alone)]
    cpu = [statistics.median(t[1] for t in times) for times in (together, alone)]
    return wall[0] * 1e3, wall[0] / wall[1], cpu[0] / cpu[1]


def _timed(work: object) -> tuple[float, float]:
    start, cpu = time.perf_counter(), time.process_time()
    work()  # type: ignore[operator]
    return time.perf_counter() - start, time.process_time() - cpu


def brief() -> Ratios:
    """CPU seconds of a step of a stack over those of its phases alone."""
    return {f"CPU seconds of {case.name} ÷ alone": measure(case, 8)[2] for case in CASES[:1]}


def main() -> None:
    """Print a line for each case."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--only", default="")
    arguments = parser.parse_args()
    print(f"{'phases':32} {'ms a step':>10} {'ratio':>8} {'of CPU':>8}")
    for case in CASES:
        if arguments.only in case.name:
            wall, ratio, cpu = measure(case, arguments.rounds)
            print(f"{case.name:32} {wall:10.2f} {ratio:8.2f} {cpu:8.2f}", flush=True)


if __name__ == "__main__":
    entry(main, brief)
