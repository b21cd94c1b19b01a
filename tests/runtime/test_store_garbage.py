"""What nobody reads is removed, and nothing else, whatever goes on meanwhile."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.ir.dag import PhaseKey
from kdplan.runtime.store import Store, StoreCorrupt, StoreLocked, Work, lease, phase_json
from kdplan.runtime.store.atomic import remove
from kdplan.runtime.store.garbage import garbage, in_use, roots, take_names
from kdplan.runtime.store.inventory import entries
from kdplan.runtime.store.sealed import write_sealed
from kdplan.runtime.store.values import Values

KEYS = [f"{number:032x}" for number in range(6)]


def finish(store: Store, key: str, reads: dict[str, str] | None = None) -> None:
    with store.begin(key) as work:
        about = phase_json(f"phase{KEYS.index(key)}", "a.kd", PhaseKey(key, [], reads or {}))
        work.commit({"weights-0-last.safetensors": key.encode(), "phase.json": about})


def interrupt(store: Store, key: str, reads: dict[str, str] | None = None) -> Work:
    """An attempt with a checkpoint, whose lock is held."""
    work = store.begin(key)
    work.describe(phase_json(f"phase{KEYS.index(key)}", "a.kd", PhaseKey(key, [], reads or {})))
    work.save_checkpoint(1, {"state.safetensors": key.encode()}, {})
    return work


def collect(store: Store, keep: set[str]) -> None:
    """What `kdplan store gc --yes` does."""
    with store.leases.exclusive():
        named = take_names(store, garbage(store, roots(store, keep)))
    for _, path in named:
        remove(path)


def content(store: Store, key: str) -> dict[str, bytes]:
    """All files of a phase, finished or not, without its lock."""
    folders = [store.phase_folder(key), store.work_folder(key)]
    files = [
        p for folder in folders for p in folder.rglob("*") if p.is_file() and p.name not in ("lock", "holder.json")
    ]
    return {str(p.relative_to(store.root)): p.read_bytes() for p in files}


def everything(store: Store) -> dict[str, bytes]:
    return {str(p.relative_to(store.root)): p.read_bytes() for p in store.root.rglob("*") if p.is_file()}


@dataclass
class Drawn:
    """A store's content: what is finished, stopped and running, and who reads what."""

    reads: dict[int, set[int]]
    done: set[int]
    stopped: set[int]
    running: set[int]
    plans: dict[str, dict[str, set[int]]]
    leases: list[set[int]]
    ended: list[set[int]]
    keep: set[int]
    values: dict[int, set[int]] = field(default_factory=dict)


numbers = st.sets(st.integers(0, len(KEYS) - 1))
runs = st.dictionaries(st.sampled_from(["", "seed=1", "lr=0.5"]), numbers, max_size=3)


@st.composite
def stores(draw: st.DrawFn) -> Drawn:
    done, stopped = draw(numbers), draw(numbers)
    return Drawn(
        reads={n: {m for m in draw(numbers) if m < n} for n in range(len(KEYS))},
        done=done,
        stopped=stopped,
        running={n for n in draw(numbers) if n in stopped},
        plans=draw(st.dictionaries(st.sampled_from(["a.kd", "b.kd", "c.kd"]), runs)),
        leases=draw(st.lists(numbers, max_size=2)),
        ended=draw(st.lists(numbers, max_size=2)),
        keep=draw(numbers),
        values=draw(st.dictionaries(st.integers(0, 2), numbers)),
    )


@contextmanager
def made(drawn: Drawn, store: Store) -> Iterator[None]:
    """The store; inside, its running phases and leases go on."""
    with ExitStack() as stack:
        for n in sorted(drawn.done):
            finish(store, KEYS[n], {f"phase{m}": KEYS[m] for m in drawn.reads[n]})
        for n in sorted(drawn.stopped):
            work = interrupt(store, KEYS[n], {f"phase{m}": KEYS[m] for m in drawn.reads[n]})
            stack.callback(work.close) if n in drawn.running else work.close()
        for plan, settings_ in drawn.plans.items():
            for setting, run in settings_.items():
                store.plans.begin(plan, setting, {f"phase{n}": KEYS[n] for n in run})
        for number, readers in drawn.values.items():
            values = Values(store.root / "values" / f"v{number}", "big.layer2")
            with values.locked():
                values.put(0, b"...")
                values.finish({"shards": 1})
            for reader in readers:
                values.note_reader(KEYS[reader])
        with store.leases.exclusive():
            for keys in drawn.leases:
                stack.callback(store.leases.end, store.leases.begin([KEYS[n] for n in keys]))
            for keys in drawn.ended:  # as a killed process leaves it: the lock is free
                store.leases.begin([KEYS[n] for n in keys]).abandon()
        yield


