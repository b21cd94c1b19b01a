"""`kdplan why` leads to the edited text."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source, Span
from kdplan.ir.dag import Planned, Reason
from kdplan.view.why import print_why
from tests.view.samples import sample


def printed(planned: dict[str, Planned], name: str) -> str:
    console = Console(width=100, record=True, file=open("/dev/null", "w"))  # noqa: SIM115
    print_why(planned, name, console)
    return console.export_text()


def test_location_and_change() -> None:
    planned = sample()[1]
    source = Source("a.kd", "one\ntwo\n\tweight = 9\n")
    planned["kd"].reasons = [
        Reason("upstream", "`big@train` is trained again", root=False),
        Reason("changed", "`weight` changed", span=Span(source, 9, 19), before="5", after="9"),
    ]
    lines = printed(planned, "kd").splitlines()
    assert lines[0] == "-/+ kd  will be trained again"
    at = lines.index("because `weight` changed")
    assert lines[at + 1].strip() == "--> a.kd:3:2"
    assert lines[at + 2].split("|")[1].strip() == "weight = 9"
    assert lines[at + 3].split("|")[1].strip() == "^" * 10
    assert lines[at + 4].strip() == "5 → 9"
    assert at < lines.index("upstream: `big@train` is trained again"), "root causes come first"


def test_location_kept_as_a_string(tmp_path: Path) -> None:
    planned, file = sample()[1], tmp_path / "a.kd"
    planned["kd"].reasons[0].at = f"{file}:2:3"
    assert f"at {file}:2:3" in printed(planned, "kd"), "the file is gone"
    file.write_text("one\n  weight = 9\n")
    assert "^^^^^^^^^^" in printed(planned, "kd")


def test_a_consequence_leads_to_its_root_cause() -> None:
    planned = sample()[1]
    planned["big@train"].action = "rerun"
    planned["big@train"].reasons = [Reason("changed", "`lr` changed", before="0.1", after="0.2")]
    planned["kd"].reasons = [Reason("upstream", "`big@train` is trained again", root=False)]
    text = printed(planned, "kd")
    assert text.index("upstream: ") < text.index("root causes:") < text.index("`lr` changed")


def test_unknown_phase() -> None:
    with pytest.raises(PlanError) as error:
        printed(sample()[1], "big.trian")
    assert error.value.diagnostics[0].code == "KD0310" and "`big@train`" in str(error.value.diagnostics[0].help)
