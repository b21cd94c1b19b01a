"""Processes that are killed while they push: what is visible is whole, and the next one goes on."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import pytest

from kdplan.runtime.remote import artifacts
from kdplan.runtime.remote.address import Address
from kdplan.runtime.remote.objects import Objects
from kdplan.runtime.remote.store import RemoteStore
from kdplan.runtime.store import Store
from tests.cli.test_run import environment
from tests.scale.service import Service

TRAIN = """
import sys
from kdplan.runtime.remote.address import Address
from kdplan.runtime.remote.store import RemoteStore

store = RemoteStore(sys.argv[1], Address("s3", sys.argv[2], "kd"))
store.sweep()
for key in sys.argv[3:]:
    if not store.has(key):
        with store.begin(key) as work:
            if not store.has(key):
                files = {f"weights-{i}-last.safetensors": f"{key} {i}".encode() * 1000 for i in range(4)}
                work.commit({**files, "summary.json": {"steps": 3}})
print("done", flush=True)
"""


def trainer(cache: Path, bucket: str, service: Service, keys: list[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", TRAIN, str(cache), bucket, *keys],
        env={**environment(), **service.environment(), "KDPLAN_LEASE_SECONDS": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def look(address: Address) -> set[str]:
    """What a machine with an empty cache sees; every artifact of it is whole."""
    objects = Objects(address)
    keys = artifacts.listed_index(objects)["phases"]
    with tempfile.TemporaryDirectory() as folder:
        for key in keys:
            entry = artifacts.read_entry(objects, key, Path(folder) / key)
            assert entry is not None
            artifacts.pull(objects, key, entry, Store(folder).phase_folder(key))
            Store(folder).verify(key)
            weights = [f"{key} {i}".encode() * 1000 for i in range(4)]
            assert [Store(folder).artifact(key).weights(i) for i in range(4)] == weights
    return keys


def killed_at(number: int, service: Service, bucket: str, cache: Path, keys: list[str]) -> bool:
    """Whether a trainer was killed before its request `number` was answered; else it ended by itself."""
    process = trainer(cache, bucket, service, keys)
    asked: list[str] = []

    def kill(method: str, path: str) -> None:
        asked.append(path)
        if len(asked) == number:
            os.kill(process.pid, signal.SIGKILL)

    service.before = kill
    _, err = process.communicate(timeout=60)
    service.before = lambda method, path: None
    assert process.returncode == (-signal.SIGKILL if len(asked) >= number else 0), err
    return process.returncode != 0


def test_killed_at_some_requests(service: Service, bucket: str, address: Address, tmp_path: Path) -> None:
    """Of one phase: the listing, the probe, the lease, the files, the entry."""
    for number in (8, 11, 13, 15, 17):
        killed_at(number, service, bucket, tmp_path / "one", ["k1"])
        look(address)
    assert not killed_at(10**6, service, bucket, tmp_path / "one", ["k1"])
    assert look(address) == {"k1"} and RemoteStore(tmp_path / "one", address).outbox == []


@pytest.mark.slow
def test_killed_at_each_request(service: Service, bucket: str, address: Address, tmp_path: Path) -> None:
    number, last = 1, False
    while not last:
        cache = tmp_path / str(number)
        last = not killed_at(number, service, bucket, cache, ["k1"])
        look(address)
        assert not killed_at(10**6, service, bucket, cache, ["k1"])
        assert look(address) == {"k1"} and Store(cache).verify("k1")
        for name in service.names(bucket):
            service.client().delete_object(Bucket=bucket, Key=name)
        number += 1
    assert number > 15


@pytest.mark.slow
def test_a_hundred_kills(service: Service, bucket: str, address: Address, tmp_path: Path) -> None:
    """Two machines train forty phases, and are killed at random moments a hundred times."""
    keys = [f"k{i}" for i in range(40)]
    random.seed(0)
    kills = 0
    while kills < 100:
        order = [random.sample(keys, len(keys)) for _ in range(2)]
        processes = [trainer(tmp_path / n, bucket, service, k) for n, k in zip(("one", "two"), order, strict=True)]
        for process in processes:
            time.sleep(random.uniform(0.5, 1.5))
            process.send_signal(signal.SIGKILL)
            process.communicate()
            kills += process.returncode == -signal.SIGKILL
        seen = look(address)
        if len(seen) == len(keys):
            for name in service.names(bucket):
                service.client().delete_object(Bucket=bucket, Key=name)
    for name in ("one", "two"):
        for _ in range(20):
            process = trainer(tmp_path / name, bucket, service, keys)
            _, err = process.communicate(timeout=120)
            if process.returncode == 0:
                break
            assert "KD0901" in err, err  # of a machine that was killed a moment ago
            time.sleep(0.5)
        assert process.returncode == 0
        assert RemoteStore(tmp_path / name, address).outbox == []
    assert look(address) == set(keys)
