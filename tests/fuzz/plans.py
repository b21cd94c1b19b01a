"""Many changed plans through the whole compiler, or with `--torch` through `check`.

    python -m tests.fuzz.plans 100000
    python -m tests.fuzz.plans 5000 --torch

Prints a line for each fault, and at the end their number by kind of outcome. Plan N of a seed is always the same text.
"""

from __future__ import annotations

import argparse
import random
import sys
import tempfile
import traceback
from collections import Counter
from pathlib import Path

import sklearn.datasets  # noqa: F401  # what a first plan would import counts for no plan
import torchvision  # noqa: F401

import kdplan.graph.inspect  # noqa: F401
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.syntax.format import format_text
from kdplan.syntax.parse import parse
from kdplan.syntax.walk import same
from tests.fuzz.corpus import Original, originals
from tests.fuzz.mutate import mutated
from tests.fuzz.runner import fault
from tests.fuzz.values import write_files


def plan(number: int, seed: int = 0) -> tuple[Original, str]:
    """A plan of the repository, and that plan with changes."""
    draw = random.Random(f"{seed} {number}")
    original = draw.choice(originals())
    return original, mutated(original.text, draw)


def badly_formatted(text: str) -> str:
    """What is wrong with how a plan that parses is formatted; "" for nothing."""
    try:
        tree = parse(Source("plan.kd", text))
    except PlanError:
        return ""
    try:
        once = Source("plan.kd", format_text(Source("plan.kd", text)))
        if format_text(once) != once.text:
            return "formatted twice it is another text"
        if not same(parse(once).items, tree.items):
            return "formatted it is another tree"
    except Exception:
        return traceback.format_exc()
    return ""


def fuzz(numbers: range, seed: int, root: Path | None, torch: bool = False) -> tuple[Counter[str], list[str]]:
    """Counts of plans and of those with faults, and the faults."""
    counts: Counter[str] = Counter()
    faults: list[str] = []
    with tempfile.TemporaryDirectory() as folder:
        write_files(Path(folder))
        for number in numbers:
            original, text = plan(number, seed)
            counts["plans"] += 1
            where = original.folder or Path(folder)
            problem = fault(text, where, root, torch=torch)
            if problem and "Traceback" not in problem:  # seconds and memory are measured twice: machines are shared
                problem = fault(text, where, root, torch=torch)
            found = [problem, badly_formatted(text)]
            for problem in filter(None, found):
                counts["faults"] += 1
                faults.append(f"{seed} {number}, of {original.name}: {problem.strip().splitlines()[-1]}\n{problem}")
    return counts, faults


def main() -> int:
    """1 where something is wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("count", type=int)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--data", type=Path)
    parser.add_argument("--torch", action="store_true")
    chosen = parser.parse_args()
    total: Counter[str] = Counter()
    for start in range(0, chosen.count, 100):
        numbers = range(start, min(start + 100, chosen.count))
        counts, faults = fuzz(numbers, chosen.seed, chosen.data, chosen.torch)
        total += counts
        for text in faults:
            print(text, flush=True)
    print(dict(total))
    return int(bool(total["faults"]))


if __name__ == "__main__":
    sys.exit(main())
