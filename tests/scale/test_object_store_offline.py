"""What is known and done where the service of a store cannot be reached."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from kdplan.runtime.remote.address import Address
from kdplan.runtime.remote.objects import StoreUnreachable
from kdplan.runtime.remote.store import RemoteStore
from kdplan.runtime.store import Store
from tests.cli.conftest import Kdplan, folder, kdplan
from tests.scale.conftest import Reports, finish
from tests.scale.service import Service

__all__ = ["folder", "kdplan"]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """Requests are sent once."""
    options = {"config_kwargs": {"retries": {"total_max_attempts": 1}}}
    monkeypatch.setattr("kdplan.runtime.remote.objects._OPTIONS", {"s3": options})


def test_the_cache_is_read_without_the_service(
    stores: tuple[RemoteStore, RemoteStore], service: Service, reports: Reports
) -> None:
    one, _ = stores
    finish(one, "k1")
    service.stop()
    again = RemoteStore(one.root, one.address, reports)
    assert again.has("k1") and again.problem("k1") is None and again.artifact("k1").weights() == b"weights"
    assert not again.has("k2") and again.state("k2") == "missing" and again.number("costs", "k2") is None
    assert reports == ["KD0945"]


def test_what_is_not_in_the_cache(stores: tuple[RemoteStore, RemoteStore], service: Service) -> None:
    one, two = stores
    finish(one, "k1")
    assert two.has("k1")
    service.stop()
    with pytest.raises(StoreUnreachable, match="KD0944"):
        two.artifact("k1")
    assert list((two.root / "phases").glob("*")) == []


def test_what_was_trained_without_the_service_is_pushed_later(
    stores: tuple[RemoteStore, RemoteStore], service: Service, reports: Reports
) -> None:
    one, two = stores
    service.stop()
    finish(one, "k1")
    assert one.outbox == ["k1"] and Store(one.root).artifact("k1").weights() == b"weights"
    left = one.settle()
    assert left is not None and left.code == "KD0947" and "1 result" in left.message
    service.start()
    RemoteStore(one.root, one.address).sweep()
    assert one.outbox == [] and two.artifact("k1").weights() == b"weights"


def test_a_mark_without_an_artifact(stores: tuple[RemoteStore, RemoteStore]) -> None:
    """A process was killed between the mark and the artifact; or it is just about to finish."""
    one, _ = stores
    one.mark("k1")
    with Store(one.root).begin("k1"):
        one.sweep()
        assert one.outbox == ["k1"]
    one.sweep()
    assert one.outbox == []


def test_the_network_goes_away_during_a_run(
    service: Service, address: Address, kdplan: Kdplan, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    """All is trained and shown; the run says what could not be pushed, and the next command pushes it."""

    def go(method: str, path: str) -> None:
        if method == "PUT" and "/index/phases/" in path:
            service.failing = 10**6

    service.before = go
    ran = kdplan("run", "a.kd", "--store", str(address))
    assert ran.code == 1 and "KD0945" in ran.err and "KD0947" in ran.err and "2 results of" in ran.err, ran.err
    assert "table on" in ran.out and "Traceback" not in ran.err
    service.failing = 0
    service.before = lambda method, path: None
    ran = kdplan("plan", "a.kd", "--store", str(address), "--detailed-exitcode")
    assert ran.code == 0 and ran.err == ""
    monkeypatch.setenv("KDPLAN_CACHE", str(folder / "another"))
    ran = kdplan("run", "a.kd", "--store", str(address))
    assert ran.code == 0 and "2 cached" in ran.out, ran.out + ran.err
    service.stop()
    ran = kdplan("run", "a.kd", "--store", str(address))
    assert ran.code == 0 and "table on" in ran.out and "KD0945" in ran.err, ran.out + ran.err


def test_a_teacher_that_cannot_be_fetched(
    service: Service, address: Address, kdplan: Kdplan, monkeypatch: pytest.MonkeyPatch, folder: Path
) -> None:
    assert kdplan("run", "a.kd", "--only", "big@train", "--store", str(address)).code == 0
    monkeypatch.setenv("KDPLAN_CACHE", str(folder / "another"))

    def go(method: str, path: str) -> None:
        if "/files/" in path:
            service.failing = 10**6

    service.before = go
    ran = kdplan("run", "a.kd", "--store", str(address))
    assert ran.code == 1 and "KD0944" in ran.out + ran.err, ran.out + ran.err
    assert "Traceback" not in ran.err


def test_a_service_that_never_answers(
    stores: tuple[RemoteStore, RemoteStore], service: Service, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is asked for half of the time at most; and again once that is over."""
    one, two = stores
    finish(one, "k1")
    monkeypatch.setattr("kdplan.runtime.remote.objects._LONG", 0.5)

    def hang(method: str, path: str) -> None:
        time.sleep(1)
        service.failing = 1

    service.before = hang
    began = time.monotonic()
    with pytest.raises(StoreUnreachable):
        two.objects.read("a")
    asked, took = len(service.asked), time.monotonic() - began
    for _ in range(10):
        with pytest.raises(StoreUnreachable, match="KD0944"):
            two.objects.read("a")
    assert len(service.asked) == asked
    service.before = lambda method, path: None
    time.sleep(took)
    assert two.objects.read("a") is None and two.artifact("k1").weights() == b"weights"
