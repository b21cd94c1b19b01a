"""A store that machines share: what is pushed and pulled, damage, and services that refuse."""

from __future__ import annotations

import os
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from kdplan.api import PlanBuilder, fn, item, labels
from kdplan.runtime.remote import artifacts
from kdplan.runtime.remote.address import Address
from kdplan.runtime.remote.leases import Lease, Leases
from kdplan.runtime.remote.objects import Objects
from kdplan.runtime.remote.store import RemoteStore
from kdplan.runtime.store import Artifact, Store, StoreCorrupt, StoreLocked
from kdplan.runtime.store.lock import own_holder
from tests.cli.conftest import Kdplan, folder, kdplan
from tests.scale.conftest import Reports, finish
from tests.scale.service import Service

__all__ = ["folder", "kdplan"]


def test_what_one_machine_trains_the_other_reads(stores: tuple[RemoteStore, RemoteStore]) -> None:
    one, two = stores
    finish(one, "k1")
    assert two.has("k1") and two.state("k1") == "done" and not two.phase_folder("k1").exists()
    assert two.artifact("k1").summary == {"steps": 3} and not two.phase_folder("k1").exists()
    assert two.artifact("k1").weights() == b"weights"
    for path in one.phase_folder("k1").iterdir():
        assert (two.phase_folder("k1") / path.name).read_bytes() == path.read_bytes()
    assert Store(two.root).verify("k1").metrics() == [{"step": 3, "loss": 0.5}]
    assert one.outbox == two.outbox == []


# ---- damage


def entry_files(service: Service, bucket: str, key: str) -> list[str]:
    return service.names(bucket, f"kd/files/{key}/")


@pytest.mark.parametrize("how", ["altered", "cut", "missing", "another's"])
def test_a_damaged_object_is_never_used(
    how: str, stores: tuple[RemoteStore, RemoteStore], service: Service, bucket: str, tmp_path: Path
) -> None:
    one, two = stores
    finish(one, "k1", b"one weights")
    for name in entry_files(service, bucket, "k1"):
        content = service.client().get_object(Bucket=bucket, Key=name)["Body"].read()
        if content == b"one weights":
            changed = {"altered": b"two weights", "cut": b"one", "another's": b"k2 weights"}
            if how == "missing":
                service.client().delete_object(Bucket=bucket, Key=name)
            else:
                service.client().put_object(Bucket=bucket, Key=name, Body=changed[how])
    assert two.has("k1")
    with pytest.raises(StoreCorrupt, match="KD0946") as caught:
        two.artifact("k1").weights()
    assert caught.value.folder == two.phase_folder("k1")
    assert not two.phase_folder("k1").exists() and not two.has("k1")
    assert [p for p in (two.root / "phases").iterdir()] == []
    finish(two, "k1", b"one weights")  # as a run does
    third = RemoteStore(tmp_path / "three", two.address)
    assert third.artifact("k1").weights() == b"one weights"


def test_a_damaged_object_is_replaced_by_other_bytes(
    stores: tuple[RemoteStore, RemoteStore], service: Service, bucket: str, tmp_path: Path
) -> None:
    """Another machine trains the phase again, and gets other bits: the entry names them from then on."""
    one, two = stores
    finish(one, "k1", b"one weights")
    for name in entry_files(service, bucket, "k1"):
        service.client().delete_object(Bucket=bucket, Key=name)
    with pytest.raises(StoreCorrupt):
        two.artifact("k1").weights()
    finish(two, "k1", b"two weights")
    assert RemoteStore(tmp_path / "three", two.address).artifact("k1").weights() == b"two weights"


@pytest.mark.parametrize("content", [b"", b"{}", b"[" * 100000, b'{"sha256": "0", "value": {}}'])
def test_an_altered_entry(
    content: bytes, stores: tuple[RemoteStore, RemoteStore], service: Service, bucket: str
) -> None:
    one, two = stores
    finish(one, "k1")
    service.client().put_object(Bucket=bucket, Key="kd/index/phases/k1.json", Body=content)
    with pytest.raises(StoreCorrupt, match="KD0946"):
        two.artifact("k1")
    finish(two, "k1")
    assert RemoteStore(one.root / "other", one.address).artifact("k1").weights() == b"weights"


def test_a_file_that_is_altered_on_its_way_is_fetched_again(
    stores: tuple[RemoteStore, RemoteStore], service: Service
) -> None:
    one, two = stores
    finish(one, "k1")
    service.altering = 1
    assert two.artifact("k1").weights() == b"weights" and service.altering == 0


