"""Leases where several machines see a store: a dead machine's phase is free after one, and everybody uses the same."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.diagnostics.report import PlanError
from kdplan.runtime.store import Store, StoreLocked
from kdplan.runtime.store.locks import LOCAL_FUSE, SHARED, Kind, Locks, is_shared, type_of
from kdplan.runtime.store.sealed import read_sealed

SECONDS = 1.5
HOLD = """
import socket, sys, time
if sys.argv[2]:
    socket.gethostname = lambda: sys.argv[2]
from kdplan.runtime.store import Store
store = Store(sys.argv[1])
with store.reading({"a": "k1"}, plan="a.kd"), store.begin("k1") as work:
    work.log({"step": 4})
    if len(sys.argv) > 3:
        work.save_checkpoint(3, {"state.safetensors": b"..."}, {})
    print("held", flush=True)
    time.sleep(60)
"""


def hold(store: Store, host: str = "", *extra: str) -> subprocess.Popen[str]:
    """A process that holds phase `k1`, on this host or on another one."""
    command = [sys.executable, "-c", HOLD, str(store.root), host, *extra]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "held\n"
    return process


def kill(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.wait()


def acquired_after(store: Store, limit: float = 30) -> float:
    """Seconds until phase `k1` is free, looked at as a run does."""
    began = time.monotonic()
    while time.monotonic() - began < limit:
        try:
            with store.begin("k1") as work:
                work.save_checkpoint(9, {"state.safetensors": b"..."}, {})
                return time.monotonic() - began
        except StoreLocked as problem:
            assert problem.exit_code == 3
            time.sleep(0.05)
    raise AssertionError("it is never free")


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDPLAN_LOCKS", "lease")
    monkeypatch.setenv("KDPLAN_LEASE_SECONDS", str(SECONDS))


# ---- a dead machine


@pytest.mark.usefixtures("leases")
def test_the_phase_of_a_dead_machine_is_free_after_one_lease(tmp_path: Path) -> None:
    store = Store(tmp_path)
    process = hold(store, "another-host", "checkpoint")
    holder = store.holder("k1")
    assert holder is not None and holder.host == "another-host" and store.state("k1") == "running"
    assert store.running_step("k1") == 4
    time.sleep(2 * SECONDS)  # it renews its lease
    assert store.state("k1") == "running"
    with pytest.raises(StoreLocked):
        store.begin("k1")
    kill(process)
    assert SECONDS / 2 < acquired_after(Store(tmp_path)) < 4 * SECONDS
    assert store.state("k1") == "interrupted" and store.resume_step("k1") == 9
    assert list(tmp_path.glob("work/*/attempts/*/checkpoints/step-3")), "what the dead one saved is there, too"


@pytest.mark.usefixtures("leases")
def test_status_says_interrupted_after_one_lease(tmp_path: Path) -> None:
    """By the file system's time, so that another time of this machine does not matter; `watch` needs one call."""
    store = Store(tmp_path)
    kill(hold(store, "another-host", "checkpoint"))
    time.sleep(1.5 * SECONDS)
    assert Store(tmp_path).state("k1") == "interrupted" and Store(tmp_path).holder("k1") is None
    began = time.monotonic()
    with Store(tmp_path).begin("k1", watch=True):
        assert SECONDS / 2 < time.monotonic() - began < 4 * SECONDS


