"""The store keeps what it was given, and refuses what it was not."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path

import numpy
import pytest
from safetensors.numpy import load, save

from kdplan.diagnostics.report import table
from kdplan.ir.dag import Component, PhaseKey
from kdplan.runtime.store import (
    Artifact,
    Store,
    StoreCorrupt,
    StoreError,
    StoreMissing,
    Work,
    phase_json,
)
from kdplan.runtime.store.inventory import entries, state_of
from kdplan.runtime.store.sealed import write_sealed
from kdplan.runtime.store.speeds import NEWEST
from kdplan.runtime.store.work import read_metrics

WEIGHTS = save({"w": numpy.arange(1000, dtype=numpy.float32)})


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "deep" / "store")


def finish(store: Store, key: str = "k1") -> Artifact:
    with store.begin(key) as work:
        work.log({"step": 1, "loss": 0.5})
        return work.commit({Artifact.weights_name(): WEIGHTS, "summary.json": {"best": {"top1": 0.5}}})


def code(error: pytest.ExceptionInfo[StoreError]) -> str:
    return error.value.diagnostics[0].code


def test_artifact_round_trip(store: Store) -> None:
    assert store.state("k1") == "missing" and not store.has("k1")
    finish(store)
    stored = store.verify("k1")
    assert store.state("k1") == "done"
    assert numpy.array_equal(load(stored.weights())["w"], numpy.arange(1000, dtype=numpy.float32))
    assert stored.summary == {"best": {"top1": 0.5}}
    assert stored.metrics() == [{"step": 1, "loss": 0.5}]
    assert stored.snapshots() == ["last"] and stored.snapshots(1) == []
    assert not store.work_folder("k1").exists(), "nothing of the running phase is left"


def test_writers_are_made_readable_for_others(store: Store) -> None:
    def private(path: Path) -> None:
        path.write_bytes(WEIGHTS)
        path.chmod(0o600)

    old = os.umask(0o077)
    try:
        with store.begin("k1") as work:
            artifact = work.commit({"weights-0-last.safetensors": private, "summary.json": {}})
    finally:
        os.umask(old)
    for name in [*artifact.files, "manifest.json"]:
        assert stat.S_IMODE((artifact.path / name).stat().st_mode) == 0o644, name


def test_phase_content_is_kept(store: Store) -> None:
    key = PhaseKey("k1", [Component("recipe/0/epochs", "30", at="a.kd:3:5")], {"big.train": "k0"})
    with store.begin("k1") as work:
        artifact = work.commit({"phase.json": phase_json("kd", "a.kd", key)})
    assert artifact.phase_key() == key


def test_altered_weights_are_refused(store: Store) -> None:
    artifact = finish(store)
    path = artifact.path / Artifact.weights_name()
    content = bytearray(path.read_bytes())
    content[500] ^= 1
    path.write_bytes(content)
    opened = store.artifact("k1")  # sizes are as they should be
    for use in (opened.weights, lambda: opened.file(path.name), lambda: store.verify("k1")):
        with pytest.raises(StoreCorrupt) as error:
            use()
        assert code(error) == "KD0902" and error.value.exit_code == 4
        assert str(path) in str(error.value) and error.value.folder == artifact.path


@pytest.mark.parametrize("size", [None, 0, 100])
def test_truncated_and_missing_files_are_refused(store: Store, size: int | None) -> None:
    path = finish(store).path / Artifact.weights_name()
    if size is None:
        path.unlink()
    else:
        os.truncate(path, size)
    with pytest.raises(StoreCorrupt) as error:
        store.artifact("k1")
    assert code(error) == "KD0903" and str(path) in str(error.value)
    assert store.problem("k1") is not None


@pytest.mark.parametrize(
    "content", [None, b"", b"{", b"[]", b"{}", b'{"format": 99, "files": {}}', b"\xff\xfe", b'{"format":1,"files":[1]}']
)
def test_damaged_manifest_is_refused(store: Store, content: bytes | None) -> None:
    path = finish(store).path / "manifest.json"
    path.unlink()
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(StoreCorrupt) as error:
        store.artifact("k1")
    assert code(error) == "KD0904"


def test_corrupt_phase_can_be_trained_again(store: Store) -> None:
    path = finish(store).path / Artifact.weights_name()
    path.write_bytes(b"")
    finish(store)
    store.verify("k1")
    assert [p.name for p in (store.root / "phases").iterdir()] == ["k1"]


def test_unknown_key(store: Store) -> None:
    with pytest.raises(StoreMissing) as error:
        store.artifact("k1")
    assert code(error) == "KD0910"


def test_missing_snapshot_lists_what_is_there(store: Store) -> None:
    artifact = finish(store)
    with pytest.raises(StoreMissing) as error:
        artifact.weights(0, "epoch=100")
    assert code(error) == "KD0909" and "weights-0-last" in str(error.value.diagnostics[0].help)


def checkpoint(work: Work, step: int) -> None:
    work.save_checkpoint(step, {"model.safetensors": WEIGHTS}, {"step": step, "nan": float("nan")})


def test_two_checkpoints_are_kept(store: Store) -> None:
    with store.begin("k1") as work:
        assert work.latest_checkpoint() is None
        for step in (5, 10, 100):
            checkpoint(work, step)
        assert sorted(p.name for p in work.checkpoints.iterdir()) == ["step-10", "step-100"]
        checkpoint(work, 100)  # an interrupt may save the same step again
    assert store.state("k1") == "interrupted" and store.resume_step("k1") == 100
    with store.begin("k1") as work:
        newest = work.latest_checkpoint()
        assert newest is not None and newest.step == 100
        assert newest.state == {"step": 100, "nan": "NaN"}
        assert newest.read("model.safetensors") == WEIGHTS


@pytest.mark.parametrize("damage", ["cut", "flip", "no manifest", "empty"])
def test_damaged_checkpoint_falls_back_and_says_so(store: Store, damage: str) -> None:
    with store.begin("k1") as work:
        checkpoint(work, 5)
        checkpoint(work, 10)
        folder = work.checkpoints / "step-10"
    file = folder / "model.safetensors"
    if damage == "cut":
        os.truncate(file, 10)
    elif damage == "flip":
        file.write_bytes(WEIGHTS[:-1] + b"\0")
        assert WEIGHTS[-1] != 0
    elif damage == "no manifest":
        (folder / "manifest.json").unlink()
    else:
        for f in folder.iterdir():
            f.unlink()
    with store.begin("k1") as work:
        newest = work.latest_checkpoint()
        assert newest is not None and newest.step == 5
        (notice,) = work.notices
        assert notice.code == "KD0908" and notice.severity == "warning" and "step-10" in notice.message
        assert not folder.exists()
        assert work.latest_checkpoint() is not None and len(work.notices) == 1


def test_metrics_go_back_with_the_checkpoint(store: Store) -> None:
    with store.begin("k1") as work:
        for step in range(5):
            work.log({"step": step, "loss": 1.0 if step else float("inf")})
            if step == 2:
                work.save_checkpoint(step, {}, {})
    with work.metrics_file.open("ab") as file:
        file.write(b'{"step": 5, "lo')
    text = work.metrics_file.read_text()
    work.metrics_file.write_text(text.replace('"loss": 1.0', '"loss": 9.0', 1))
    assert [r["step"] for r in read_metrics(work.metrics_file)] == [0]
    with store.begin("k1") as work:
        work.rewind(work.latest_checkpoint())
        work.log({"step": 3})
        assert [(r["step"], r.get("loss")) for r in work.metrics()] == [(0, "Infinity"), (1, 1.0), (2, 1.0), (3, None)]
        work.rewind(None)
        assert work.metrics() == []


def test_last_keys_of_a_plan(store: Store, tmp_path: Path) -> None:
    plan = tmp_path / "a.kd"
    assert store.last_keys(plan) == {}
    store.remember(plan, {"a": "1", "b": "2"})
    store.remember(plan, {"b": "3"})
    assert store.last_keys(plan) == {"a": "1", "b": "3"}
    assert store.last_keys(tmp_path / "other.kd") == {}


def test_numbers_are_kept_and_damage_is_forgotten(store: Store) -> None:
    store.keep_number("measures", "m", {"top1": 0.5})
    store.keep_number("costs", "m", {"flops": 7})
    store.keep_speed("cpu", "k1", 1e9)
    assert store.number("measures", "m") == {"top1": 0.5} and store.number("costs", "m") == {"flops": 7}
    assert store.speeds.all() == {"cpu": 1e9}
    (store.root / "measures" / "m.json").write_bytes(b"{")
    assert store.number("measures", "m") is None and store.number("costs", "other") is None


def test_entries_and_drop(store: Store) -> None:
    finish(store, "done")
    with store.begin("half") as work:
        checkpoint(work, 5)
    kinds = {e.key: e for e in entries(store)}
    assert state_of(store, kinds["done"].kind, "done") == "done"
    assert state_of(store, kinds["half"].kind, "half") == "interrupted"
    assert kinds["done"].bytes > len(WEIGHTS)
    store.drop("done")
    store.drop("half")
    assert entries(store) == [] and store.state("half") == "missing"


def test_leftovers_of_killed_writers_are_swept(store: Store) -> None:
    finish(store)
    with store.begin("k1") as work:  # as if killed between the commit and the end of its clearing up
        checkpoint(work, 5)
        (work.folder / ".new-99-k1").mkdir()
    old = store.root / "measures" / ".new-1-0-m.json"
    old.parent.mkdir()
    old.write_bytes(b"{")
    os.utime(old, (0, 0))
    assert set(store.sweep()) == {work.folder, old}
    assert not work.folder.exists() and not old.exists()
    store.verify("k1")


def test_nothing_is_written_by_looking(store: Store) -> None:
    store.has("k1"), store.state("k1"), entries(store), store.last_keys("a.kd"), store.speeds.all(), store.sweep()
    assert not store.root.exists()


def test_json_only(store: Store) -> None:
    artifact = finish(store)
    for name in artifact.files:
        if name.endswith(".json"):
            json.loads((artifact.path / name).read_text())


def test_every_row_of_the_table_names_its_test() -> None:
    root = Path(__file__).parents[2]
    for row, content in table().items():
        if row.startswith("KD09") and "bad" not in content:  # plans that contain the mistake are tests themselves
            file, _, name = content["test"].partition("::")
            assert f"def {name}(" in (root / file).read_text(), row


def test_the_speed_of_a_device_is_the_median_of_its_newest_phases(store: Store) -> None:
    assert store.speeds.all() == {}
    store.root.mkdir(parents=True)
    write_sealed(store.root / "speeds.json", {"cpu": 7.0, "GPU / old": 5.0})  # of an earlier version
    assert store.speeds.all() == {"cpu": 7.0, "GPU / old": 5.0}
    for number in range(2 * NEWEST):
        store.keep_speed("cpu", f"k{number:02}", float(number))
        os.utime(store.root / "speeds" / "cpu" / f"k{number:02}.json", (number, number))
    assert store.speeds.all() == {"cpu": NEWEST + NEWEST // 2, "GPU / old": 5.0}
    store.keep_speed("GPU / old", "k1", 6.0)
    (store.root / "speeds" / "cpu" / f"k{2 * NEWEST - 1}.json").write_bytes(b"{")  # damage is left out
    assert store.speeds.all() == {"cpu": NEWEST + NEWEST // 2 - 1, "GPU / old": 6.0}
