"""Drawings of plans as Graphviz and Mermaid text, svg and png."""

from __future__ import annotations

import re
import shutil
import xml.etree.ElementTree as xml
from pathlib import Path

import pytest

from kdplan.diagnostics.report import PlanError
from kdplan.view.dag import to_dot, write_dag
from kdplan.view.drawing import plan_drawing
from tests.view.samples import sample

needs_dot = pytest.mark.skipif(shutil.which("dot") is None, reason="needs the dot program of Graphviz")


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
    (diagnostic,) = error.value.diagnostics
    assert diagnostic.code == "KD0911" and "apt install graphviz" in str(diagnostic.help)
    write_dag(*sample(), tmp_path / "dag.dot")
    write_dag(*sample(), tmp_path / "dag.mmd")
    assert (tmp_path / "dag.dot").read_text().startswith("digraph")
    assert (tmp_path / "dag.mmd").read_text().startswith("flowchart LR")


@pytest.mark.parametrize("name", ["dag", "dag.jpeg"])
def test_unknown_format(tmp_path: Path, name: str) -> None:
    with pytest.raises(PlanError) as error:
        write_dag(*sample(), tmp_path / name)
    assert error.value.diagnostics[0].code == "KD0912"