@pytest.mark.usefixtures("leases")
@pytest.mark.parametrize("hours", [-10, 10])
def test_machines_may_have_other_times(hours: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A process that runs keeps its lease, and a dead one loses it, whatever the time is here."""
    store = Store(tmp_path)
    process, now = hold(store, "another-host"), time.time
    monkeypatch.setattr(time, "time", lambda: now() + hours * 3600)
    began = time.monotonic()
    while time.monotonic() - began < 2.5 * SECONDS:
        assert store.state("k1") == "running"
        with pytest.raises(StoreLocked):
            store.begin("k1")
        time.sleep(0.2)
    kill(process)
    time.sleep(1.5 * SECONDS)
    assert store.state("k1") != "running"
    assert acquired_after(store) < 4 * SECONDS


@pytest.mark.usefixtures("leases")
def test_a_killed_process_of_this_machine_keeps_nothing(tmp_path: Path) -> None:
    store = Store(tmp_path)
    process = hold(store, "", "checkpoint")
    with pytest.raises(StoreLocked) as error:
        store.begin("k1")
    assert f"process {process.pid} on " in str(error.value)
    kill(process)
    assert store.state("k1") == "interrupted"
    assert acquired_after(store) < SECONDS
    assert store.sweep() and not [p for p in (tmp_path / "leases").iterdir() if p.is_dir()]


@pytest.mark.usefixtures("leases")
def test_what_another_machine_registered_stays_for_a_day(tmp_path: Path) -> None:
    store = Store(tmp_path)
    kill(hold(store, "another-host"))
    time.sleep(1.5 * SECONDS)
    store.sweep()
    assert [lease.keys for lease in store.leases.current()] == [{"k1"}]
    (marker,) = tmp_path.glob("leases/*/lease")
    os.utime(marker, (time.time() - 90_000,) * 2)
    assert store.leases.current() == []
    store.sweep()
    assert [p for p in (tmp_path / "leases").iterdir() if p.is_dir()] == []


@pytest.mark.usefixtures("leases")
def test_a_process_that_ends_before_it_writes_its_name(tmp_path: Path) -> None:
    """Its empty file is nobody's after one lease; before that it may be written yet."""
    store = Store(tmp_path)
    marker = store.work_folder("k1") / "lease"
    marker.parent.mkdir(parents=True)
    marker.touch()
    assert SECONDS * 0.9 < acquired_after(store) < 8 * SECONDS
    (tmp_path / "leases").mkdir(exist_ok=True)
    (tmp_path / "leases" / "lease").touch()
    began = time.monotonic()
    with store.reading({"a": "k1"}):
        assert SECONDS * 0.9 < time.monotonic() - began < 4 * SECONDS


# ---- one kind for all


def test_the_first_lock_decides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDPLAN_LOCKS", "lease")
    store = Store(tmp_path)
    assert store.locks.known() == Kind("lease", 60.0) and not list(tmp_path.iterdir())
    with store.begin("k1") as work:
        assert work.attempt.parent.name == "attempts"
    assert read_sealed(tmp_path / "locks.json") == {"kind": "lease", "seconds": 60.0}
    monkeypatch.delenv("KDPLAN_LOCKS")
    with Store(tmp_path).begin("k1") as work:  # a machine that sees it as local follows
        assert work.attempt.parent.name == "attempts"


@pytest.mark.parametrize(
    ("first", "then", "words"),
    [
        ({"KDPLAN_LOCKS": "flock"}, {"KDPLAN_LOCKS": "lease"}, "the operating system's locks, but `KDPLAN_LOCKS` is"),
        ({"KDPLAN_LOCKS": "lease"}, {"KDPLAN_LOCKS": "flock"}, "leases of 60 s, but `KDPLAN_LOCKS` is `flock`"),
        (
            {"KDPLAN_LOCKS": "lease", "KDPLAN_LEASE_SECONDS": "9"},
            {"KDPLAN_LEASE_SECONDS": "8"},
            "leases of 9 s, but `KDPLAN_LEASE_SECONDS` is 8",
        ),
        ({}, {"mounted": "nfs4"}, "the operating system's locks, but this machine sees it on a shared file system"),
    ],
)
def test_a_contradiction_is_said(
    first: dict[str, str],
    then: dict[str, str],
    words: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def settings(values: dict[str, str]) -> None:
        for name in ("KDPLAN_LOCKS", "KDPLAN_LEASE_SECONDS"):
            monkeypatch.delenv(name, raising=False)
        for name, value in values.items():
            monkeypatch.setenv(name, value)
        if "mounted" in values:
            monkeypatch.setattr("kdplan.runtime.store.locks.type_of", lambda path: values["mounted"])

    settings(first)
    with Store(tmp_path / "store").begin("k1") as work:
        work.save_checkpoint(1, {}, {})
    settings(then)
    with pytest.raises(PlanError) as error:
        Store(tmp_path / "store").begin("k1")
    assert error.value.diagnostics[0].code == "KD0930" and words in str(error.value)
    (tmp_path / "plan.kd").write_text("data digits = digits\n")
    assert main(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store")]) == 2
    assert "KD0930" in capsys.readouterr().err
    (tmp_path / "store" / "locks.json").unlink()  # as the message says
    with Store(tmp_path / "store").begin("k1") as work:
        newest = work.latest_checkpoint()
        assert newest is not None and newest.step == 1, "an attempt of the other kind is resumed"


@pytest.mark.parametrize(("name", "value"), [("KDPLAN_LOCKS", "nfs"), ("KDPLAN_LEASE_SECONDS", "-3")])
def test_settings_without_a_meaning(name: str, value: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(name, value)
    with pytest.raises(PlanError) as error:
        Store(tmp_path).begin("k1")
    assert error.value.diagnostics[0].code == "KD0932" and f"`{value}`" in str(error.value)


def test_a_damaged_fact_is_written_anew(tmp_path: Path) -> None:
    with Store(tmp_path).begin("k1"):
        pass
    (tmp_path / "locks.json").write_text("{}")
    with Store(tmp_path).begin("k1"):
        assert read_sealed(tmp_path / "locks.json")["kind"] == "flock"


def test_many_first_writers_agree(tmp_path: Path) -> None:
    """Half of them would choose leases: all that go on have the kind of the file, the others are refused."""
    code = """
import sys
from kdplan.runtime.store import Store
from kdplan.diagnostics.report import PlanError
try:
    with Store(sys.argv[1]).begin(sys.argv[2]) as work:
        print("lease" if work.attempt != work.folder else "flock")
except PlanError as problem:
    print(problem.diagnostics[0].code)
"""
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", code, str(tmp_path), str(n)],
            env=os.environ | {"KDPLAN_LOCKS": ("flock", "lease")[n % 2]},
            stdout=subprocess.PIPE,
            text=True,
        )
        for n in range(6)
    ]
    said = [w.communicate()[0].strip() for w in writers]
    kind = json.loads((tmp_path / "locks.json").read_text())["value"]["kind"]
    assert sorted(said) == sorted(["KD0930"] * 3 + [kind] * 3), said


def test_file_systems_by_the_mount_table() -> None:
    table = [
        "22 1 259:2 / / rw,relatime shared:1 - ext4 /dev/root rw",
        "30 22 0:40 / /home rw - nfs4 server:/home rw,vers=4.2",
        "31 30 0:41 / /home/me/mnt rw - fuse.sshfs me@host: rw",
        "32 22 0:42 / /scratch rw - lustre 10.0.0.1@o2ib:/x rw",
        r"33 22 0:43 / /my\040disk rw - cifs //server/x rw",
        "34 22 0:44 / /scratch/ram rw - tmpfs tmpfs rw",
        "35 22 0:45 / /twice rw - nfs a:/ rw",
        "36 22 0:46 / /twice rw - xfs /dev/sdb rw",
    ]
    found = {
        path: type_of(Path(path), table)
        for path in (
            "/x",
            "/home/store",
            "/home/me/mnt/store",
            "/scratch/a/b",
            "/scratch/ram/s",
            "/my disk/s",
            "/twice",
        )
    }
    assert list(found.values()) == ["ext4", "nfs4", "fuse.sshfs", "lustre", "tmpfs", "cifs", "xfs"]
    assert [is_shared(kind) for kind in found.values()] == [False, True, True, True, False, True, False]
    assert not SHARED & LOCAL_FUSE and not is_shared("fuseblk")
    assert type_of(Path("/homework"), table) == "ext4", "a folder whose name only begins so"


def test_a_shared_file_system_has_leases(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDPLAN_LOCKS", raising=False)
    monkeypatch.setattr("kdplan.runtime.store.locks.type_of", lambda path: "lustre")
    assert Locks(tmp_path).settled() == Kind("lease", 60.0)


@pytest.mark.usefixtures("leases")
def test_a_lease_outlives_a_signal_that_stops_a_process_shortly(tmp_path: Path) -> None:
    process = hold(Store(tmp_path))
    os.kill(process.pid, signal.SIGSTOP)
    store = Store(tmp_path)
    with pytest.raises(StoreLocked):
        store.begin("k1")
    time.sleep(SECONDS / 2)
    with pytest.raises(StoreLocked):
        store.begin("k1")
    os.kill(process.pid, signal.SIGCONT)
    time.sleep(SECONDS)
    with pytest.raises(StoreLocked):
        store.begin("k1")
    kill(process)
