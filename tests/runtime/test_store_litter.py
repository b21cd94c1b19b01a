"""What killed processes leave goes with the next command, and nothing of a process that runs."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.runtime.store import Store
from kdplan.runtime.store.litter import PARTS
from kdplan.runtime.store.lock import read_holder
from kdplan.runtime.store.processes import is_abandoned, is_temporary, temporary
from kdplan.runtime.store.values import Values
from kdplan.runtime.store.work import checkpoint_folders
from tests.processes import DEVNULL, Command

PLAN = """\
data digits = digits { limit = 100 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 2  batch = 50 }
recipe stored = quick { frozen = stored }
teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2)
phase kd of small on digits with stored {
  loss = cross_entropy(small.logits, labels) + kd(teacher = big.logits, student = small.logits)
}
measure table of big, small@kd on digits.test { top1 }
"""

WRITE = """
import sys, time
from pathlib import Path
from kdplan.runtime.store.atomic import write
from kdplan.runtime.store.processes import temporary
for folder in map(Path, sys.argv[1:]):
    folder.mkdir(parents=True, exist_ok=True)
    temporary(folder / "shard-3").mkdir()
def slowly(path):
    path.write_bytes(b"half")
    print("writes", flush=True)
    time.sleep(60)
write(Path(sys.argv[1]) / "a.json", slowly)
"""


@contextmanager
def writer(*folders: Path) -> Iterator[subprocess.Popen[str]]:
    """A process that has begun to write in some folders."""
    command = [sys.executable, "-c", WRITE, *map(str, folders)]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None and process.stdout.readline() == "writes\n"
        yield process
    finally:
        process.kill()
        process.wait()


def temporaries(root: Path) -> list[Path]:
    return sorted(p for p in root.rglob("*") if is_temporary(p.name))


def folders_of(root: Path) -> list[Path]:
    """All folders in which the store writes."""
    inner = [
        root / "plots" / "table",
        root / "plans" / "p1",
        root / "plans" / "p1" / "phases",
        root / "speeds" / "cpu",
        root / "values" / "v1",
        root / "work" / "k1",
        root / "work" / "k1" / "checkpoints",
    ]
    return [root, *(root / part for part in PARTS), *inner]


def test_a_writer_that_runs_and_then_is_killed(tmp_path: Path) -> None:
    """Nothing of it goes while it lives, also stopped; all of it once it is dead."""
    store = Store(tmp_path)
    with store.begin("k1") as work:
        work.save_checkpoint(1, {}, {})
    folders = folders_of(tmp_path)
    with writer(*folders[: len(PARTS) + 5]) as process:  # all but those that are written under a lock
        before = temporaries(tmp_path)
        assert len(before) == len(PARTS) + 6
        assert store.sweep() == []
        process.send_signal(signal.SIGSTOP)
        assert store.sweep() == [] and temporaries(tmp_path) == before
    assert set(store.sweep()) == set(before) and temporaries(tmp_path) == []
    assert store.resume_step("k1") == 1


def test_folders_with_a_lock(tmp_path: Path) -> None:
    """In a phase's folder and in that of values, the lock says whether somebody writes."""
    store = Store(tmp_path)
    values = Values(tmp_path / "values" / "v1", "big.layer2")
    with store.begin("k1") as work:
        work.save_checkpoint(1, {}, {})
        for folder in (work.folder, work.checkpoints):
            (folder / ".new-1-2-x").mkdir()  # of another process or an earlier version
        with values.locked():
            values.put(0, b"...")
            (values.folder / ".new-1-2-x").mkdir()
            assert store.sweep() == [] and len(temporaries(tmp_path)) == 3
            assert store.holder("k1") is not None
        assert (values.folder / ".new-1-2-x") in store.sweep()
    assert len(store.sweep()) == 2 and temporaries(tmp_path) == []
    assert len(values.sound()) == 1 and store.resume_step("k1") == 1


