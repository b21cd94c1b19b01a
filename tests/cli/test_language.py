"""fmt, explain and schema: the commands that read no store."""

from __future__ import annotations

from pathlib import Path

from tests.cli.conftest import Kdplan


def test_fmt(kdplan: Kdplan, folder: Path) -> None:
    ugly = folder / "sub" / "ugly.kd"
    ugly.parent.mkdir()
    ugly.write_text("data d=digits # kept\nrecipe r{epochs=3}\n")
    assert kdplan("fmt", "--check", "a.kd").code == 0
    checked = kdplan("fmt", "--check", "sub")
    assert checked.code == 1 and "ugly.kd" in checked.out
    shown = kdplan("fmt", "--diff", "sub")
    assert "-data d=digits # kept" in shown.out and "+data d = digits  # kept" in shown.out
    assert ugly.read_text().startswith("data d=digits"), "neither changes the file"
    assert kdplan("fmt", "sub").code == 0
    assert ugly.read_text().startswith("data d = digits  # kept")
    assert kdplan("fmt", "--check", "sub").code == 0


def test_fmt_of_a_broken_plan_leaves_it(kdplan: Kdplan, folder: Path) -> None:
    (folder / "bad.kd").write_text("recipe r { epochs: 3 }")
    ran = kdplan("fmt", "bad.kd")
    assert ran.code == 2 and "KD0101" in ran.err
    assert (folder / "bad.kd").read_text() == "recipe r { epochs: 3 }"


def test_explain(kdplan: Kdplan) -> None:
    ran = kdplan("explain", "kd0205")
    assert ran.code == 0 and ran.out.startswith("KD0205: ") and "error[KD0205]" in ran.out


def test_schema(kdplan: Kdplan) -> None:
    schema = kdplan("schema").json
    assert schema["type"] == "object" or "$ref" in schema
    assert "phases" in schema["properties"]
