"""Freed memory is kept while a phase trains, and given back afterwards."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdplan.runtime import execute, memory
from kdplan.runtime.store import Store
from tests.runtime.small import assemble, digits_plan, keys, planned

pytestmark = pytest.mark.skipif(memory._glibc() is None, reason="not glibc")

FAULTS = """
import resource, contextlib, torch
from kdplan.runtime.memory import freed_memory_kept

def faults() -> int:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    for _ in range(10):
        held = [torch.ones(10_000_000) for _ in range(2)]
        del held
    return resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before

def resident() -> int:
    return int(open("/proc/self/statm").read().split()[1]) * resource.getpagesize()

found = [faults()]
with freed_memory_kept():
    faults()
    found += [faults(), resident()]
found += [resident(), faults()]
print(*found)
"""


def measured(**environ: str) -> list[int]:
    command = [sys.executable, "-c", FAULTS]
    result = subprocess.run(command, env={**os.environ, **environ}, capture_output=True, text=True, check=True)
    return [int(n) for n in result.stdout.split()]


def test_steps_reuse_pages_and_the_end_gives_them_back() -> None:
    plain, kept, inside, outside, later = measured()
    assert kept * 5 < min(plain, later)
    assert inside - outside > 70_000_000


def test_whoever_says_how_memory_behaves_is_obeyed() -> None:
    plain, kept, *_ = measured(MALLOC_TRIM_THRESHOLD_="1000000", MALLOC_MMAP_THRESHOLD_="1000000")
    assert kept * 2 > plain > 0


def test_phases_train_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inside: list[str] = []

    @contextmanager
    def spied() -> Iterator[None]:
        inside.append("begin")
        yield
        inside.append("end")

    monkeypatch.setattr(execute, "freed_memory_kept", spied)
    plan = digits_plan(epochs=1)
    execute.run_plan(plan, planned(plan), keys(plan), Store(tmp_path), assemble=assemble)
    assert inside == ["begin", "end"] * len(plan.phases)
