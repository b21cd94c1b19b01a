"""A process that was stopped for longer than its lease: another one trains its phase, it notices, and harms nothing."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import time
from pathlib import Path

import pytest

from kdplan.runtime.store import Store, StoreLost, StoreUnwritable
from kdplan.runtime.store.attempts import attempts, gather
from tests.cli.test_run import environment
from tests.processes import PIPE, STDOUT, Command

SECONDS = 2.0
PLAN = """\
data digits = digits { limit = 400 }
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = EPOCHS  batch = 20  keep_epochs = [1] }
student small = digits_net(width = 4)
phase alone of small on digits with quick {
  loss = cross_entropy(small.logits, labels)
  measure on digits.test { top1 }
}
"""
SETTINGS = {"KDPLAN_LOCKS": "lease", "KDPLAN_LEASE_SECONDS": str(SECONDS)}


@pytest.fixture
def leases(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in SETTINGS.items():
        monkeypatch.setenv(name, value)


def stolen(store: Store, key: str) -> None:
    """Takes a lease away as another machine does, after the lease's time."""
    marker = store.work_folder(key) / "lease"
    other = marker.with_name("other")
    other.write_text(re.sub("token=.*", "token=another", marker.read_text()))
    os.replace(other, marker)


@pytest.mark.usefixtures("leases")
def test_a_holder_that_lost_its_lease_stops(tmp_path: Path) -> None:
    """At its next write, whatever it writes; with exit code 75."""
    store = Store(tmp_path)
    with store.begin("k1") as work:
        work.log({"step": 1})
        work.save_checkpoint(1, {"state.safetensors": b"..."}, {})
        later = work.checkpoint_writer(2, {"state.safetensors": b"..."}, {})
        stolen(store, "k1")
        marker = (work.folder / "lease").read_bytes()
        writes = [
            lambda: work.log({"step": 2}),
            lambda: work.save_checkpoint(2, {}, {}),
            later,
            lambda: work.commit({"summary.json": {}}),
            lambda: work.describe({}),
            lambda: work.rewind(None),
            work.confirm,
        ]
        for write in writes:
            with pytest.raises(StoreLost) as error:
                write()
            assert error.value.diagnostics[0].code == "KD0931" and error.value.exit_code == 75
    assert (work.folder / "lease").read_bytes() == marker, "the lease is the other's, and stays"
    assert not store.has("k1") and store.resume_step("k1") == 1


@pytest.mark.usefixtures("leases")
def test_the_next_holder_takes_all_over(tmp_path: Path) -> None:
    """Checkpoints of all attempts count, the newest sound one first; what a zombie writes meanwhile stays outside."""
    store = Store(tmp_path)
    zombie = store.begin("k1")
    zombie.log({"step": 1})
    for step in (1, 2):
        zombie.save_checkpoint(step, {"state.safetensors": bytes([step])}, {})
    (zombie.snapshots).mkdir()
    (zombie.snapshots / "epoch-1-0.safetensors").write_bytes(b"one")
    late = zombie.checkpoint_writer(3, {"state.safetensors": lambda path: path.write_bytes(b"late")}, {})
    (zombie.folder / "lease").unlink()  # after its time, by another machine
    with store.begin("k1") as work:
        assert attempts(work.folder)[1:] == [work.attempt] and work.attempt != zombie.attempt
        assert (work.snapshots / "epoch-1-0.safetensors").read_bytes() == b"one"
        with pytest.raises((StoreLost, StoreUnwritable)):
            late()
        zombie.attempt.mkdir()  # even if it did write
        (zombie.attempt / "metrics.jsonl").write_text("zombie")
        newest = work.latest_checkpoint()
        assert newest is not None and newest.step == 2 and newest.read("state.safetensors") == b"\2"
        work.rewind(newest)
        (work.checkpoints / "step-2" / "state.safetensors").write_bytes(b"?")
    zombie.close()
    with store.begin("k1") as work:
        newest = work.latest_checkpoint()
        assert newest is not None and newest.step == 1 and not zombie.attempt.exists()
        work.commit({"summary.json": {}})
    assert not list((tmp_path / "work").iterdir())


