"""A process killed at any moment leaves a store from which everything that was promised can be read."""

from __future__ import annotations

import random
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdplan.runtime.store import Store

LAST = 12
RUN = """
import sys
from kdplan.runtime.store import Store
store = Store(sys.argv[1])
def tensors(n):
    momentum = bytes([n]) * 200_000
    return {"model.safetensors": bytes([n]) * 300_000, "optimizer.safetensors": lambda p: p.write_bytes(momentum)}
for number in range(1000):
    key = f"k{number}"
    if store.has(key):
        continue
    with store.begin(key) as work:
        found = work.latest_checkpoint()
        step = found.step if found else 0
        assert not work.notices, work.notices
        work.rewind(found)
        print("begun", key, step, flush=True)
        while step < LAST:
            step += 1
            work.log({"step": step})
            work.save_checkpoint(step, tensors(step), {"step": step})
            print("saved", key, step, flush=True)
        work.commit({"weights-0-last.safetensors": bytes([step]) * 300_000, "summary.json": {"step": step}})
        print("done", key, step, flush=True)
""".replace("LAST", str(LAST))


def run_and_kill(store: Store, seconds: float) -> list[list[str]]:
    process = subprocess.Popen([sys.executable, "-c", RUN, str(store.root)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(seconds)
    process.kill()
    lines = [first, *process.stdout]
    process.wait()
    return [line.split() for line in lines if line.endswith("\n")]


def check(store: Store, reports: list[list[str]]) -> None:
    """The last reports of the killed process hold."""
    for what, key, step in reports:
        if what == "done":
            artifact = store.verify(key)
            assert artifact.weights() == bytes([LAST]) * 300_000
            assert [r["step"] for r in artifact.metrics()] == list(range(1, LAST + 1))
        elif not store.has(key) and what == "saved":
            assert (store.resume_step(key) or 0) >= int(step)
    for entry in (store.root / "phases").glob("[!.]*"):
        store.verify(entry.name)


def kill_many(root: Path, times: int, seed: int) -> None:
    store, draw = Store(root), random.Random(seed)
    for _ in range(times):
        reports = run_and_kill(store, draw.uniform(0, 0.08))
        assert reports and reports[0][0] == "begun"
        check(store, reports)
    with_leftovers = [w for w in (store.root / "work").iterdir() if not store.has(w.name)]
    assert len(with_leftovers) <= 1, "only the last phase is unfinished"
    store.sweep()
    for entry in (store.root / "phases").iterdir():
        assert not (store.root / "work" / entry.name).exists()


def test_kill_at_random_moments(tmp_path: Path) -> None:
    kill_many(tmp_path, times=20, seed=0)


@pytest.mark.slow
def test_kill_at_very_many_random_moments(tmp_path: Path) -> None:
    kill_many(tmp_path, times=300, seed=1)
