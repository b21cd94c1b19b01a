"""`kdplan work`: one phase from a snapshot, with the exit codes of `run`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from kdplan import __version__
from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from kdplan.runtime.options import RunOptions
from kdplan.runtime.snapshot import Snapshot, own_keys, write_snapshot
from kdplan.runtime.store import Store
from kdplan.runtime.store.sealed import read_sealed, write_sealed
from tests.cli.conftest import PLAN, Kdplan


@pytest.fixture
def snapshot(folder: Path) -> Path:
    """A snapshot in the run's folder of a store."""
    text = (folder / "a.kd").read_text()
    compiled = compile_source(Source("a.kd", text), folder)
    planned = {n: p for n, p in compiled.planned.items() if p.same_as is None}
    path = folder / ".kdplan" / "runs" / "r1" / "snapshot.json"
    path.parent.mkdir(parents=True)
    options = RunOptions(device="cpu", plan_file="a.kd")
    write_snapshot(path, Snapshot(compiled.plan, planned, own_keys(compiled.keys, planned), options))
    return path


def phases(snapshot: Path) -> list[str]:
    return sorted(p.name for p in (snapshot.parents[2] / "phases").iterdir() if not p.name.startswith("."))


def key(snapshot: Path, name: str) -> str:
    step: dict[str, str] = read_sealed(snapshot)["run"]["planned"][name]
    return step["key"]


def test_exactly_that_phase_is_trained(kdplan: Kdplan, snapshot: Path, folder: Path) -> None:
    (folder / "a.kd").write_text("an edit that is no plan")
    teacher = key(snapshot, "big@train")
    ran = kdplan("work", str(snapshot), "--phase", teacher)
    assert ran.code == 0 and phases(snapshot) == [teacher]
    assert "table" not in ran.out
    again = kdplan("work", str(snapshot), "--phase", "big@train")
    assert again.code == 0 and ": starts" not in again.out
    assert kdplan("work", str(snapshot), "--phase", key(snapshot, "kd")[:10]).code == 0
    assert len(phases(snapshot)) == 2


def test_several_phases_in_their_order(kdplan: Kdplan, snapshot: Path) -> None:
    assert kdplan("work", str(snapshot), "--phase", "big@train", "kd", "--store", "other").code == 0
    assert len(list(Path("other/phases").iterdir())) == 2
    assert not (snapshot.parents[2] / "phases").exists()


def test_a_phase_whose_teacher_is_not_there(kdplan: Kdplan, snapshot: Path) -> None:
    ran = kdplan("work", str(snapshot), "--phase", "kd")
    assert ran.code == 4 and "KD0910" in ran.out


def test_a_phase_that_another_process_trains(kdplan: Kdplan, snapshot: Path) -> None:
    with Store(snapshot.parents[2]).begin(key(snapshot, "big@train")):
        ran = kdplan("work", str(snapshot), "--phase", "big@train", "--no-wait")
    assert ran.code == 3


def test_a_phase_that_the_snapshot_does_not_have(kdplan: Kdplan, snapshot: Path) -> None:
    for phase in ("nothing", key(snapshot, "kd")[:3]):
        ran = kdplan("work", str(snapshot), "--phase", phase)
        assert ran.code == 2 and "KD0971" in ran.err


def test_a_file_that_is_no_snapshot(kdplan: Kdplan, snapshot: Path, folder: Path) -> None:
    def refused(problem: str) -> None:
        ran = kdplan("work", str(snapshot), "--phase", "big@train")
        assert ran.code == 2 and "KD0970" in ran.err and problem in ran.err

    value = read_sealed(snapshot)
    write_sealed(snapshot, value | {"kdplan": "0.0.1"})
    refused(f"written by kdplan 0.0.1, and this is {__version__}")
    write_sealed(snapshot, {n: v for n, v in value.items() if n != "code"})
    refused("not the form")
    snapshot.write_text(snapshot.read_text().replace("big", "bag"))
    refused("absent, or was altered")
    snapshot.unlink()
    refused("absent, or was altered")
    assert kdplan("work", "a.kd", "--phase", "big@train").code == 2


def test_another_device_and_data_folder(kdplan: Kdplan, snapshot: Path, folder: Path) -> None:
    ran = kdplan("work", str(snapshot), "--phase", "big@train", "--device", "cuda:7", "--data", str(folder))
    assert ran.code in (1, 2) and "KD0810" in ran.out + ran.err


def test_errors_keep_their_spans(folder: Path) -> None:
    compiled = compile_source(Source("a.kd", PLAN), folder)
    planned = {n: replace(p) for n, p in compiled.planned.items()}
    path = folder / "snapshot.json"
    write_snapshot(path, Snapshot(compiled.plan, planned, own_keys(compiled.keys, planned)))
    from kdplan.runtime.snapshot import read_snapshot

    plan = read_snapshot(path).plan
    assert {n: str(p.span) for n, p in plan.phases.items()} == {n: str(p.span) for n, p in compiled.plan.phases.items()}
    assert plan.phases["kd"].loss.span.text == compiled.plan.phases["kd"].loss.span.text
