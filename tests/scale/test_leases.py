"""Leases: who may train a phase, agreed on by machines that know nothing of one another."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import pytest

from kdplan.diagnostics.report import PlanError
from kdplan.runtime.remote import leases as module
from kdplan.runtime.remote.leases import Lease, Leases, generations
from kdplan.runtime.remote.objects import Objects, StoreUnreachable
from kdplan.runtime.store import StoreLocked
from kdplan.runtime.store.lock import own_holder
from tests.scale.service import Service


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Leases of one second, of a process that nobody here can judge."""
    monkeypatch.setenv("KDPLAN_LEASE_SECONDS", "1")
    monkeypatch.setattr(module, "own_holder", lambda: replace(own_holder(), host="elsewhere"))
    yield
    assert not [t for t in threading.enumerate() if t.name.startswith("lease-")]


def taken(leases: Leases, key: str = "k1") -> Lease | None:
    try:
        return leases.take(key, "phase k1")
    except StoreLocked:
        return None


def silenced(lease: Lease) -> Lease:
    """As if its machine had died, or its network."""
    lease._ended.set()
    lease._thread.join()
    return lease


def test_one_of_many_takes_it(objects: Objects) -> None:
    assert objects.conditional
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda _: taken(Leases(objects)), range(8)))
    (winner,) = [lease for lease in results if lease is not None]
    winner.release()
    assert generations(objects, "k1") == []


def test_it_is_renewed_for_as_long_as_it_is_held(objects: Objects) -> None:
    lease, other = taken(Leases(objects)), Leases(objects)
    assert lease is not None
    began = time.monotonic()
    while time.monotonic() - began < 3:
        assert taken(other) is None
        time.sleep(0.1)
    assert lease.number > 3 and len(generations(objects, "k1")) <= 2 and not lease.lost
    lease.release()
    following = taken(Leases(objects))
    assert following is not None
    following.release()


def test_a_silent_machine_loses_it_after_one_lease(objects: Objects) -> None:
    dead, other = taken(Leases(objects)), Leases(objects)
    assert dead is not None
    silenced(dead)
    time.sleep(1.5)
    began = time.monotonic()  # what came before counts nothing: only what an observer has watched itself
    heir = None
    while heir is None:
        heir = taken(other)
        time.sleep(0.05)
    assert 1.0 < time.monotonic() - began < 3
    assert not dead.advance(), "it finds a later generation"
    assert generations(objects, "k1") == [heir.number]
    heir.release()


def test_a_machine_that_comes_back_after_others_have_renewed(objects: Objects) -> None:
    """The number that it would create next was used and removed since."""
    zombie = taken(Leases(objects))
    assert zombie is not None
    silenced(zombie)
    heir = Lease(objects, "k1", zombie.number, lambda: None)
    assert heir.advance() and heir.advance() and heir.advance()
    assert not zombie.advance()
    assert generations(objects, "k1") == [heir.number]
    heir.release()


def test_a_renewal_that_was_cut_off_in_the_middle(objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    """The service went away after the next generation was created: it is this lease's own."""
    lease = Lease(objects, "k1", 0, lambda: None)
    assert lease.advance()
    whole = objects.listed

    def gone(folder: str) -> dict[str, int]:
        raise StoreUnreachable.of("KD0944", address=objects.address, reason="gone")

    monkeypatch.setattr(objects, "listed", gone)
    with pytest.raises(StoreUnreachable):
        lease.advance()
    monkeypatch.setattr(objects, "listed", whole)
    lease._step = lambda: 7
    assert lease.advance() and lease.number == 2
    lease.release()


def test_who_waits_asks_seldom(objects: Objects, service: Service) -> None:
    lease, other = taken(Leases(objects)), Leases(objects)
    assert lease is not None
    silenced(lease)
    taken(other)
    service.asked.clear()
    for _ in range(100):
        assert taken(other) is None
    assert len(service.asked) <= 2
    lease.release()


def test_the_step_is_shown_to_others(objects: Objects) -> None:
    lease = Leases(objects).take("k1", "phase k1", lambda: 12)
    other = Leases(objects)
    assert taken(other) is None
    seen = other.holder_of("k1")
    assert seen is not None and (seen.step, seen.holder.host, seen.ended) == (12, "elsewhere", False)
    lease.release()


@pytest.mark.parametrize("value", ["", "0", "-1", "nan", "inf", "a minute"])
def test_a_length_that_is_none(value: str, objects: Objects, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDPLAN_LEASE_SECONDS", value)
    with pytest.raises(PlanError, match="KD0932"):
        taken(Leases(objects))
