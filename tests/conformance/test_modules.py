"""Small networks and losses of every kind: kdplan computes what a plain loop computes, also over a kill.

`cases.py` is the table. The files below `modules` are what a user writes.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors.torch import load_file
from torch import Tensor

from kdplan.cli import main as kdplan
from kdplan.compile import inspect
from kdplan.diagnostics.report import PlanError
from tests.conformance.cases import cases
from tests.conformance.phases import Case, compare, compiled, plan_of

ROOT = Path(__file__).parents[2]
SCRIPT = Path(__file__).with_name("kill_modules.py")
CASES = cases()
RUNNING = [case for case in CASES if case.outcome in ("traced", "leaf")]
RESUMED = [case for case in RUNNING if case.resumed]

pytestmark = pytest.mark.filterwarnings("ignore")  # of torch, about what users' files do


def named(some: list[Case]) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("case", some, ids=lambda case: case.id)


def test_the_table_is_large_and_each_name_is_in_a_file() -> None:
    assert len(RUNNING) >= 180 and len({case.id for case in CASES}) == len(CASES)
    from tests.conformance.cases import LEAVES, NOT_RESUMED, REFUSED, SETTINGS

    known = {(case.file, case.name) for case in CASES}
    table = [(f, n) for f, names in LEAVES.items() for n in names.split()]
    table += [(f, n) for rows in (REFUSED, NOT_RESUMED) for f, names in rows.items() for n in names] + [*SETTINGS]
    assert [row for row in table if row not in known] == []


@named(RUNNING)
def test_three_steps(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert compare(case, tmp_path, monkeypatch) == case.outcome


@named([case for case in CASES if case not in RUNNING])
def test_refused(case: Case, tmp_path: Path) -> None:
    with pytest.raises(PlanError) as caught:
        inspect(compiled([case], 3, tmp_path))
    assert [d.code for d in caught.value.diagnostics] == [case.outcome]


@named([case for case in RUNNING if not case.resumed])
def test_what_is_not_resumed_is_a_warning(case: Case, tmp_path: Path) -> None:
    ready = compiled([case], 3, tmp_path)
    inspect(ready)
    assert {"KD0541", "KD0546"} & {d.code for d in ready.warnings}


@named([case for case in CASES if case.id in ("state_CenterLazy", "state_CenterOfNone", "state_Growing")])
def test_late_buffers_are_measured_and_inherited(case: Case, tmp_path: Path) -> None:
    """A version has the buffers that its phase made, for measures and for a phase that starts from it."""
    version = f"{case.id}@{case.id}_train"
    text = plan_of([case], 3) + (
        f"\nstudent copied = {version}\nmeasure m of {version} on digits.test {{ top1 }}\n"
        "phase again of copied on digits with fp32 { loss = cross_entropy(copied.logits, labels) }\n"
        "measure n of copied@again on digits.test { top1 }\n"
    )
    (tmp_path / "plan.kd").write_text(text)
    assert kdplan(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store"), "--device", "cpu"]) == 0


def weights(store: Path, name: str) -> dict[str, Tensor]:
    """What a phase left, by file and name."""
    folders = [f.parent for f in store.glob("phases/*/phase.json") if json.loads(f.read_text())["name"] == name]
    assert len(folders) == 1, name
    return {f"{f.name}/{n}": t for f in folders[0].glob("weights-*") for n, t in load_file(f).items()}


def kill_and_resume(some: list[Case], folder: Path) -> None:
    """Every phase, killed in the middle and resumed, ends as one that was not."""
    whole, broken = folder / "whole", folder / "broken"
    command = [sys.executable, str(SCRIPT), str(whole), str(broken), "1", *(case.id for case in some)]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(command, env=environment, capture_output=True, text=True, cwd=folder)
    assert ended.returncode == 0, ended.stderr[-3000:]
    killed = json.loads(ended.stdout.splitlines()[-1])
    assert killed.keys() == {case.id for case in some}
    differ = []
    for case, (name, number, step) in killed.items():
        one, two = weights(whole, name), weights(broken, name)
        assert one and one.keys() == two.keys()
        names = [n for n in one if one[n].shape != two[n].shape or not bool((one[n] == two[n]).all())]
        differ += [f"{case} after {number} at step {step}: {names}"] if names else []
    assert not differ, "\n".join(differ)


def test_killed_and_resumed(tmp_path: Path) -> None:
    kill_and_resume(RESUMED[::12], tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("file", sorted({case.file for case in RESUMED}))
def test_all_killed_and_resumed(file: str, tmp_path: Path) -> None:
    kill_and_resume([case for case in RESUMED if case.file == file], tmp_path)
