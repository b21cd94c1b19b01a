"""`kdplan work`: one phase from a snapshot, with the exit codes of `run`."""

from __future__ import annotations

import os
import subprocess
import sys
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
from tests.cli.test_run import environment


@pytest.fixture
def snapshot(folder: Path) -> Path:
    """A snapshot in the run's folder of a store."""
    text = (folder / "a.kd").read_text()
    compiled = compile_source(Source("a.kd", text), folder)
    planned = {n: p for n, p in compiled.planned.items() if p.same_as is None}
    path = folder / ".kdplan" / "runs" / "r1" / "snapshot.json"
    path.parent.mkdir(parents=True)
    (path.parent / "about.json").touch()
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


def test_a_worker_that_cannot_report_ends(
    kdplan: Kdplan, snapshot: Path, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who waits for the last line would wait for ever."""
    monkeypatch.setattr("kdplan.runtime.relay.Relay.write", lambda *_: False)
    ran = kdplan("work", str(snapshot), "--phase", "big@train", "kd")
    assert ran.code == 2 and "KD0979" in ran.err and len(phases(snapshot)) == 1


def test_another_module_on_the_path(kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker finds by itself must be what the run found, or it would train something else under the same key."""
    for name, scale in (("here", 1), ("there", 100)):
        (folder / name).mkdir()
        (folder / name / "helperx_of_a_test.py").write_text(f"SCALE = {scale}")
    (folder / "own").mkdir()
    (folder / "own" / "my.py").write_text(
        "import torch.nn.functional as F\nfrom helperx_of_a_test import SCALE\n\n"
        "def loss(logits, labels):\n    return SCALE * F.cross_entropy(logits, labels)\n"
    )
    plan = folder / "own" / "p.kd"
    plan.write_text(
        'use "my.py" as my\ndata digits = digits { limit = 100 }\n'
        "recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 50 }\nstudent small = digits_net(width = 2)\n"
        "phase alone of small on digits with quick { loss = my.loss(small.logits, labels) }\n"
    )
    monkeypatch.syspath_prepend(str(folder / "here"))
    assert kdplan("export-workflow", "snakemake", str(plan), "-o", "flow").code == 0
    assert kdplan("work", "flow/snapshot.json", "--store", "one", "--phase", "alone").code == 0
    command = [sys.executable, "-m", "kdplan", "work", "flow/snapshot.json", "--store", "other", "--phase", "alone"]
    for name, code in (("here", 0), ("there", 2)):
        path = os.pathsep.join([str(folder / name), *sys.path])
        ran = subprocess.run(command, capture_output=True, text=True, env=environment() | {"PYTHONPATH": path})
        assert ran.returncode == code and ("KD0978" in ran.stderr) == (code == 2), ran.stderr
    assert "helperx_of_a_test" in ran.stderr


def test_a_folder_of_the_users_that_is_called_runs(kdplan: Kdplan, folder: Path) -> None:
    assert kdplan("export-workflow", "snakemake", "a.kd", "-o", "runs/flow").code == 0
    assert kdplan("work", "runs/flow/snapshot.json", "--phase", "big @ train".replace(" ", "")).code == 0
    assert (folder / ".kdplan" / "phases").is_dir() and not (folder / "phases").exists()


def test_what_workers_finished_stays(kdplan: Kdplan, folder: Path) -> None:
    """A plan that is trained phase by phase reads all of them."""
    assert kdplan("export-workflow", "snakemake", "a.kd", "-o", "flow").code == 0
    for phase in ("big@train", "kd"):
        assert kdplan("work", "flow/snapshot.json", "--phase", phase).code == 0
    assert "0 results" in kdplan("store", "gc").out
