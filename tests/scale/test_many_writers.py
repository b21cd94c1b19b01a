"""Processes that write facts into one store at once lose nothing of one another."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kdplan.runtime.store import Store

PROCESSES, TIMES = 4, 60
WRITE = """
import sys
from kdplan.runtime.store import Store
store, number = Store(sys.argv[1]), sys.argv[2]
print("ready", flush=True)
sys.stdin.readline()
for i in range(60):
    CALL
"""
CALLS = {
    "remember": 'store.remember("a.kd", {f"phase {number}-{i}": f"key {number}-{i}"})',
    "whole": 'store.remember("a.kd", {f"phase {number}-{i}": f"key {number}-{i}" for i in range(i + 1)}, whole=True)',
    "without a lock": 'store.plans.finish("a.kd", {f"phase {number}-{i}": f"key {number}-{i}"})',
    "runs": 'store.plans.begin("a.kd", f"seed={number}-{i}", {"a": f"key {number}-{i}"})',
    "speeds": 'store.keep_speed("cpu", f"key {number}-{i}", i + 1.0)',
}


def written(store: Store, call: str) -> int:
    """How many of the facts of all processes are there."""
    if call == "speeds":
        return len(list(store.root.glob("speeds/*/*.json")))
    record = store.plans.of("a.kd")
    assert not record.damaged
    return len(record.runs if call == "runs" else record.phases)


@pytest.mark.parametrize("call", CALLS)
def test_all_of_them_is_there(call: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    store, code = Store(tmp_path / "store"), WRITE.replace("CALL", CALLS[call])
    if call == "whole":  # a run has registered the phases of all processes
        names = [f"phase {number}-{i}" for number in range(PROCESSES) for i in range(TIMES)]
        store.plans.begin("a.kd", "", dict.fromkeys(names, "key"))
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(store.root), str(number)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
        )
        for number in range(PROCESSES)
    ]  # fmt: skip
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    for writer in writers:  # they write at the same time
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    for writer in writers:
        problem = writer.communicate(timeout=300)[1]
        assert writer.returncode == 0, problem
    assert written(store, call) == PROCESSES * TIMES
    if call not in ("runs", "speeds"):
        assert all(key == name.replace("phase", "key") for name, key in store.last_keys("a.kd").items())
