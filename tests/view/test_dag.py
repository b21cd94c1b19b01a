"""The drawing shows what is there: kinds, states, and what flows."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from kdplan.diagnostics.report import PlanError
from kdplan.view.dag import to_dot, to_mermaid, write_dag
from kdplan.view.drawing import plan_drawing
from tests.passes.plans import BIG, HEAD, compiled
from tests.view.samples import sample

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs the dot program of Graphviz")


def test_kinds_states_and_flows() -> None:
    drawn = plan_drawing(*sample())
    kinds = {name: box.kind for name, box in drawn.boxes.items()}
    assert kinds == {
        "big@train": "teacher",
        "kd": "student",
        "alone": "student",
        "data digits": "data",
        "file given.safetensors": "file",
        "measure table": "measure",
        "export tiny": "export",
    }
    assert drawn.boxes["kd"].actions == ["rerun"]
    assert "30 epochs, sgd lr 0.1, batch 64" in drawn.boxes["kd"].lines
    assert "from step 300" in drawn.boxes["alone"].lines
    assert drawn.arrows["big@train", "kd"] == ["big@train"]
    assert drawn.arrows["kd", "export tiny"] == ["small@kd[best]"]
    assert drawn.arrows["data digits", "kd"] == ["train", "test"]
    assert drawn.arrows["file given.safetensors", "alone"] == ["given"]
    assert ("big@train", "alone") not in drawn.arrows


def test_large_families_are_folded_and_can_be_unfolded() -> None:
    plan, planned = sample(13)
    folded = plan_drawing(plan, planned)
    assert folded.boxes["sweep"].members == 13 and folded.boxes["sweep"].actions == ["run"] * 13
    assert folded.arrows["big@train", "sweep"] == ["big@train"]
    assert "small@sweep[*] (13)" in to_mermaid(folded)
    assert "sweep[weight=12]" in plan_drawing(plan, planned, every=True).boxes
    assert "sweep[weight=11]" in plan_drawing(*sample(12)).boxes


def test_families_have_frames() -> None:
    source = to_dot(plan_drawing(*sample(3))).source
    assert source.count("subgraph cluster_") == 1 and "sweep[…]" in source


@needs_dot
@pytest.mark.parametrize("family", [0, 3, 13])
def test_svg_has_all_names_and_symbols(tmp_path: Path, family: int) -> None:
    write_dag(*sample(family), tmp_path / "dag.svg", title="a <b> & c.kd")
    text = " ".join("".join(e.itertext()) for e in xml.parse(tmp_path / "dag.svg").iter() if e.tag.endswith("text"))
    text = text.replace("\xa0", " ")
    for word in ("big@train", "kd", "digits", "table", "tiny", "-/+", ">>", "big@train", "a <b> & c.kd", "cached"):
        assert word in text, word


@needs_dot
def test_png(tmp_path: Path) -> None:
    write_dag(*sample(), tmp_path / "dag.png")
    assert (tmp_path / "dag.png").read_bytes().startswith(b"\x89PNG")


def test_names_with_marks_are_safe(tmp_path: Path) -> None:
    plan, planned = sample()
    plan.phases['k"<&>|#;d\\n'] = plan.phases.pop("kd")
    plan.phases['k"<&>|#;d\\n'].name = 'k"<&>|#;d\\n'
    for kind in ("dot", "mmd", *(["svg"] if shutil.which("dot") else [])):
        write_dag(plan, planned, tmp_path / f"dag.{kind}")
    assert '"' not in re.sub(r'"[^"]*"', "", (tmp_path / "dag.mmd").read_text())


def test_without_dot_program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlanError) as error:
        write_dag(*sample(), tmp_path / "dag.svg")
    (found,) = error.value.diagnostics
    assert found.code == "KD0911" and "apt install graphviz" in str(found.help)
    write_dag(*sample(), tmp_path / "dag.dot")
    write_dag(*sample(), tmp_path / "dag.mmd")
    assert (tmp_path / "dag.dot").read_text().startswith("digraph")
    assert (tmp_path / "dag.mmd").read_text().startswith("flowchart LR")


@pytest.mark.parametrize("name", ["dag", "dag.jpeg"])
def test_unknown_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError) as error:
        write_dag(*sample(), tmp_path / name)
    assert error.value.diagnostics[0].code == "KD0912"


def test_equal_phases_are_one_box_and_a_ladder_is_one_frame() -> None:
    made = compiled(
        HEAD + BIG + "stages mimic[k in 1..2] of small from big on digits with quick { count = k }\n"
        "stages again of small from big on digits with quick { stages = auto }"
    )
    drawn = plan_drawing(made.plan, made.planned)
    assert "again@s1" not in drawn.boxes and "also again@s1" in drawn.boxes["mimic[k=2]@s1"].lines
    assert {b.frame for b in drawn.boxes.values()} == {"", "mimic[k=1]", "mimic[k=2]"}
    assert to_dot(drawn).source.count("subgraph cluster_") == 1  # a frame of one box is none


def test_parts_of_data_are_told() -> None:
    plan, planned = sample()
    plan.data["digits"].fraction, plan.data["digits"].limit = 0.1, 1200
    lines = plan_drawing(plan, planned).boxes["data digits"].lines
    assert "0.1 of train" in lines and "at most 1,200 of train" in lines


def test_data_that_everybody_reads_are_told_in_a_line() -> None:
    many = "".join(
        f"phase p{i} of small on digits with quick {{ loss = kd(big.logits, small.logits)  seed = {i} }}\n"
        for i in range(9)
    )
    drawn = plan_drawing((made := compiled(HEAD + BIG + many)).plan, made.planned)
    assert [t for s, t in drawn.arrows if s == "data digits"] == ["big@train"]
    assert "on digits.train" in drawn.boxes["p3"].lines