def test_a_damaged_local_file_is_fetched_again(stores: tuple[RemoteStore, RemoteStore]) -> None:
    one, two = stores
    finish(one, "k1")
    assert two.artifact("k1").weights() == b"weights"
    for damage in (b"weighty", b"cut"):
        (two.phase_folder("k1") / "weights-0-last.safetensors").write_bytes(damage)
        again = RemoteStore(two.root, two.address)
        assert again.has("k1") and again.problem("k1") is None
        assert again.artifact("k1").weights() == b"weights"
        Store(two.root).verify("k1")


def test_an_entry_cannot_name_files_elsewhere(stores: tuple[RemoteStore, RemoteStore], objects: Objects) -> None:
    one, two = stores
    finish(one, "k1")
    entry = artifacts.read_entry(objects, "k1", Path())
    assert entry is not None
    evil = artifacts.Entry({"../../evil": (7, next(iter(entry.files.values()))[1])}, {})
    objects.replace({artifacts.index_name("k1"): evil.content()})
    with pytest.raises(StoreCorrupt, match="KD0946"):
        two.artifact("k1")


# ---- two attempts


def test_the_first_artifact_stays(stores: tuple[RemoteStore, RemoteStore], reports: Reports, tmp_path: Path) -> None:
    """A machine that was silent for too long ends after another: it reads what the other pushed."""
    slow, quick = stores
    work = slow.begin("k1")
    lease = work.lease  # type: ignore[attr-defined]
    lease._ended.set()  # it renews no more, and another machine gives it up
    slow.objects.delete(["leases/k1/1"])
    finish(quick, "k1", b"quick")
    files = {"weights-0-last.safetensors": b"slow", "summary.json": {"steps": 3}}
    assert work.commit(files).read("weights-0-last.safetensors") == b"quick"
    work.close()
    assert "KD0949" in reports and slow.outbox == []
    assert Store(slow.root).verify("k1").weights() == b"quick"
    assert RemoteStore(tmp_path / "three", slow.address).artifact("k1").weights() == b"quick"


def test_the_same_artifact_of_two_machines(objects: Objects, tmp_path: Path) -> None:
    stores = [Store(tmp_path / name) for name in ("one", "two")]
    for store in stores:
        with store.begin("k1") as work:
            work.commit({"weights-0-last.safetensors": b"weights"})
    assert [artifacts.push(objects, store.artifact("k1")) for store in stores] == ["pushed", "there"]


def test_a_damaged_artifact_is_not_pushed(objects: Objects, tmp_path: Path) -> None:
    store = Store(tmp_path / "one")
    with store.begin("k1") as work:
        work.commit({"weights-0-last.safetensors": b"weights", "weights-1-last.safetensors": b"more"})
    (store.phase_folder("k1") / "weights-1-last.safetensors").write_bytes(b"less")
    with pytest.raises(StoreCorrupt, match="KD0902"):
        artifacts.push(objects, store.artifact("k1"))
    assert objects.listed("index") == {}


# ---- services that refuse


def test_a_bucket_that_does_not_exist(service: Service, kdplan: Kdplan) -> None:
    for command in (["plan", "a.kd"], ["run", "a.kd"], ["status", "a.kd"]):
        ran = kdplan(*command, "--store", "s3://nobodys-bucket/kd")
        assert ran.code == 2 and "KD0942" in ran.err and "`nobodys-bucket`" in ran.err, ran.err
        assert "Traceback" not in ran.err


