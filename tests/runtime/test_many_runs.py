"""Several runs on one store: a phase that another process trains comes later, and never fails."""

from __future__ import annotations

import json
import os
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from kdplan.ir.plan import Plan
from kdplan.runtime.execute import RunResult, run_plan
from kdplan.runtime.interrupt import INTERRUPTED, Interrupt
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import run_phase  # noqa: F401  loaded before anything is timed
from kdplan.runtime.store import Store
from kdplan.runtime.store.work import Work
from tests.cli.test_run import environment
from tests.processes import PIPE, STDOUT, Command
from tests.runtime.small import assemble, digits_plan, keys, planned
from tests.runtime.test_execute import Recorder


class Watching(Recorder):
    """Notes what other processes do, and acts when that is first heard of."""

    def __init__(self, act: Callable[[], None] = lambda: None) -> None:
        super().__init__()
        self.act = act
        self.heard: list[tuple[str, str, int | None]] = []

    def elsewhere(self, name: str, who: str, step: int | None) -> None:
        self.heard.append((name, who, step))
        self.moments.append(f"elsewhere {name}")
        self.act()


def run(
    store: Path, events: Watching, needs: dict[str, list[str]] | None = None, plan: Plan | None = None, **options: Any
) -> RunResult:
    plan = plan or digits_plan()
    chosen = RunOptions(device="cpu", **options)
    return run_plan(plan, planned(plan, needs), keys(plan), Store(store), chosen, events, assemble=assemble)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdplan.runtime.execute.POLL", 0.05)


def released(work: Work, after: int) -> Callable[[], None]:
    """Gives a lock back when it was met so often."""
    met: list[int] = []

    def act() -> None:
        met.append(1)
        if len(met) == after:
            work.close()

    return act


def test_other_phases_go_first(tmp_path: Path) -> None:
    """`other` needs nothing that is locked: it is trained while `train` is, which is then trained here."""
    plan = digits_plan()
    plan.phases = {name: replace(plan.phases["train"], name=name) for name in ("train", "other")}
    work = Store(tmp_path).begin("key-train")
    work.log({"step": 4, "loss": 1.0})
    events = Watching(released(work, 3))
    result = run(tmp_path, events, {"nothing": []}, plan)
    assert result.exit_code == 0 and result.trained == ["other", "train"]
    named = [m for m in events.moments if not m.startswith("start")]
    assert named == ["elsewhere train", "done other", "elsewhere train", "elsewhere train", "done train", "finished"]
    assert {(name, step) for name, _, step in events.heard} == {("train", 4)}
    assert events.heard[0][1].startswith(f"Process {os.getpid()} on ")


def test_what_needs_it_waits_too(tmp_path: Path) -> None:
    work = Store(tmp_path).begin("key-train")
    events = Watching(released(work, 4))
    result = run(tmp_path, events, needs={"kd": ["train"]})
    assert result.exit_code == 0 and result.trained == ["train", "kd"]
    assert [m for m in events.moments if m.startswith("elsewhere")] == ["elsewhere train"] * 4


def test_what_the_other_finished_is_not_trained_again(tmp_path: Path) -> None:
    done = tmp_path / "done"
    run(done, Watching())
    store = tmp_path / "store"
    work = Store(store).begin("key-train")
    artifact = Store(done).artifact("key-train")

    def finish() -> None:
        names = [p.name for p in Store(done).phase_folder("key-train").iterdir() if p.name != "manifest.json"]
        work.commit({name: artifact.read(name) for name in names})

    events = Watching(finish)
    result = run(store, events)
    assert result.exit_code == 0 and result.cached == ["train"] and result.trained == ["kd"]
    assert events.moments[:2] == ["elsewhere train", "done train"]


def test_a_run_that_waits_can_be_stopped(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made: list[Interrupt] = []
    begin = Interrupt.__enter__
    monkeypatch.setattr(Interrupt, "__enter__", lambda self: made.append(self) or begin(self))  # type: ignore[func-returns-value]
    monkeypatch.setattr("kdplan.runtime.execute.POLL", 60)
    with Store(tmp_path).begin("key-train"):
        timer = threading.Timer(0.3, lambda: made[0].request("SIGTERM"))
        timer.start()
        began = time.monotonic()
        result = run(tmp_path, Watching(), needs={"kd": ["train"]})
    assert time.monotonic() - began < 20
    assert (result.exit_code, result.interrupted, result.by) == (INTERRUPTED, "train", "SIGTERM")


def test_a_failure_elsewhere_is_tried_here(tmp_path: Path) -> None:
    """The other process ends without an artifact: its phase goes on from the checkpoint that it left."""
    work = Store(tmp_path).begin("key-train")
    work.log({"step": 1, "loss": 1.0})
    result = run(tmp_path, Watching(released(work, 2)))
    assert result.trained == ["train", "kd"] and result.exit_code == 0


PLAN = """
param seed in 0..3
data digits = digits { limit = 200 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 12  batch = 20 }
student small = digits_net(width = 4)
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
phase more of small@alone on digits with quick { loss = cross_entropy(small.logits, labels) }
measure table of small@more on digits.test over seed { top1 }
"""


def test_four_runs_share_the_work(tmp_path: Path) -> None:
    """Each ends with all artifacts and the table; every phase was trained once, and more than one process trained."""
    (tmp_path / "plan.kd").write_text(PLAN)
    arguments = ["run", "plan.kd", "--store", "store"]
    runs = [Command(arguments, cwd=tmp_path, env=environment(), stdout=PIPE, stderr=STDOUT) for _ in range(4)]
    said = [process.communicate(timeout=300)[0] for process in runs]
    assert [process.returncode for process in runs] == [0] * 4, "\n".join(said)
    tables = {text[text.index("table on") :] for text in said}
    assert len(tables) == 1
    trained = [line.partition(":")[0] for text in said for line in text.splitlines() if ": starts, " in line]
    assert sorted(trained) == sorted(set(trained)) and len(trained) == 8, trained
    assert sum(": starts, " in text for text in said) > 1
    assert not list((tmp_path / "store").glob("work/*"))
    assert len(list((tmp_path / "store" / "phases").iterdir())) == 8
    records = [json.loads(p.read_text()) for p in (tmp_path / "store" / "phases").glob("*/summary.json")]
    assert all(r["steps"] == 120 for r in records)
