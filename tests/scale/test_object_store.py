"""A store that machines share: what is pushed and pulled, damage, and services that refuse."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.runtime.remote import artifacts
from kdplan.runtime.remote.address import Address
from kdplan.runtime.remote.objects import Objects
from kdplan.runtime.remote.store import RemoteStore
from kdplan.runtime.store import Store, StoreCorrupt
from tests.scale.conftest import Reports, finish
from tests.scale.service import Service


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