def test_no_credentials(service: Service, bucket: str, kdplan: Kdplan, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    for variable in ("AWS_CONFIG_FILE", "AWS_SHARED_CREDENTIALS_FILE"):
        monkeypatch.setenv(variable, "none")
    ran = kdplan("run", "a.kd", "--store", f"s3://{bucket}/kd")
    assert ran.code == 2 and "KD0943" in ran.err and "AWS_PROFILE" in ran.err, ran.err
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    ran = kdplan("plan", "a.kd", "--store", f"s3://{bucket}/kd")
    assert ran.code == 2 and "KD0943" in ran.err and "nobody" in ran.err, ran.err


def test_a_service_that_fails_for_a_moment(stores: tuple[RemoteStore, RemoteStore], service: Service) -> None:
    one, two = stores
    service.failing = 2
    finish(one, "k1")
    service.failing = 2
    assert two.artifact("k1").weights() == b"weights"


def test_a_service_that_ignores_conditions(
    stores: tuple[RemoteStore, RemoteStore], service: Service, reports: Reports, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is found out before anything relies on it, and reported; two machines still agree."""
    monkeypatch.setattr("kdplan.runtime.remote.objects.SETTLE", 0.3)
    service.ignores_conditions = True
    one, two = stores
    work = one.begin("k1")
    assert reports == ["KD0948"] and not one.objects.conditional
    with pytest.raises(StoreLocked, match="KD0901"):
        two.begin("k1")
    work.close()
    outcomes: list[str] = []

    def create(objects: Objects, content: bytes) -> None:
        try:
            objects.create("leases/k2/1", content)
            outcomes.append("created")
        except FileExistsError:
            outcomes.append("refused")

    threads = [threading.Thread(target=create, args=(s.objects, s.root.name.encode())) for s in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(outcomes) == ["created", "refused"]
    finish(one, "k1")
    assert two.artifact("k1").weights() == b"weights"
    assert set(reports) == {"KD0948"}
    service.ignores_conditions = False
    assert Objects(one.address, reports, one.root / "service.json").conditional


def test_a_service_is_tried_once(stores: tuple[RemoteStore, RemoteStore], service: Service, bucket: str) -> None:
    one, _ = stores
    finish(one, "k1")
    service.asked.clear()
    finish(RemoteStore(one.root, one.address), "k2")
    assert not [path for _, path in service.asked if "/probes/" in path]
    assert not service.names(bucket, "kd/probes/")


def test_a_write_whose_answer_was_lost(objects: Objects) -> None:
    """The driver sends it again, and meets its own object."""
    objects.create("a", b"mine")
    objects.create("a", b"mine")
    with pytest.raises(FileExistsError):
        objects.create("a", b"another's")


# ---- commands


@pytest.fixture
def elsewhere(
    address: Address, kdplan: Kdplan, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Iterator[tuple[str, Lease]]:
    """Another machine trains `big@train`, and has done 7 steps."""
    key = kdplan("plan", "a.kd", "--no-cost", "--json", "--store", str(address)).phases["big@train"]["key"]
    with monkeypatch.context() as change:
        change.setattr("kdplan.runtime.remote.leases.own_holder", lambda: replace(own_holder(), host="elsewhere"))
        lease = Leases(Objects(address)).take(key, "phase", lambda: 7)
    yield key, lease
    lease.release()


def test_a_phase_that_another_machine_trains(
    elsewhere: tuple[str, Lease], address: Address, kdplan: Kdplan, tmp_path: Path
) -> None:
    ran = kdplan("run", "a.kd", "--no-wait", "--store", str(address))
    assert ran.code == 3 and f"process {os.getpid()} on elsewhere since" in ran.out + ran.err
    ran = kdplan("status", "a.kd", "--json", "--store", str(address))
    assert [(p["state"], "elsewhere" in p["who"]) for p in ran.json["phases"]] == [
        ("running", True),
        ("missing", False),
    ]


def test_a_run_follows_another_machine_and_reads_what_it_finished(
    elsewhere: tuple[str, Lease], address: Address, kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What ends the wait is another machine's artifact, which is then not trained here."""
    key, lease = elsewhere
    monkeypatch.setenv("KDPLAN_LEASE_SECONDS", "2")
    assert kdplan("run", "a.kd", "--only", "big@train", "--store", "local").code == 0

    def finish_there() -> None:
        time.sleep(3)
        artifacts.push(Objects(address), Store(folder / "local").artifact(key))
        lease.release()

    thread = threading.Thread(target=finish_there)
    thread.start()
    ran = kdplan("run", "a.kd", "--store", str(address))
    thread.join()
    assert ran.code == 0, ran.out + ran.err
    assert f"Process {os.getpid()} on elsewhere has trained it since" in ran.out and "7" in ran.out
    assert "big@train: starts" not in ran.out and "kd: starts" in ran.out, ran.out


def test_looking_copies_nothing(stores: tuple[RemoteStore, RemoteStore], kdplan: Kdplan, address: Address) -> None:
    assert kdplan("run", "a.kd", "--store", str(address)).code == 0
    with pytest.MonkeyPatch.context() as change:
        change.setenv("KDPLAN_CACHE", "another")
        assert kdplan("plan", "a.kd", "--store", str(address), "--detailed-exitcode").code == 0
        states = kdplan("status", "a.kd", "--json", "--store", str(address)).json["phases"]
        assert [p["state"] for p in states] == ["done", "done"]
        assert "in the store" in kdplan("why", "a.kd", "kd", "--store", str(address)).out
        assert not list(Path("another").glob("*/phases"))
        assert kdplan("export", "a.kd", "tiny", "-o", "tiny", "--store", str(address)).code == 0
        assert len(list(Path("another").glob("*/phases/*"))) == 1, "only what is exported"


def test_loading_processes(kdplan: Kdplan, address: Address, folder: Path) -> None:
    """They are forked from a process that talks to a service and renews a lease."""
    text = (folder / "a.kd").read_text().replace("batch     = 50", "batch     = 50\n  workers   = 2")
    (folder / "a.kd").write_text(text.replace("epochs    = epochs", "epochs    = 3"))
    with pytest.MonkeyPatch.context() as change:
        change.setenv("KDPLAN_LEASE_SECONDS", "0.5")
        ran = kdplan("run", "a.kd", "--store", str(address))
    assert ran.code == 0 and ran.out.count(": starts, ") == 2, ran.out + ran.err


def test_a_damaged_teacher_in_the_cloud_is_trained_again(
    kdplan: Kdplan, address: Address, folder: Path, service: Service, bucket: str
) -> None:
    assert kdplan("run", "a.kd", "--only", "big@train", "--store", str(address)).code == 0
    for name in service.names(bucket, "kd/files/"):
        service.client().put_object(Bucket=bucket, Key=name, Body=b"altered")
    with pytest.MonkeyPatch.context() as change:
        change.setenv("KDPLAN_CACHE", "another")
        ran = kdplan("run", "a.kd", "--store", str(address))
        assert ran.code == 0 and "KD0915" in ran.out + ran.err and "big@train: done" in ran.out, ran.out + ran.err
        change.setenv("KDPLAN_CACHE", "third")
        ran = kdplan("export", "a.kd", "tiny", "-o", "tiny", "--store", str(address))
        assert ran.code == 0, ran.err
        assert kdplan("store", "pull", str(address), "--store", "copy").code == 0


def test_a_write_while_another_is_under_way(objects: Objects, service: Service) -> None:
    assert objects.conditional
    service.conflicting = 2
    objects.create("a", b"mine")
    assert service.conflicting == 0 and objects.read("a") == b"mine"


def test_an_artifact_that_came_first_and_is_damaged(
    stores: tuple[RemoteStore, RemoteStore], service: Service, bucket: str, tmp_path: Path
) -> None:
    """Then the second one stays."""
    one, two = stores
    work = two.begin("k1")
    artifacts.push(one.objects, local(tmp_path / "local", b"one"))
    for name in entry_files(service, bucket, "k1"):
        service.client().put_object(Bucket=bucket, Key=name, Body=b"altered")
    with work:
        assert work.commit({"weights-0-last.safetensors": b"two"}).read("weights-0-last.safetensors") == b"two"
    assert RemoteStore(tmp_path / "three", two.address).artifact("k1").weights() == b"two"


def test_a_damaged_local_artifact_of_another_attempt(
    stores: tuple[RemoteStore, RemoteStore], objects: Objects, tmp_path: Path
) -> None:
    """What the cloud has replaces it, with names and hashes of its own."""
    one, _ = stores
    artifacts.push(objects, local(tmp_path / "local", b"theirs"))
    with Store(one.root).begin("k1") as work:
        work.commit({"weights-0-last.safetensors": b"ours", "environment.json": {}})
    assert one.has("k1") and one.index["phases"] == {"k1"}
    artifact = one.artifact("k1")
    (one.phase_folder("k1") / "weights-0-last.safetensors").write_bytes(b"damaged")
    assert artifact.weights() == b"theirs" and "environment.json" not in artifact.files


def local(root: Path, weights: bytes) -> Artifact:
    """A finished phase of a store in a folder."""
    with Store(root).begin("k1") as work:
        return work.commit({"weights-0-last.safetensors": weights})


def test_plans_written_in_python(address: Address, folder: Path, stores: tuple[RemoteStore, RemoteStore]) -> None:
    plan = PlanBuilder()
    digits = plan.data("digits", limit=100)
    quick = plan.recipe("quick", optimizer=item("sgd", lr=0.1), epochs=1, batch=50)
    small = plan.student("small", "digits_net", width=2)
    plan.phase("alone", of=small, on=digits, with_=quick, loss=fn.cross_entropy(small.logits, labels))
    results = plan.run(str(address))
    assert results.run.trained == ["alone"] and not list(folder.glob("s3*"))
    assert len(stores[0].index["phases"]) == 1
