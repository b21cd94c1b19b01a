"""The driver of a run with workers: which phase is next, and what becomes of one that ended in some way."""

from __future__ import annotations

import os
import signal
import tempfile
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from kdplan.diagnostics.report import PlanError, error
from kdplan.ir.dag import Action, Cost, Planned
from kdplan.runtime.drive import Driver
from kdplan.runtime.engines.engine import Cause, Lost
from kdplan.runtime.execute import RunResult
from kdplan.runtime.relay import ENDED, Relay, problem_to_json
from kdplan.runtime.store import Store
from kdplan.runtime.worker import Task
from tests.runtime.test_many_runs import Watching as Recorder


def steps(**needs: list[str]) -> dict[str, Planned]:
    return {name: step(name, needs=reads) for name, reads in needs.items()}


def step(name: str, action: Action = "run", needs: list[str] | None = None, flops: int = 0) -> Planned:
    cost = Cost(0, 0, flops, 1, 0, 0, 0) if flops else None
    return Planned(name, f"key-{name}", action, [], needs or [], cost=cost)


@dataclass
class Scripted:
    """An engine whose phases end at once, as their script says: a list of endings a phase, "done" after its end."""

    folder: Path
    store: Store
    look: float = 0.001
    requeues: bool = False
    endings: dict[str, list[Any]] = field(default_factory=dict)
    width: int = 1
    order: list[str] = field(default_factory=list)
    most: int = 0
    stopped: int = 0
    alone: list[str] = field(default_factory=list)
    busy: dict[str, Task] = field(default_factory=dict)
    gone: list[Lost] = field(default_factory=list)
    closed: bool = False
    holding: bool = False
    """Whether phases go on until `stop`."""

    def room(self, step: Planned, alone: bool = False) -> str | None:
        if alone:
            self.alone.append(step.name)
        return "cpu" if len(self.busy) < self.width else None

    def submit(self, task: Task, step: Planned) -> None:
        self.order.append(task.name)
        self.busy[task.name] = task
        self.most = max(self.most, len(self.busy))

    def _end(self, task: Task, how: Any) -> None:
        relay = Relay(self.folder / f"{task.key}.jsonl")
        if how == "done":
            with self.store.begin(task.key) as work:
                work.commit({"summary.json": {"seconds": 0.0}})
            relay.write("phase_done", task.name, 0.0, {})
            relay.write(ENDED, 0, [], None)
        elif isinstance(how, Lost):
            self.gone.append(how)
            del self.busy[task.name]
        else:
            code, problem, damaged = how
            relay.write(ENDED, code, problem_to_json(problem) if problem else [], damaged)

    def lost(self) -> list[Lost]:
        # What was given before has ended by now.
        for task in [] if self.holding else list(self.busy.values()):
            script = self.endings.get(task.name, [])
            self._end(task, script.pop(0) if script else "done")
        gone, self.gone = self.gone, []
        return gone

    def ended(self, task: Task) -> None:
        del self.busy[task.name]

    def stop(self) -> None:
        self.stopped += 1
        self.holding = False
        for name in self.busy:
            self.endings[name] = [(75, None, None)]

    def close(self) -> None:
        self.closed = True


@dataclass
class Ran:
    result: RunResult
    engine: Scripted
    events: Recorder


Drive = Callable[..., Ran]


