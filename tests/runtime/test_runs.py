"""Folders of runs: who may read them, when they go, and what they say of a phase."""

from __future__ import annotations

import os
import time
from pathlib import Path

from kdplan.runtime.relay import Reader, Relay, show
from kdplan.runtime.store import Store
from kdplan.runtime.store.runs import KEPT
from tests.runtime.test_execute import Recorder


def test_a_folder_stays_while_its_run_goes_on_and_where_it_failed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    going, failed, fine = (store.runs.begin({"plan": "a.kd"}) for _ in range(3))
    failed.end(keep=True)
    fine.end(keep=False)
    old = time.time() - KEPT - 60
    assert store.sweep() == []
    killed = store.runs.begin({})
    killed.lock.abandon()
    assert store.sweep() == [killed.folder]
    for folder in (going.folder, failed.folder):
        for path in [*folder.iterdir(), folder]:
            os.utime(path, (old, old))
    assert store.sweep() == [failed.folder]
    assert going.folder.is_dir() and not fine.folder.exists()
    going.end(keep=False)
    assert list((tmp_path / "runs").iterdir()) == []


def test_the_newest_step_of_a_phase_is_read_from_any_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    assert store.running_step("k1") is None
    first, second = (store.runs.begin({}) for _ in range(2))
    relay = Relay(first.folder / "k1.jsonl", now=iter(range(0, 100_000, 2)).__next__)
    relay.phase_started("kd", "k1", 9000, 3)
    assert store.running_step("k1") == 3
    for step in range(4, 2000):
        relay.progress("kd", step, 0, 0.5, 10.0, {})
    relay.note("x" * 200)
    assert store.running_step("k1") == 1999
    Relay(second.folder / "k1.jsonl").phase_started("kd", "k1", 9000, 1000)
    later = time.time() + 10
    os.utime(second.folder / "k1.jsonl", (later, later))
    assert store.running_step("k1") == 1000
    with (second.folder / "k1.jsonl").open("a") as file:
        file.write('{"moment": "progress", "argum')
    os.utime(second.folder / "k1.jsonl", (later, later))
    assert store.running_step("k1") == 1000


def test_a_reader_gives_each_line_once_and_waits_for_whole_ones(tmp_path: Path) -> None:
    path = tmp_path / "k1.jsonl"
    reader, relay = Reader(path), Relay(path)
    assert reader.read() == []
    relay.stopped("kd", 3)
    assert reader.read() == [("stopped", ["kd", 3])] and reader.read() == []
    whole = b'{"moment": "note", "arguments": ["caf\xc3\xa9"]}\n'
    for number in range(1, len(whole)):
        path.write_bytes(path.read_bytes()[: len(path.read_bytes()) - max(0, number - 1)] + whole[:number])
        assert reader.read() == []
    path.write_bytes(path.read_bytes() + whole[-1:])
    assert reader.read() == [("note", ["café"])]
    path.write_bytes(path.read_bytes() + b"no json\n[1]\n" + whole)
    assert reader.read() == [("note", ["café"])]


def test_numbers_that_json_does_not_have_come_back_as_numbers(tmp_path: Path) -> None:
    path = tmp_path / "k1.jsonl"
    Relay(path).epoch_done("kd", 1, {"loss": float("nan"), "top1": float("-inf"), "name": 2.0})

    class Seen(Recorder):
        def epoch_done(self, name, epoch, metrics):  # type: ignore[no-untyped-def]
            self.moments = [type(v).__name__ for v in metrics.values()]

    seen = Seen()
    for moment, arguments in Reader(path).read():
        show(seen, moment, arguments)
    assert seen.moments == ["float"] * 3


def test_a_phase_may_be_called_as_a_number_that_json_does_not_have(tmp_path: Path) -> None:
    relay, seen = Relay(tmp_path / "k1.jsonl"), Recorder()
    relay.phase_started("NaN", "k1", 10, 0)
    for moment, arguments in Reader(relay.path).read():
        show(seen, moment, arguments)
    assert seen.moments == ["start NaN 0/10"]


def test_a_disk_that_takes_no_more_costs_lines_only(tmp_path: Path) -> None:
    relay = Relay(tmp_path / "absent" / "k1.jsonl")
    relay.phase_started("kd", "k1", 10, 0)
    assert not relay.write("note", "it is not written")