def test_names_of_other_processes() -> None:
    own = temporary(Path("a"))
    head, space, pid, start, *rest = own.name.split("-")
    assert not is_abandoned(own)
    for other in ([head, space, pid, "1", *rest], [head, space, "4194304", start, *rest]):
        assert is_abandoned(Path("-".join(other))), "another process had this number, or none has it"


@pytest.mark.parametrize("name", [".new-0badcafe-1-1-0-a", ".new-7-0-a", ".old-7-k1", ".new-abc"])
def test_unknown_writers_have_a_day(tmp_path: Path, name: str) -> None:
    """Of another host, boot or container, and of an earlier version: nobody knows whether they run."""
    path = tmp_path / "measures" / name
    path.mkdir(parents=True)
    store = Store(tmp_path)
    assert store.sweep() == []
    os.utime(path, (time.time() - 86_500,) * 2)
    assert store.sweep() == [path] and not path.exists()


def test_attempts_without_a_checkpoint(tmp_path: Path) -> None:
    """A killed run's folder goes; that of a run which has not saved yet stays."""
    store = Store(tmp_path)
    code = """
import sys, time
from kdplan.runtime.store import Store
with Store(sys.argv[1]).begin("k1") as work:
    work.log({"step": 1})
    print("runs", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "runs\n"
    assert store.sweep() == [] and store.state("k1") == "running"
    process.kill()
    process.wait()
    assert store.sweep() == [store.work_folder("k1")] and list((tmp_path / "work").iterdir()) == []


def test_a_killed_run_that_can_resume_loses_only_its_lock(tmp_path: Path) -> None:
    store = Store(tmp_path)
    code = """
import os, signal, sys
from kdplan.runtime.store import Store
work = Store(sys.argv[1]).begin("k1")
work.save_checkpoint(3, {"state.safetensors": b"..."}, {})
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    holder = store.work_folder("k1") / "holder.json"
    assert holder.exists()
    store.sweep()
    assert not holder.exists() and store.resume_step("k1") == 3 and store.state("k1") == "interrupted"


def test_a_damaged_checkpoint_is_no_litter(tmp_path: Path) -> None:
    """The run that resumes reports it."""
    store = Store(tmp_path)
    with store.begin("k1") as work:
        work.save_checkpoint(3, {"state.safetensors": b"..."}, {})
        (work.checkpoints / "step-3" / "state.safetensors").write_bytes(b"")
    assert store.sweep() == []
    with store.begin("k1") as work:
        assert work.latest_checkpoint() is None and work.notices[0].code == "KD0908"


def test_runners_beside_those_who_clear_up(tmp_path: Path) -> None:
    """Phases are begun, saved, finished and stopped in processes of their own, while others clear up all the time."""
    code = """
import random, sys
from kdplan.runtime.store import Store, StoreLocked
from kdplan.runtime.store.values import Values
store, draw = Store(sys.argv[1]), random.Random(sys.argv[2])
for i in range(120):
    key = f"{sys.argv[2]}-{draw.randrange(6)}"
    with store.begin(key) as work:
        newest = work.latest_checkpoint()
        assert not work.notices
        step = newest.step if newest else 0
        work.log({"step": step + 1})
        if draw.random() < 0.7:
            work.save_checkpoint(step + 1, {"state.safetensors": bytes(1000)}, {})
            assert store.resume_step(key) == step + 1
        if draw.random() < 0.2:
            work.commit({"weights-0-last.safetensors": b"..."})
            store.verify(key)
            continue
    store.keep_number("costs", key, {"flops": i})
    assert store.number("costs", key) == {"flops": i} and store.refused is None
    values = Values(store.root / "values" / key, "x")
    with values.locked():
        values.put(len(values.sound()), b"...")
    if draw.random() < 0.2 and store.has(key):
        store.drop(key)
"""
    runners = [
        subprocess.Popen([sys.executable, "-c", code, str(tmp_path), str(n)], stderr=subprocess.PIPE, text=True)
        for n in range(3)
    ]
    store = Store(tmp_path)
    sweeps = 0
    while any(r.poll() is None for r in runners):
        store.sweep()
        sweeps += 1
    for runner in runners:
        problem = runner.communicate()[1]
        assert runner.returncode == 0, problem
    assert sweeps > 10
    store.sweep()
    assert temporaries(tmp_path) == []