def closed(drawn: Drawn, some: set[int]) -> set[int]:
    """The phases, and all that those of them that are in the store were made from."""
    there = drawn.done | drawn.stopped
    result, todo = set(), set(some)
    while todo:
        n = todo.pop()
        result.add(n)
        todo |= (drawn.reads[n] if n in there else set()) - result
    return result


@settings(max_examples=int(os.environ.get("KDPLAN_EXAMPLES", "25")), deadline=None)
@given(stores())
def test_exactly_what_nobody_reads_goes(drawn: Drawn) -> None:
    with tempfile.TemporaryDirectory() as folder:
        store = Store(folder)
        with made(drawn, store):
            planned = set().union(*(run for of in drawn.plans.values() for run in of.values()))
            leased = set().union(*drawn.leases)
            stays = planned | leased | drawn.running | closed(drawn, drawn.keep)
            before = {n: content(store, KEYS[n]) for n in range(len(KEYS))}
            whole = everything(store)
            listed = {(e.kind, e.key) for e in garbage(store, roots(store, {KEYS[n] for n in drawn.keep}))}
            assert everything(store) == whole, "listing changes nothing"
            collect(store, {KEYS[n] for n in drawn.keep})
            for n in range(len(KEYS)):
                assert content(store, KEYS[n]) == (before[n] if n in stays else {}), n
                assert (("phases", KEYS[n]) in listed) == (n in drawn.done - stays)
                assert (("work", KEYS[n]) in listed) == (n in drawn.stopped - stays)
            for number, readers in drawn.values.items():
                kept = not readers or bool(leased | drawn.running) or bool(readers & stays)
                assert (store.root / "values" / f"v{number}").is_dir() == kept
            assert [p for p in store.root.rglob(".*")] == []


