"""Progress of a run: lines, the live table, TensorBoard files."""

from __future__ import annotations

import builtins
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from kdplan.diagnostics.report import PlanError
from kdplan.runtime.events import Events, Several
from kdplan.runtime.measures.results import MeasureResult, Number, ResultRow
from kdplan.view.progress import Lines, LiveTable, TensorBoard, observer
from tests.view.samples import sample


class FakeTime:
    now = 0.0

    def __call__(self) -> float:
        return self.now


TABLE = MeasureResult(
    "table", ["top1"], ["digits.test"], [ResultRow("small@kd", {}, {"last": {"top1": Number.of([0.5])}})]
)


def run(events: Events, time: FakeTime, step_seconds: float = 1.0) -> None:
    events.plan_started(sample()[1])
    events.phase_started("kd", "kd-key", 100, 0)
    for step in range(1, 101):
        time.now += step_seconds
        events.progress("kd", step, step // 50, 1 / step, 64.0, {})
        if step == 50:
            events.epoch_done("kd", 1, {"top1": 0.9})
    events.checkpointed("kd", 100)
    summary: Mapping[str, Any] = {"last": {"loss": 0.1, "val": {"top1": 0.9}}, "best": {"epoch": 1, "score": 0.9}}
    events.phase_done("kd", 100.0, summary)
    events.phase_started("alone", "alone-key", None, 300)
    events.phase_failed("alone", ValueError("no good\nat all"))
    events.note("one more thing")
    events.measured("table", TABLE)
    events.finished()


def console(terminal: bool) -> Console:
    return Console(width=160, record=True, file=open("/dev/null", "w"), force_terminal=terminal)


def test_lines() -> None:
    time, out = FakeTime(), console(False)
    run(Lines(out, time), time)
    lines = out.export_text().splitlines()
    assert lines[0] == "1 cached, 1 to resume, 1 to rerun"
    assert lines[1] == "kd: starts, 100 steps"
    assert lines[2] == "kd: 10% step 10, epoch 0, loss 0.1, 64 images/s, 1:30 left"
    assert sum(line.startswith("kd: ") for line in lines) == 12
    assert "kd: 60% step 60, epoch 1, loss 0.01667, top1 0.9, 64 images/s, 40 s left" in lines
    assert "kd: done in 1:40, top1 0.9, best 0.9 (epoch 1)" in lines
    assert "alone: resumes at step 300" in lines
    assert "alone: failed at step 300: ValueError: no good" in lines
    assert any("small@kd" in line and "0.50" in line for line in lines)


@pytest.mark.parametrize(("seconds", "lines"), [(0.001, 0), (40.0, 100)])
def test_lines_come_neither_too_often_nor_too_seldom(seconds: float, lines: int) -> None:
    time, out = FakeTime(), console(False)
    run(Lines(out, time), time, seconds)
    assert sum("images/s" in line for line in out.export_text().splitlines()) == lines


def test_live_table() -> None:
    time, out = FakeTime(), console(True)
    table = LiveTable(out, time)
    table.plan_started(sample()[1])
    table.phase_started("kd", "kd-key", 100, 20)
    time.now = 10.0
    table.progress("kd", 40, 1, 0.5, 128.0, {})
    table.epoch_done("kd", 1, {"top1": 0.9})
    shown = console(False)
    shown.print(table.render())
    text = shown.export_text()
    for word in ("kd", "40 / 100", "2 steps/s", "128 images/s", "0.5", "top1 0.9", "30 s", "alone", "1 cached"):
        assert word in text, word
    table.finished()
    table.finished()  # may come twice


def test_live_table_through_a_whole_run() -> None:
    time, out = FakeTime(), console(True)
    run(LiveTable(out, time), time)
    text = out.export_text()
    assert "small@kd" in text and "one more thing" in text and "ValueError: no good" in text


def test_output_decides() -> None:
    assert isinstance(observer(console(True)), LiveTable)
    assert isinstance(observer(console(False)), Lines)


def test_several_observers_hear_the_same() -> None:
    time, first, second = FakeTime(), console(False), console(False)
    run(Several([Lines(first, time), Lines(second, time)]), time)
    assert first.export_text() == second.export_text() != ""


def test_tensorboard(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    time = FakeTime()
    run(TensorBoard(tmp_path), time)
    assert list((tmp_path / "kd").glob("events.*"))


def test_tensorboard_failing_never_ends_training(tmp_path: Path) -> None:
    pytest.importorskip("tensorboard")
    (tmp_path / "file").write_bytes(b"")
    notes: list[str] = []
    run(TensorBoard(tmp_path / "file", notes.append), FakeTime())
    assert len(notes) == 1


def test_tensorboard_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *rest: Any, **more: Any) -> Any:
        if "tensorboard" in name:
            raise ImportError(name)
        return real(name, *rest, **more)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(PlanError) as error:
        TensorBoard(tmp_path)
    assert error.value.diagnostics[0].code == "KD0914"
