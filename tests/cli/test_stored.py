"""`kdplan store`: what is there, whether it is sound, and its removal."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from kdplan.runtime.store import Store
from tests.cli.conftest import PLAN, Kdplan, Ran

OTHER = PLAN.replace("temperature = 4", "temperature = 5").replace("phase kd", "phase other").replace("@kd", "@other")


@pytest.fixture
def two(folder: Path, kdplan: Kdplan) -> Path:
    """Two plans with one teacher in one store."""
    (folder / "b.kd").write_text(OTHER)
    for plan in ("a.kd", "b.kd"):
        assert kdplan("run", plan).code == 0
    return folder


def names(ran: Ran) -> set[str]:
    assert ran.code == 0, ran.err
    return {entry["name"] for entry in ran.json["entries"]}


def phase(folder: Path, name: str) -> Path:
    """The folder of a finished phase."""
    folders = (folder / ".kdplan/phases").iterdir()
    return next(p for p in folders if json.loads((p / "phase.json").read_text())["name"] == name)


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[-5] ^= 1
    path.write_bytes(content)


def test_ls_and_du(two: Path, kdplan: Kdplan) -> None:
    listed = kdplan("store", "ls", "--json").json
    entries = {e["name"]: e for e in listed["entries"]}
    a, b = str(two / "a.kd"), str(two / "b.kd")
    assert {n: sorted(e["plans"]) for n, e in entries.items()} == {"big@train": [a, b], "kd": [a], "other": [b]}
    assert all(e["state"] == "done" and e["kind"] == "phase" and 0 <= e["age"] < 600 for e in entries.values())
    files = [p for p in phase(two, "kd").iterdir()]
    assert entries["kd"]["bytes"] == sum(p.stat().st_size for p in files)
    printed = kdplan("store", "ls", "a.kd").out
    assert "big@train" in printed and "a.kd, b.kd" in printed and "other" not in printed
    assert names(kdplan("store", "ls", "kd", entries["other"]["key"][:8], "--json")) == {"kd", "other"}
    known = kdplan("store", "du", "--json").json
    shared, alone = entries["big@train"]["bytes"], entries["kd"]["bytes"]
    (of_a,) = [p for p in known["plans"] if p["plan"] == a]
    assert of_a == {"plan": a, "bytes": shared + alone, "alone": alone, "there": True}
    everything = sum(p.stat().st_size for p in (two / ".kdplan").rglob("*") if p.is_file())
    assert known["bytes"] == sum(known["kinds"].values()) == everything and known["read_by_no_plan"] == 0
    (two / "a.kd").unlink()
    assert "a.kd (the file is gone)" in kdplan("store", "du").out


def test_verify_says_what_is_damaged_and_what_a_run_does(two: Path, kdplan: Kdplan) -> None:
    ran = kdplan("store", "verify")
    assert ran.code == 0 and "all as written" in ran.out
    flip(phase(two, "kd") / "weights-0-last.safetensors")
    measure = sorted((two / ".kdplan/measures").iterdir())[0]
    measure.write_text(measure.read_text().replace("value", "volue"))
    ran = kdplan("store", "verify")
    assert ran.code == 4
    assert "damaged phase kd" in ran.out and "trains it again where something needs" in ran.out
    assert "Read by a.kd." in ran.out and "2 damaged" in ran.out and "computed again" in ran.out
    known = kdplan("store", "verify", "--json")
    assert known.code == 4 and [d["kind"] for d in known.json["damaged"]] == ["phases", "measures"]
    assert kdplan("run", "a.kd").code == 0
    assert kdplan("run", "b.kd").code == 0
    assert [d["name"] for d in kdplan("store", "verify", "--json").json["damaged"]] in ([], ["kd"])
    kdplan("store", "rm", "kd", "--yes")
    assert kdplan("store", "verify").code == 0


def test_gc_lists_and_removes_what_no_plan_reads(two: Path, kdplan: Kdplan) -> None:
    assert kdplan("store", "gc", "--json").json["entries"] == []
    (two / "a.kd").write_text(PLAN.replace("temperature = 4", "temperature = 3"))
    assert kdplan("run", "a.kd").code == 0
    old = next(e for e in kdplan("store", "ls", "--json").json["entries"] if e["name"] == "kd" and not e["plans"])
    ran = kdplan("store", "gc")
    assert ran.code == 0 and old["key"][:12] in ran.out and "Nothing was removed" in ran.out
    assert names(kdplan("store", "gc", "--json")) == {"kd"}
    assert names(kdplan("store", "gc", "--keep", old["key"][:8], "--json")) == set()
    (two / "old.kd").write_text(PLAN)
    assert names(kdplan("store", "gc", "--keep", "old.kd", "--json")) == set()
    assert names(kdplan("store", "gc", "--keep", "kd", "--json")) == set()
    ran = kdplan("store", "gc", "--yes", "--json")
    assert ran.json["removed"] and [e["key"] for e in ran.json["entries"]] == [old["key"]]
    assert ran.json["bytes"] == old["bytes"]
    assert not Store(two / ".kdplan").has(old["key"])
    for plan in ("a.kd", "b.kd"):
        assert all(p["action"] == "cached" for p in kdplan("plan", plan, "--no-cost", "--json").phases.values())


def test_gc_keeps_what_each_setting_reads(two: Path, kdplan: Kdplan) -> None:
    assert kdplan("run", "a.kd", "--set", "weight=0.5").code == 0
    assert kdplan("store", "gc", "--json").json["entries"] == []
    assert kdplan("run", "a.kd", "--set", "weight = 0.5").code == 0  # the same setting
    assert len(Store(two / ".kdplan").plans.of(two / "a.kd").runs) == 2


def test_rm_of_a_plan_keeps_what_others_read(two: Path, kdplan: Kdplan) -> None:
    ran = kdplan("store", "rm", "a.kd", "--yes")
    assert ran.code == 0 and "kept big@train: read by b.kd" in ran.out
    assert names(kdplan("store", "ls", "--json")) == {"big@train", "other"}
    assert not Store(two / ".kdplan").plans.of(two / "a.kd").runs
    assert len(list((two / ".kdplan/measures").iterdir())) == 2  # the teacher's and the other student's
    assert names(kdplan("store", "rm", "b.kd", "--yes", "--json")) == {"big@train", "other"}
    assert kdplan("store", "ls", "--json").json["entries"] == []
    assert list((two / ".kdplan/phases").iterdir()) == []


def test_rm_refuses_what_others_read(two: Path, kdplan: Kdplan) -> None:
    ran = kdplan("store", "rm", "big@train", "--yes")
    assert ran.code == 2 and "KD0921" in ran.err and "a.kd" in ran.err and "b.kd" in ran.err
    store = Store(two / ".kdplan")
    with store.reading({"kd": phase(two, "kd").name}):
        ran = kdplan("store", "rm", "kd", "--yes")
        assert ran.code == 3 and "KD0920" in ran.err and "process" in ran.err
        assert names(kdplan("store", "ls", "--json")) == {"big@train", "kd", "other"}
        assert kdplan("store", "rm", "kd", "--yes", "--force").code == 0
    assert kdplan("store", "rm", "big@train", "--yes", "--force").code == 0
    assert names(kdplan("store", "ls", "--json")) == {"other"}


def test_rm_removes_nothing_without_a_yes(
    two: Path, kdplan: Kdplan, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    ran = kdplan("store", "rm", "kd")
    assert ran.code == 2 and "KD0922" in ran.err
    for stream in ("stdin", "stdout"):
        monkeypatch.setattr(f"sys.{stream}.isatty", lambda: True)
    for answer in ("", "n", "no"):
        monkeypatch.setattr("builtins.input", lambda prompt, answer=answer: answer)
        assert kdplan("store", "rm", "kd").code == 2
    assert names(kdplan("store", "ls", "--json")) == {"big@train", "kd", "other"}
    monkeypatch.setattr("builtins.input", lambda prompt: "y")
    assert kdplan("store", "rm", "kd").code == 0
    assert names(kdplan("store", "ls", "--json")) == {"big@train", "other"}


def test_rm_never_removes_what_is_being_trained(two: Path, kdplan: Kdplan) -> None:
    code = """
