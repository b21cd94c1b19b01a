"""Text to keys for plans of 100, 1,000 and 10,000 written-out phases: seconds, and seconds a phase.

    python -m tests.bench.bench_keys [SIZES…]

Goal: 10,000 phases in 5 s, growing linearly.
"""

from __future__ import annotations

import resource
import sys
import time
from pathlib import Path

from kdplan.compile import compile_plan
from kdplan.diagnostics.report import Reporter
from kdplan.diagnostics.span import Source
from kdplan.passes.form import check_form
from kdplan.passes.load import load
from kdplan.resolve.plan import resolve
from kdplan.syntax.collector import collector_paused
from tests.bench.ratios import Ratios, by_turns, entry, plain_python


def plan_text(phases: int) -> str:
    """A plan with one teacher and `phases - 1` students, each with a phase of its own, all written out."""
    lines = [
        "data digits = digits",
        "recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 10  batch = 64 }",
        "teacher big = digits_net(width = 16) {",
        "  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }",
        "}",
    ]
    for i in range(1, phases):
        lines += [
            f"student s{i} = digits_net(width = 4) {{ seed = {i} }}",
            f"phase p{i} of s{i} on digits with quick {{",
            f"  loss = cross_entropy(s{i}.logits, labels) + 0.5 * kl(s{i}.logits, big.logits, temperature = 4)",
            "}",
        ]
    return "\n".join(lines) + "\n"


@collector_paused()
def stages(text: str) -> dict[str, float]:
    """Seconds of each stage, with the garbage collector held off as `compile_source` does."""
    reporter = Reporter()
    times: dict[str, float] = {}
    start = time.perf_counter()
    module = load(Source("bench.kd", text), Path("."), reporter)
    times["parse"] = time.perf_counter() - start
    start = time.perf_counter()
    check_form(module, reporter)
    plan = resolve(module, None, reporter)
    times["resolve"] = time.perf_counter() - start
    start = time.perf_counter()
    compiled = compile_plan(plan)
    times["keys"] = time.perf_counter() - start
    assert len({k.key for k in compiled.keys.values()}) == len(compiled.plan.phases)
    return times


def brief() -> Ratios:
    """Text to keys: 1,000 phases over plain Python, and whether a phase of many takes what one of few does."""
    texts = {size: plan_text(size) for size in (100, 1000)}
    stages(texts[100])
    large = by_turns(lambda: stages(texts[1000]), plain_python, 3, warm=0)
    growth = by_turns(lambda: stages(texts[1000]), lambda: [stages(texts[100]) for _ in range(10)], 3, warm=0)
    return {"1,000 phases ÷ plain Python": large.ratio, "a phase of 1,000 ÷ one of 100": growth.ratio}


def main() -> None:
    sizes = [int(a) for a in sys.argv[1:]] or [100, 1000, 10_000]
    stages(plan_text(10))  # grammar tables and the data set's description are made once a process
    print(f"{'phases':>8} {'parse':>8} {'resolve':>8} {'keys':>8} {'total':>8} {'ms/phase':>9}")
    for size in sizes:
        times = min((stages(plan_text(size)) for _ in range(3 if size < 10_000 else 1)), key=lambda t: sum(t.values()))
        total = sum(times.values())
        row = " ".join(f"{times[n]:8.2f}" for n in ("parse", "resolve", "keys"))
        print(f"{size:8d} {row} {total:8.2f} {1000 * total / size:9.3f}")
    print(f"peak memory {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")


if __name__ == "__main__":
    entry(main, brief)
