"""A service, a bucket of its own for each test, and processes with caches of their own: machines."""

from __future__ import annotations

import logging
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from kdplan.runtime.remote.address import Address
from kdplan.runtime.remote.objects import Objects
from kdplan.runtime.remote.store import RemoteStore
from tests.cli.conftest import Ran
from tests.cli.test_run import environment
from tests.processes import PIPE, Command
from tests.scale.service import Service

PLAN = """
param epochs = 6
param t in [2, 4]
data digits = digits { limit = 200 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = epochs  batch = 20 }
teacher big = digits_net(width = 4) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2)
phase kd of small on digits with quick { loss = kd(small.logits, big.logits, temperature = t) }
measure table of small@kd on digits.test { top1 }
export tiny = small@kd[t = 2]
"""


@pytest.fixture(scope="session")
def one_service() -> Iterator[Service]:
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    service = Service()
    service.start()
    yield service
    service.stop()


@pytest.fixture
def service(one_service: Service, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Service]:
    """The service, which this process asks; what a test changes of it is changed back."""
    for name, value in one_service.environment().items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("KDPLAN_CACHE", str(tmp_path / "caches"))
    monkeypatch.setenv("COLUMNS", "200")
    one_service.asked.clear()
    yield one_service
    one_service.ignores_conditions, one_service.failing, one_service.altering = False, 0, 0
    one_service.conflicting, one_service.before = 0, lambda method, path: None
    if one_service._server is None:
        one_service.start()


@pytest.fixture
def bucket(service: Service) -> str:
    """A bucket of its own."""
    name = f"b{uuid.uuid4().hex[:12]}"
    service.client().create_bucket(Bucket=name)
    return name


@pytest.fixture
def address(bucket: str) -> Address:
    return Address("s3", bucket, "kd")


@pytest.fixture
def objects(address: Address) -> Objects:
    return Objects(address)


@dataclass
class Machine:
    """Commands in processes with a cache and a host's name of their own."""

    folder: Path
    address: str
    service: Service
    host: str

    def start(self, *arguments: str, **variables: str) -> Command:
        """Begins `kdplan ARGUMENTS --store ADDRESS`."""
        self.folder.mkdir(exist_ok=True)
        (self.folder / "plan.kd").write_text(PLAN)
        return Command(
            [*arguments, "--store", self.address],
            cwd=self.folder,
            env={**environment(), **self.service.environment(), "KDPLAN_CACHE": str(self.cache), **variables},
            stdout=PIPE,
            stderr=PIPE,
            before=f"import socket; socket.gethostname = lambda: {self.host!r}",
        )

    def __call__(self, *arguments: str, **variables: str) -> Ran:
        """Runs a command to its end."""
        process = self.start(*arguments, **variables)
        out, err = process.communicate(timeout=300)
        return Ran(process.wait(), out, err)

    @property
    def cache(self) -> Path:
        return self.folder / "cache"

    @property
    def phases(self) -> dict[str, dict[str, bytes]]:
        """Key -> file name -> content, of all phases in the cache."""
        return {
            folder.name: {file.name: file.read_bytes() for file in folder.iterdir()}
            for folder in self.cache.glob("*/phases/*")
        }


@pytest.fixture
def machines(tmp_path: Path, address: Address, service: Service) -> tuple[Machine, Machine]:
    """Two machines with one store."""
    one, two = (Machine(tmp_path / name, str(address), service, name) for name in ("one", "two"))
    return one, two


class Reports(list[str]):
    """The codes of the diagnostics that a store reported."""

    def __call__(self, diagnostic: object) -> None:
        self.append(str(getattr(diagnostic, "code", diagnostic)))


@pytest.fixture
def reports() -> Reports:
    return Reports()


@pytest.fixture
def stores(tmp_path: Path, address: Address, reports: Reports) -> tuple[RemoteStore, RemoteStore]:
    """The stores of two machines, in this process."""
    one, two = (RemoteStore(tmp_path / name, address, reports) for name in ("one", "two"))
    return one, two


def finish(store: RemoteStore, key: str, weights: bytes = b"weights") -> None:
    """Trains a phase, as it were."""
    with store.begin(key) as work:
        work.log({"step": 3, "loss": 0.5})
        about = {"name": f"phase of {key}", "plan": "a.kd", "key": key, "components": [], "reads": {}, "details": []}
        work.commit({"weights-0-last.safetensors": weights, "phase.json": about, "summary.json": {"steps": 3}})
