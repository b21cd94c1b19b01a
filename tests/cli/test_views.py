"""plan, graph, status and why: before anything has run."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.cli.conftest import Kdplan

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="drawings need the dot program of Graphviz")


def test_plan_json(kdplan: Kdplan) -> None:
    ran = kdplan("plan", "a.kd", "--json")
    assert ran.code == 0
    phases = ran.phases
    assert list(phases) == ["big@train", "kd"]
    assert {"name", "action", "reasons", "key", "needs", "cost"} <= set(phases["kd"])
    assert phases["kd"]["action"] == "run" and phases["kd"]["needs"] == ["big@train"]
    assert phases["kd"]["cost"]["parameters"] > 0 and phases["kd"]["cost"]["flops_step"] > 0


def test_plan_without_costs(kdplan: Kdplan) -> None:
    assert all(p["cost"] is None for p in kdplan("plan", "a.kd", "--json", "--no-cost").json["phases"])


def test_plan_text(kdplan: Kdplan) -> None:
    text = kdplan("plan", "a.kd", "--no-cost").out
    assert "big@train" in text and "2 to run" in text


def test_plan_only(kdplan: Kdplan) -> None:
    phases = {
        p["name"]: p["action"] for p in kdplan("plan", "a.kd", "--no-cost", "--json", "--only", "train").json["phases"]
    }
    assert phases == {"big@train": "run", "kd": "blocked"}


def test_detailed_exit_code(kdplan: Kdplan) -> None:
    assert kdplan("plan", "a.kd", "--no-cost", "--detailed-exitcode").code == 10


def test_looking_writes_no_store(kdplan: Kdplan, folder: Path) -> None:
    for command in (["plan", "a.kd", "--no-cost"], ["status", "a.kd"], ["why", "a.kd", "kd"], ["check", "a.kd"]):
        assert kdplan(*command).code == 0
    assert not (folder / ".kdplan").exists()


def test_status(kdplan: Kdplan) -> None:
    assert "kd" in kdplan("status", "a.kd").out
    assert kdplan("status", "a.kd", "--json").json


def test_why(kdplan: Kdplan) -> None:
    assert "not trained before" in kdplan("why", "a.kd", "kd").out
    phase = kdplan("why", "a.kd", "kd", "--json").json
    assert phase["name"] == "kd" and phase["action"] == "run" and phase["reasons"]


@pytest.mark.parametrize("ending", ["dot", "mmd"])
def test_graph_as_text(kdplan: Kdplan, folder: Path, ending: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")  # these need no dot
    assert kdplan("graph", "a.kd", "-o", f"dag.{ending}").code == 0
    text = (folder / f"dag.{ending}").read_text()
    assert "kd" in text and "big" in text and "tiny" in text


def test_graph_of_a_phase(kdplan: Kdplan, folder: Path) -> None:
    assert kdplan("graph", "a.kd", "-o", "kd.dot", "--phase", "kd").code == 0
    assert "layer1" in (folder / "kd.dot").read_text()


@needs_dot
@pytest.mark.parametrize("ending", ["svg", "png"])
def test_graph_as_drawing(kdplan: Kdplan, folder: Path, ending: str) -> None:
    ran = kdplan("graph", "a.kd", "-o", f"dag.{ending}")
    assert ran.code == 0 and ran.out == f"wrote dag.{ending}\n"
    begins = (folder / f"dag.{ending}").read_bytes()[:5]
    assert begins in (b"<?xml", b"\x89PNG\r")


def test_graph_without_dot(kdplan: Kdplan, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    ran = kdplan("graph", "a.kd", "-o", "dag.svg")
    assert ran.code == 2 and "KD0911" in ran.err and "apt" in ran.err
    assert not (folder / "dag.svg").exists()


def test_graph_of_unknown_form(kdplan: Kdplan) -> None:
    ran = kdplan("graph", "a.kd", "-o", "dag.gif")
    assert ran.code == 2 and "KD0912" in ran.err
