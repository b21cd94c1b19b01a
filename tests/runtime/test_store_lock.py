"""Two processes never work on one phase, and a dead one never keeps it."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from kdplan.runtime.store import Store, StoreLocked
from kdplan.runtime.store.lock import Holder, start_token

HOLD = """
import os, sys, time
from kdplan.runtime.store import Store
work = Store(sys.argv[1]).begin("k1")
if sys.argv[2:] == ["fork"]:
    ours, theirs = os.pipe()
    if os.fork() == 0:
        os.write(theirs, b".")  # it runs, so what is to happen in a forked child has happened
        time.sleep(60)
    os.read(ours, 1)
print("held", flush=True)
time.sleep(60)
"""


def start(store: Store, *extra: str) -> subprocess.Popen[str]:
    process = subprocess.Popen(
        [sys.executable, "-c", HOLD, str(store.root), *extra], stdout=subprocess.PIPE, text=True, start_new_session=True
    )
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path)


def test_second_process_is_told_who_holds_the_lock(store: Store) -> None:
    process = start(store)
    try:
        with pytest.raises(StoreLocked) as error:
            store.begin("k1")
        assert error.value.exit_code == 3 and error.value.diagnostics[0].code == "KD0901"
        assert f"process {process.pid} on " in str(error.value)
        assert store.state("k1") == "running"
        holder = store.holder("k1")
        assert holder is not None and holder.pid == process.pid
        with store.begin("k2"):
            pass  # another phase of the same store
    finally:
        process.kill()
        process.wait()
    with store.begin("k1"):
        pass


@pytest.mark.parametrize("extra", [[], ["fork"]])
def test_lock_ends_with_kill(store: Store, extra: list[str]) -> None:
    """Also while a child that was forked afterwards, such as a loader's worker, lives on."""
    process = start(store, *extra)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    try:
        assert store.holder("k1") is None and store.state("k1") == "missing"
        with store.begin("k1") as work:
            work.commit({"summary.json": {}})
    finally:
        if extra:
            os.killpg(process.pid, signal.SIGKILL)


def test_two_in_one_process(store: Store) -> None:
    with store.begin("k1"), pytest.raises(StoreLocked):
        store.begin("k1")
    with store.begin("k1"):
        pass


def test_recycled_process_number_is_not_the_holder(store: Store) -> None:
    with store.begin("k1") as work:
        work.save_checkpoint(1, {}, {})
        data = json.loads((work.folder / "holder.json").read_text())
    data["token"] = "another-start"
    (work.folder / "holder.json").write_text(json.dumps(data))
    assert store.holder("k1") is None
    with store.begin("k1"):
        assert store.holder("k1") is not None


def test_token_of_a_dead_process() -> None:
    process = subprocess.Popen([sys.executable, "-c", ""])
    process.wait()
    assert start_token(process.pid) == ""
    assert Holder(1, "x", "some-other-host", "then").alive, "a process of another host counts as alive"


def test_many_runners_commit_once_each(store: Store) -> None:
    """Runners that contend for the same few phases: each phase is trained by one, none is lost."""
    code = """
import sys
from kdplan.runtime.store import Store, StoreLocked
store, made = Store(sys.argv[1]), 0
for i in range(200):
    key = f"k{i % 40}"
    if store.has(key):
        continue
    try:
        with store.begin(key) as work:
            if not store.has(key):
                work.commit({"summary.json": {"i": i}})
                made += 1
    except StoreLocked:
        pass
print(made)
"""
    runners = [
        subprocess.Popen([sys.executable, "-c", code, str(store.root)], stdout=subprocess.PIPE, text=True)
        for _ in range(4)
    ]
    commits = [int(r.communicate()[0]) for r in runners]
    assert [r.returncode for r in runners] == [0] * 4
    assert sum(commits) == 40
    for i in range(40):
        store.verify(f"k{i}")
    assert len(list((store.root / "work").iterdir())) == 0