# ---- whole commands


def unexpected(root: Path) -> list[Path]:
    """Files of a store that a finished run does not leave."""
    usual = (
        "manifest.json",
        "phase.json",
        "summary.json",
        "metrics.jsonl",
        "environment.json",
        "about.json",
        "final.json",
    )
    left = []
    for path in (p for p in root.rglob("*") if p.is_file()):
        part = path.relative_to(root).parts[0]
        known = path.name in usual or path.suffix == ".safetensors" or path.parent.name == "readers"
        known = known or (part in ("plans", "measures", "costs", "verdicts", "speeds") and path.suffix == ".json")
        known = known or path in (root / "leases" / "lock", root / "locks.json")
        if path.name.startswith(".") or part == "work" or not known:
            left.append(path)
    return left


def reads_something(store: Path, pid: int) -> bool:
    """Whether a process has come so far that it has registered what it reads."""
    holders = [read_holder(folder) for folder in (store / "leases").glob("*/")]
    return any(holder is not None and holder.pid == pid for holder in holders)


def kills(folder: Path, times: int, seed: int) -> None:
    """Kills a run at random moments; a last run leaves what an uninterrupted one does, and no litter."""
    (folder / "plan.kd").write_text(PLAN)
    store, draw = folder / "store", random.Random(seed)
    arguments = ["run", str(folder / "plan.kd"), "--checkpoint-seconds", "0", "--store", str(store)]
    for _ in range(times):
        process = Command(arguments, stdout=DEVNULL, stderr=DEVNULL)
        while process.poll() is None and not reads_something(store, process.pid):
            time.sleep(0.01)
        time.sleep(draw.uniform(0, 2.5))
        process.kill()
        process.wait()
    assert Command(arguments, stdout=DEVNULL).wait() == 0
    assert unexpected(store) == []
    assert [p for p in (store / "leases").iterdir() if p.is_dir()] == []
    assert list((store / "work").iterdir()) == []


def test_killed_runs_leave_no_litter(tmp_path: Path) -> None:
    kills(tmp_path, times=3, seed=0)


@pytest.mark.slow
def test_many_killed_runs_leave_no_litter(tmp_path: Path) -> None:
    kills(tmp_path, times=25, seed=1)


@pytest.mark.parametrize(
    "command",
    ["check", "plan", "graph -o dag.dot", "run", "export tiny -o tiny", "store gc", "store rm kd --yes"],
)
def test_every_command_that_may_write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, command: str) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.kd").write_text(PLAN + "export tiny = small@kd\n")
    assert main(["run", "plan.kd", "--store", "store"]) == 0
    with writer(tmp_path / "store" / "phases"):
        pass
    assert len(temporaries(tmp_path)) == 2
    first, *rest = command.split()
    words = [first, *rest] if first == "store" else [first, "plan.kd", *rest]
    for looking in ("status", "why"):
        assert main([looking, "plan.kd", *(["kd"] if looking == "why" else []), "--store", "store"]) == 0
    assert len(temporaries(tmp_path)) == 2, "a command that only looks changes nothing"
    assert main([*words, "--store", "store"]) == 0
    assert temporaries(tmp_path) == []


def test_a_folder_that_goes_while_it_is_listed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Between any two operations another process may remove an attempt."""
    folder = tmp_path / "work" / "0-0" / "checkpoints"
    folder.mkdir(parents=True)
    listdir = os.listdir

    def gone(path: Path) -> list[str]:
        if Path(path) == folder:
            shutil.rmtree(folder.parent, ignore_errors=True)
        return listdir(path)

    monkeypatch.setattr(os, "listdir", gone)
    assert checkpoint_folders(folder) == []