import sys, time
from kdplan.runtime.store import Store
with Store(".kdplan").begin(sys.argv[1]) as work:
    work.save_checkpoint(1, {}, {})
    print("trains", flush=True)
    time.sleep(60)
"""
    key = phase(two, "kd").name
    process = subprocess.Popen([sys.executable, "-c", code, key], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "trains\n"
    try:
        assert kdplan("store", "rm", "kd", "--yes").code == 3
        ran = kdplan("store", "rm", "kd", "--yes", "--force")
        assert ran.code == 3 and "KD0923" in ran.err
        store = Store(".kdplan")
        assert store.has(key) and store.holder(key) is not None and store.resume_step(key) == 1
    finally:
        process.kill()
        process.wait()
    assert kdplan("store", "rm", "kd", "--yes").code == 0
    assert not store.has(key) and not store.work_folder(key).exists()


@pytest.mark.parametrize("command", [["ls"], ["rm", "--yes"], ["gc", "--keep"]])
def test_words_that_mean_nothing(two: Path, kdplan: Kdplan, command: list[str]) -> None:
    ran = kdplan("store", *command, "othr")
    assert ran.code == 2 and "KD0919" in ran.err and "other" in ran.err


@pytest.mark.parametrize("command", ["ls", "du", "verify", "gc"])
def test_a_store_that_is_not_there(folder: Path, kdplan: Kdplan, command: str) -> None:
    assert kdplan("store", command).code == 0
    assert json.loads(kdplan("store", command, "--json").out)["store"] == ".kdplan"
    assert not (folder / ".kdplan").exists()