@pytest.mark.usefixtures("leases")
def test_the_newest_sound_checkpoint_of_two_attempts(tmp_path: Path) -> None:
    """One of the same step is taken from where it is sound."""
    work = tmp_path / "work" / "k1"
    made = Store(tmp_path / "made")
    with made.begin("k1") as source:
        for step in (4, 5):
            source.save_checkpoint(step, {"state.safetensors": bytes([step])}, {})
        for name, damaged in (("a", "step-5"), ("b", "")):
            for folder in source.checkpoints.iterdir():
                target = work / "attempts" / name / "checkpoints" / folder.name
                target.mkdir(parents=True)
                for file in folder.iterdir():
                    content = file.read_bytes() if folder.name != damaged else b""
                    (target / file.name).write_bytes(content)
    assert Store(tmp_path).resume_step("k1") == 5
    gather(work, work / "attempts" / "c")
    gather(work, work / "attempts" / "c")  # stopped in between, it is done again
    with Store(tmp_path).begin("k1") as mine:
        newest = mine.latest_checkpoint()
        assert newest is not None and newest.step == 5 and not mine.notices


@pytest.mark.usefixtures("leases")
def test_an_artifact_is_made_once(tmp_path: Path) -> None:
    """A zombie that looked at its lease just before it was stopped finds the artifact there, and leaves it."""
    store = Store(tmp_path)
    zombie = store.begin("k1")
    (zombie.folder / "lease").rename(tmp_path / "kept")
    with store.begin("k1") as work:
        work.commit({"weights-0-last.safetensors": b"first"})
    zombie.confirm = lambda: None  # type: ignore[method-assign]
    artifact = zombie.commit({"weights-0-last.safetensors": b"second"})
    assert artifact.weights() == b"first" == store.verify("k1").weights()
    store.sweep()
    assert not list((tmp_path / "work").iterdir()) and len(list((tmp_path / "phases").iterdir())) == 1


def test_an_attempt_of_the_other_kind_goes_on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """That of an earlier version, in the phase's folder itself, under a lease; and back again."""
    store = Store(tmp_path)
    with store.begin("k1") as work:
        work.log({"step": 1})
        work.save_checkpoint(1, {}, {})
        assert work.attempt == work.folder
    for kind in ("lease", "flock"):
        (tmp_path / "locks.json").unlink()
        monkeypatch.setenv("KDPLAN_LOCKS", kind)
        store = Store(tmp_path)
        assert store.resume_step("k1") == 1 and store.running_step("k1") == 1
        with store.begin("k1") as work:
            assert (work.attempt == work.folder) == (kind == "flock")
            newest = work.latest_checkpoint()
            assert newest is not None and newest.step == 1 and [r["step"] for r in work.metrics()] == [1]
            assert len(attempts(work.folder)) == (2 if kind == "lease" else 1)
    store.drop("k1")
    assert not list((tmp_path / "work").iterdir())


def run(folder: Path, store: str, often: bool = False, **settings: str) -> Command:
    arguments = ["run", "plan.kd", "--store", store, *(["--checkpoint-seconds", "0"] if often else [])]
    return Command(arguments, cwd=folder, env=environment() | settings, stdout=PIPE, stderr=STDOUT)


def weights(store: Path) -> dict[str, str]:
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in store.glob("phases/*/weights-*")}


def test_a_stopped_run_wakes_up_later(tmp_path: Path) -> None:
    """SIGSTOP in training; another run finishes the phase; SIGCONT: a message, code 75, and the artifact as alone."""
    (tmp_path / "plan.kd").write_text(PLAN.replace("EPOCHS", "12"))
    alone = run(tmp_path, "alone")
    assert alone.communicate(timeout=300)[0] and alone.returncode == 0
    zombie = run(tmp_path, "store", often=True, **SETTINGS)
    store = tmp_path / "store"
    deadline = time.monotonic() + 120
    while len(list(store.glob("work/*/attempts/*/checkpoints/step-*"))) < 2:
        assert zombie.poll() is None and time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(zombie.pid, signal.SIGSTOP)
    try:
        other = run(tmp_path, "store", **SETTINGS)
        said = other.communicate(timeout=300)[0]
        assert other.returncode == 0, said
        assert f"rocess {zombie.pid} on " in said and "resumes at step" in said, said
    finally:
        os.kill(zombie.pid, signal.SIGCONT)
    said = zombie.communicate(timeout=300)[0]
    assert zombie.returncode == 75 and "KD0931" in said and "the same command resumes" in said, said
    assert "Traceback" not in said
    assert weights(store) == weights(tmp_path / "alone")
    (key,) = [p.name for p in (store / "phases").iterdir()]
    assert Store(store).verify(key).summary["steps"] == 12 * 20
    again = run(tmp_path, "store", **SETTINGS)
    said = again.communicate(timeout=300)[0]
    assert again.returncode == 0, said
    assert not list((store / "work").iterdir()), "nothing of the zombie is left"
    assert json.loads((store / "locks.json").read_text())["value"] == {"kind": "lease", "seconds": SECONDS}
