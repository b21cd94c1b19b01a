"""Several machines on one store in the cloud: real processes, each with a cache and a host's name of its own."""

from __future__ import annotations

import re
import signal
import time

import pytest

from tests.scale.conftest import Machine
from tests.scale.service import Service

Machines = tuple[Machine, Machine]
STARTS = re.compile(r"^(\S+): starts, ", re.MULTILINE)


@pytest.mark.parametrize(
    "options",
    [pytest.param((), id="one process"), pytest.param(("--jobs", "2"), id="workers", marks=pytest.mark.slow)],
)
def test_two_machines_train_a_shared_teacher_once(
    machines: Machines, service: Service, bucket: str, options: tuple[str, ...]
) -> None:
    processes = [machine.start("run", "plan.kd", *options) for machine in machines]
    said = [process.communicate(timeout=300) for process in processes]
    assert [process.returncode for process in processes] == [0, 0], said
    started = [name for out, _ in said for name in STARTS.findall(out)]
    assert sorted(started) == ["big@train", "kd[t=2]", "kd[t=4]"], said
    one, two = machines
    tables = {out[out.index("table on") :].strip() for out, _ in said}
    assert len(tables) == 1
    for key in one.phases.keys() & two.phases.keys():
        assert one.phases[key] == two.phases[key]
    assert len(one.phases.keys() | two.phases.keys()) == 3
    assert len(service.names(bucket, "kd/index/phases/")) == 3 and not service.names(bucket, "kd/leases/")
    exported = two("export", "plan.kd", "tiny", "-o", "tiny")
    assert exported.code == 0 and "its outputs are equal" in exported.out, exported.err


def until(condition: object, seconds: float = 60.0) -> None:
    """Waits until something is so."""
    assert callable(condition)
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it did not come to be"
        time.sleep(0.05)


def test_a_dead_machines_phase_is_free_after_one_lease(machines: Machines, service: Service, bucket: str) -> None:
    one, two = machines
    dying = one.start("run", "plan.kd", "--set", "epochs=2000", "--only", "big@train", KDPLAN_LEASE_SECONDS="4")
    until(lambda: service.names(bucket, "kd/leases/"))
    dying.send_signal(signal.SIGKILL)
    dying.communicate()
    (left,) = service.names(bucket, "kd/leases/")
    key = left.split("/")[2]
    began = time.monotonic()
    watching = two.start("run", "plan.kd", "--set", "epochs=2000", "--only", "big@train", KDPLAN_LEASE_SECONDS="4")
    until(lambda: any(int(n.rpartition("/")[2]) > int(left.rpartition("/")[2]) for n in leases(service, bucket)))
    assert time.monotonic() - began > 4
    watching.send_signal(signal.SIGTERM)
    out, err = watching.communicate(timeout=60)
    assert watching.returncode == 75 and f"Process {dying.pid} on one has trained it" in out, out + err
    assert not leases(service, bucket), "an interrupted run gives its phase back at once"
    assert not any(key in name for name in service.names(bucket, "kd/index/"))


def leases(service: Service, bucket: str) -> list[str]:
    return service.names(bucket, "kd/leases/")


@pytest.mark.slow
def test_a_phase_of_a_killed_process_of_this_machine_is_free_at_once(
    machines: Machines, service: Service, bucket: str
) -> None:
    one, _ = machines
    dying = one.start("run", "plan.kd", "--set", "epochs=2000", "--only", "big@train")
    until(lambda: leases(service, bucket) and list(one.cache.glob("*/work/*/checkpoints/step-*")))
    dying.send_signal(signal.SIGKILL)
    dying.communicate()
    began = time.monotonic()
    again = one.start("run", "plan.kd", "--set", "epochs=2000", "--only", "big@train")
    until(lambda: any(int(n.rpartition("/")[2]) > 1 for n in leases(service, bucket)))
    assert time.monotonic() - began < 40
    again.send_signal(signal.SIGTERM)
    out, err = again.communicate(timeout=60)
    assert again.returncode == 75 and "resumes at step" in out, out + err