def test_numbers_go_with_their_phases(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in KEYS[:2]:
        finish(store, key)
        store.keep_number("costs", key, {"flops": 1})
        store.keep_number("measures", f"m{key}", {"value": 1.5, "phases": [key]})
    store.keep_number("measures", "fresh", {"value": 2.5, "phases": []})
    store.plans.begin("a.kd", "", {"a": KEYS[0]})
    collect(store, set())
    assert store.has(KEYS[0]) and not store.has(KEYS[1])
    assert store.number("costs", KEYS[0]) and store.number("costs", KEYS[1]) is None
    assert store.number("measures", f"m{KEYS[0]}") and store.number("measures", f"m{KEYS[1]}") is None
    assert store.number("measures", "fresh")


def test_a_finished_version_stays_until_the_next_one_is(tmp_path: Path) -> None:
    """A plan that was edited, and whose run then failed, keeps what its last whole run left."""
    store = Store(tmp_path)
    finish(store, KEYS[0])
    store.plans.begin("a.kd", "", {"a": KEYS[0], "old name": KEYS[1]})
    store.remember("a.kd", {"a": KEYS[0], "old name": KEYS[1]}, whole=True)
    store.plans.begin("a.kd", "", {"a": KEYS[2]})
    assert KEYS[0] in roots(store) and KEYS[1] in roots(store) and KEYS[2] in roots(store)
    store.remember("a.kd", {"a": KEYS[2]}, whole=True)
    assert KEYS[0] not in roots(store) and KEYS[1] not in roots(store)


def test_a_record_of_the_first_version(tmp_path: Path) -> None:
    """It knew the last keys only: they are what the plan reads, also after a run with other settings."""
    store = Store(tmp_path)
    store.remember("a.kd", {"a": KEYS[0]})
    assert KEYS[0] in roots(store)
    store.plans.begin("a.kd", "seed=1", {"a": KEYS[1]})
    store.remember("a.kd", {"a": KEYS[1]}, whole=True)
    assert KEYS[0] in roots(store) and KEYS[1] in roots(store)


def test_a_damaged_record_of_a_plan(tmp_path: Path) -> None:
    store = Store(tmp_path)
    store.plans.begin("a.kd", "", {"a": KEYS[0]})
    store.plans.finish("a.kd", {"a": KEYS[0]})
    files = list(store.plans.files())
    assert len(files) == 3, "of the plan, of its phase, of its run"
    for path in files:
        path.write_text(path.read_text().replace('"', "'", 1))
        with pytest.raises(StoreCorrupt) as error:
            roots(store)
        assert error.value.diagnostics[0].code == "KD0918" and error.value.exit_code == 4
        assert str(path) in str(error.value)
        store.plans.begin("a.kd", "", {"a": KEYS[0]})
        assert KEYS[0] in roots(store)


def old_record(store: Store, plan: Path | str, **content: object) -> Path:
    """The record of a plan in one file, as earlier versions wrote it."""
    path = store.plans.record(plan).with_suffix(".json")
    path.parent.mkdir(parents=True, exist_ok=True)
    write_sealed(path, {"plan": str(Path(plan).resolve()), **content})
    return path


def test_a_record_of_an_earlier_version(tmp_path: Path) -> None:
    """What it says counts until a run has written it anew, and afterwards."""
    store = Store(tmp_path)
    runs = {"": {"a": KEYS[0], "b": KEYS[1]}, "seed=1": {"a": KEYS[2]}}
    path = old_record(store, "a.kd", phases={"a": KEYS[3], "b": KEYS[1]}, runs=runs, lines=[], at=1.0)
    assert store.last_keys("a.kd") == {"a": KEYS[3], "b": KEYS[1]}
    assert set(roots(store).plans) == set(KEYS[:4])
    store.remember("a.kd", {"a": KEYS[0]})
    assert path.exists() and store.last_keys("a.kd") == {"a": KEYS[0], "b": KEYS[1]}
    assert set(roots(store).plans) == set(KEYS[:3])
    store.plans.begin("a.kd", "seed=2", {"a": KEYS[4]})
    assert not path.exists() and store.last_keys("a.kd") == {"a": KEYS[0], "b": KEYS[1]}
    assert set(roots(store).plans) == {*KEYS[:3], KEYS[4]}
    store.plans.forget("a.kd")
    assert not roots(store).plans and list(store.plans.folder.iterdir()) == []


def test_a_damaged_record_of_an_earlier_version(tmp_path: Path) -> None:
    store = Store(tmp_path)
    path = old_record(store, "a.kd", phases={"a": KEYS[0]}, runs={}, lines=[], at=1.0)
    path.write_text("{}")
    with pytest.raises(StoreCorrupt) as error:
        roots(store)
    assert error.value.diagnostics[0].code == "KD0918" and str(path) in str(error.value)
    store.plans.begin("a.kd", "", {"a": KEYS[1]})
    assert set(roots(store).plans) == {KEYS[1]}


def test_a_copy_of_a_plan_has_its_last_keys(tmp_path: Path) -> None:
    store = Store(tmp_path / "store")
    for name, text in (("a.kd", "one\ntwo\nthree"), ("other.kd", "nine"), ("copy.kd", "one\ntwo\nfour")):
        (tmp_path / name).write_text(text)
    store.plans.begin(tmp_path / "a.kd", "", {"a": KEYS[0]})
    store.remember(tmp_path / "a.kd", {"a": KEYS[0]})
    assert store.last_keys(tmp_path / "copy.kd") == {"a": KEYS[0]} and store.last_keys(tmp_path / "other.kd") == {}
    store.plans.begin(tmp_path / "copy.kd", "", {"b": KEYS[1]})
    assert store.last_keys(tmp_path / "copy.kd") == {"a": KEYS[0]}


def test_only_what_changed_is_written(tmp_path: Path) -> None:
    store = Store(tmp_path)
    keys = {f"p{n}": KEYS[0] for n in range(20)}
    store.plans.begin("a.kd", "", keys)
    store.remember("a.kd", keys, whole=True)
    before = {p: (p.stat().st_ino, p.read_bytes()) for p in store.plans.files()}
    store.plans.begin("a.kd", "", keys)
    store.remember("a.kd", {**keys, "p3": KEYS[1]}, whole=True)
    changed = [p for p in store.plans.files() if before[p] != (p.stat().st_ino, p.read_bytes())]
    assert sorted(p.parent.name for p in changed) == sorted(["phases", store.plans.record("a.kd").name])


def test_a_lease_that_cannot_be_read_may_read_anything(tmp_path: Path) -> None:
    store = Store(tmp_path)
    finish(store, KEYS[0])
    with store.leases.exclusive():
        held = store.leases.begin([KEYS[1]])
    (held.folder / "keys.json").write_text("{}")
    stays = roots(store)
    assert KEYS[0] in stays and garbage(store, stays) == []
    assert [d.code for d in in_use(entries(store), stays)] == ["KD0920"]
    store.leases.end(held)
    assert [e.key for e in garbage(store, roots(store))] == [KEYS[0]]


READ = """
import sys, time
from kdplan.runtime.store import Store
store = Store(sys.argv[1])
with store.reading({str(n): key for n, key in enumerate(sys.argv[3:])}, plan=sys.argv[2]):
    print("reads", flush=True)
    time.sleep(60)
"""


def reader(store: Store, plan: str, *keys: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", READ, str(store.root), plan, *keys]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "reads\n"
    return process


def test_what_a_process_reads_stays_until_it_is_killed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for key in KEYS[:2]:
        finish(store, key)
    process = reader(store, "", KEYS[0])
    try:
        collect(store, set())
        assert store.has(KEYS[0]) and not store.has(KEYS[1])
    finally:
        process.kill()
        process.wait()
    (folder,) = [p for p in (tmp_path / "leases").iterdir() if p.is_dir()]
    assert folder in store.sweep() and not folder.exists()
    collect(store, set())
    assert not store.has(KEYS[0])


def test_one_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Who registers what it reads waits for who removes, and at last says whom it waited for."""
    store = Store(tmp_path)
    code = """
import sys, time
from kdplan.runtime.store import Store
with Store(sys.argv[1]).leases.exclusive():
    print("held", flush=True)
    time.sleep(60)
"""
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    monkeypatch.setattr(lease.Leases.exclusive.__wrapped__, "__defaults__", (0.3,))
    try:
        with pytest.raises(StoreLocked) as error, store.reading({"a": KEYS[0]}):
            pass
        assert error.value.diagnostics[0].code == "KD0917" and error.value.exit_code == 3
        assert f"process {process.pid} on " in str(error.value)
    finally:
        process.kill()
        process.wait()
    with store.reading({"a": KEYS[0]}):
        pass


RUNS = """
import random, sys
from kdplan.runtime.store import Store, StoreLocked
store, draw, trained = Store(sys.argv[1]), random.Random(sys.argv[2]), 0
keys = [f"{n:032x}" for n in range(6)]
for _ in range(40):
    mine = draw.sample(keys, 3)
    with store.reading({key: key for key in mine}, plan=f"{sys.argv[2]}.kd"):
        for key in mine:
            while not store.has(key):
                try:
                    with store.begin(key) as work:
                        if not store.has(key):
                            work.commit({"weights-0-last.safetensors": key.encode()})
                            trained += 1
                except StoreLocked:
                    pass
        for key in mine:
            assert store.artifact(key).weights() == key.encode()
print(trained)
"""


def test_runs_beside_removals(tmp_path: Path) -> None:
    """Runs in a process of their own each find all that they registered, while others remove what nobody reads."""
    store = Store(tmp_path)
    run = [[sys.executable, "-c", RUNS, str(tmp_path), str(n)] for n in range(2)]
    processes = [
        subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for command in run
    ]
    removals = 0
    while any(p.poll() is None for p in processes):
        there = len(list((tmp_path / "phases").glob("[!.]*")))
        collect(store, set())
        store.sweep()
        removals += there > len(list((tmp_path / "phases").glob("[!.]*")))
        time.sleep(0.005)
    trained = 0
    for process in processes:
        out, problem = process.communicate()
        assert process.returncode == 0, problem
        trained += int(out)
    assert trained >= 6  # keys
    assert removals > 0
    assert len({key for _, r in store.plans.all() if r for key in r.reads}) <= 6


def test_a_stopped_remover_leaves_no_half(tmp_path: Path) -> None:
    """Killed between taking names away and removing: the next command removes the rest."""
    code = """
import os, signal, sys
from kdplan.runtime.store import Store
from kdplan.runtime.store.garbage import garbage, roots, take_names
store = Store(sys.argv[1])
with store.leases.exclusive():
    take_names(store, garbage(store, roots(store)))
    os.kill(os.getpid(), signal.SIGKILL)
"""
    store = Store(tmp_path)
    for key in KEYS:
        finish(store, key)
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], check=False)
    assert done.returncode == -signal.SIGKILL
    assert not any(store.has(key) for key in KEYS)
    assert len(store.sweep()) == len(KEYS)
    assert list((tmp_path / "phases").iterdir()) == []