@pytest.fixture
def drive(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Drive:
    monkeypatch.setattr("kdplan.runtime.drive.POLL", 0.01)

    def run(planned: dict[str, Planned], keep_going: bool = False, wait: bool = True, **script: Any) -> Ran:
        folder, store = Path(tempfile.mkdtemp(dir=tmp_path)), Store(tmp_path / "store")
        engine, events = Scripted(folder, store, **script), Recorder()
        result = Driver(planned, store, engine, folder, events, keep_going, "x.kd", wait).run()
        assert engine.closed and not engine.busy
        return Ran(result, engine, events)

    return run


def crash(name: str, cause: Cause = "crash") -> Lost:
    return Lost(Task(name, f"key-{name}", "cpu"), cause, "its worker was ended by SIGKILL")


def refused() -> PlanError:
    return error("KD0820", None, phase="a", value="NaN", step=1, epoch=1, first="")


def test_a_phase_comes_after_those_that_it_needs_and_as_many_at_a_time_as_there_is_room(drive: Drive) -> None:
    planned = steps(a=[], b=["a"], c=["a"], d=["b", "c"], e=[])
    ran = drive(planned, width=2)
    order = ran.engine.order
    assert sorted(order) == sorted(planned) and ran.engine.most == 2
    assert all(order.index(need) < order.index(name) for name, s in planned.items() for need in s.needs)
    assert ran.result.exit_code == 0 and sorted(ran.result.trained) == sorted(planned)
    assert ran.engine.store.last_keys("x.kd") == {name: f"key-{name}" for name in planned}


def test_the_phase_comes_first_for_which_most_waits(drive: Drive) -> None:
    planned = {
        s.name: s for s in [step("short", flops=1), step("long", flops=9), step("last", needs=["long"], flops=5)]
    }
    assert drive(planned).engine.order == ["long", "last", "short"]


def test_cached_blocked_and_equal_phases_are_not_handed_out(drive: Drive) -> None:
    planned = steps(a=[], b=["a"], c=["b"], d=[])
    planned["a"].action, planned["c"].action = "cached", "blocked"
    planned["d"].same_as = "b"
    ran = drive(planned)
    assert ran.engine.order == ["b"]
    assert (ran.result.cached, ran.result.skipped) == (["a", "d"], ["c"])


def test_a_failure_ends_the_run_and_with_keep_going_only_what_needs_it(drive: Drive) -> None:
    planned = steps(a=[], b=["a"], c=[])
    problem = refused()
    ran = drive(planned, endings={"a": [(1, problem, None)]})
    assert (ran.result.exit_code, ran.engine.order, ran.result.skipped) == (1, ["a"], ["b", "c"])
    assert str(ran.result.failed["a"]) == str(problem)
    ran = drive(planned, keep_going=True, endings={"a": [(1, problem, None)]})
    assert (ran.result.exit_code, ran.engine.order, ran.result.skipped) == (1, ["a", "c"], ["b"])


def test_a_crashed_phase_is_begun_again(drive: Drive) -> None:
    ran = drive(steps(a=[], b=["a"]), endings={"a": [crash("a")] * 3})
    assert ran.engine.order == ["a", "a", "a", "a", "b"] and ran.result.exit_code == 0


def test_a_phase_that_crashes_again_and_again_fails(drive: Drive) -> None:
    ran = drive(steps(a=[], b=["a"]), endings={"a": [crash("a")] * 9})
    assert ran.engine.order == ["a"] * 4 and ran.result.exit_code == 1
    assert [d.code for d in ran.result.failed["a"].diagnostics] == ["KD0974"]


def test_a_phase_that_is_preempted_has_more_patience(drive: Drive) -> None:
    ran = drive(steps(a=[]), endings={"a": [crash("a", "preempted")] * 8})
    assert len(ran.engine.order) == 9 and ran.result.exit_code == 0


def test_a_phase_without_memory_is_begun_once_more_alone(drive: Drive) -> None:
    def full() -> PlanError:
        return error("KD0813", None, phase="a", device="cuda:0", size="", predicted="")

    ran = drive(steps(a=[]), endings={"a": [(1, full(), None)]})
    assert (ran.engine.order, ran.engine.alone, ran.result.exit_code) == (["a", "a"], ["a"], 0)
    ran = drive(steps(a=[]), endings={"a": [(1, full(), None)] * 2})
    assert (ran.engine.order, ran.result.exit_code) == (["a", "a"], 1)


def test_a_phase_that_another_process_trains_comes_later(drive: Drive, tmp_path: Path) -> None:
    other = Store(tmp_path / "store").begin("key-a")
    threading.Timer(0.3, other.close).start()
    locked = error("KD0901", None, what="phase a", who="process 1")
    ran = drive(steps(a=[], b=[], c=["a"]), endings={"a": [(3, locked, None)]})
    assert ran.engine.order == ["a", "b", "a", "c"] and ran.result.exit_code == 0
    assert "elsewhere a" in ran.events.moments


def test_without_waiting_it_fails(drive: Drive) -> None:
    locked = error("KD0901", None, what="phase a", who="process 1")
    ran = drive(steps(a=[]), wait=False, endings={"a": [(3, locked, None)]})
    assert (ran.engine.order, ran.result.exit_code) == (["a"], 3)


def test_what_is_damaged_is_trained_again_once(drive: Drive, tmp_path: Path) -> None:
    planned = steps(a=[], b=["a"])
    planned["a"].action = "cached"
    damaged = str(Store(tmp_path / "store").phase_folder("key-a"))
    corrupt = error("KD0903", None, what="phase a", path="x", state="missing")
    ran = drive(planned, endings={"b": [(4, corrupt, damaged)]})
    assert ran.engine.order == ["b", "a", "b"] and ran.result.exit_code == 0
    ran = drive(planned, endings={"b": [(4, corrupt, damaged)] * 2})
    assert ran.engine.order == ["b", "a", "b"] and ran.result.exit_code == 4


def test_two_readers_of_what_is_damaged(drive: Drive, tmp_path: Path) -> None:
    """The second one may find the damage before it is repaired; phases that equal the damaged one wait, too."""
    planned = steps(a=[], same=[], b=["a"], c=["same"], d=["b", "c"])
    planned["a"].action = planned["same"].action = "cached"
    planned["same"].same_as = "a"
    damaged = str(Store(tmp_path / "store").phase_folder("key-a"))
    corrupt = error("KD0903", None, what="phase a", path="x", state="missing")
    endings = {name: [(4, corrupt, damaged)] for name in ("b", "c")}
    ran = drive(planned, endings=endings, width=2)
    assert ran.result.exit_code == 0 and ran.engine.order == ["b", "c", "a", "b", "c", "d"]
    assert ran.result.cached == ["same"] and not ran.result.failed


def test_a_signal_stops_all_workers_at_a_checkpoint(drive: Drive) -> None:
    threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGINT]).start()
    ran = drive(steps(a=[], b=[], c=["a"]), width=2, holding=True)
    assert ran.engine.stopped == 1 and ran.engine.order == ["a", "b"]
    assert (ran.result.exit_code, ran.result.by, ran.result.interrupted) == (75, "SIGINT", "a")


def test_a_worker_that_was_stopped_by_others_is_no_end_of_the_run(drive: Drive) -> None:
    ran = drive(steps(a=[]), endings={"a": [(75, None, None)]})
    assert ran.engine.order == ["a", "a"] and (ran.result.exit_code, ran.result.interrupted) == (0, None)
