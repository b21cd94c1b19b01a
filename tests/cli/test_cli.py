"""check and expand, and the errors of the command line: output, JSON forms, exit codes."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import Kdplan

FIELDS = {"code", "message", "file", "line", "column", "end_line", "end_column", "help"}


def edit(folder: Path, old: str, new: str) -> None:
    text = (folder / "a.kd").read_text()
    assert old in text
    (folder / "a.kd").write_text(text.replace(old, new))


# ---- check


def test_check_fine(kdplan: Kdplan) -> None:
    ran = kdplan("check", "a.kd")
    assert (ran.code, ran.err) == (0, "")
    assert ran.out == "a.kd: fine (2 phases, 2 networks, 1 measure, 1 export)\n"


def test_check_reports_all_errors(kdplan: Kdplan, folder: Path) -> None:
    edit(folder, "big.logits", "bigg.logits")
    edit(folder, "batch     = 50", "batsh = 50")
    ran = kdplan("check", "a.kd")
    assert ran.code == 2 and ran.out == ""
    assert "a.kd:9:3" in ran.err and "a.kd:19:74" in ran.err and "2 errors" in ran.err


def test_check_json(kdplan: Kdplan, folder: Path) -> None:
    assert kdplan("check", "a.kd", "--format", "json").json == []
    edit(folder, "big.logits", "bigg.logits")
    ran = kdplan("check", "a.kd", "--format", "json")
    (diagnostic,) = ran.json
    assert ran.code == 2 and ran.err == ""
    assert set(diagnostic) >= FIELDS
    assert (diagnostic["code"], diagnostic["file"], diagnostic["line"], diagnostic["column"]) == (
        "KD0205",
        "a.kd",
        19,
        74,
    )
    assert (diagnostic["end_line"], diagnostic["end_column"]) == (19, 78)
    assert "big" in diagnostic["help"]


def test_check_json_has_warnings(kdplan: Kdplan, folder: Path) -> None:
    edit(folder, "kd(small.logits, big.logits, temperature = 4)", "kl(small.logits, big.logits, temperature = 4)")
    ran = kdplan("check", "a.kd", "--format", "json")
    assert ran.code == 0
    assert [d["code"] for d in ran.json] == ["KD0360"]


def test_check_with_data_that_is_not_there(kdplan: Kdplan, folder: Path) -> None:
    edit(folder, "digits { limit = 100 }", "cifar10")
    ran = kdplan("check", "a.kd", "--data", str(folder / "nowhere"))
    assert ran.code == 2 and "KD0712" in ran.err


# ---- what the table 00_commands.toml names


def test_unreadable_plan(kdplan: Kdplan, folder: Path) -> None:
    (folder / "bytes.kd").write_bytes(b"data \xff")
    for wrong, why in (("none.kd", "No such file"), (".", "Is a directory"), ("bytes.kd", "not UTF-8")):
        ran = kdplan("check", wrong)
        assert ran.code == 2 and "KD0010" in ran.err and why in ran.err


def test_set_without_value(kdplan: Kdplan) -> None:
    ran = kdplan("check", "a.kd", "--set", "epochs")
    assert ran.code == 2 and "KD0011" in ran.err


def test_ambiguous_phase(kdplan: Kdplan, folder: Path) -> None:
    edit(folder, "param weight = 0.9", "param weight in [0.1, 0.9]")
    edit(folder, "export tiny = small@kd", "export tiny = small@kd[weight = 0.9]")
    ran = kdplan("why", "a.kd", "kd")
    assert ran.code == 2 and "KD0012" in ran.err and "kd[weight=0.1]" in ran.err


def test_unknown_export(kdplan: Kdplan) -> None:
    ran = kdplan("export", "a.kd", "tinny", "-o", "out")
    assert ran.code == 2 and "KD0013" in ran.err and "Did you mean `tiny`?" in ran.err


def test_export_before_run(kdplan: Kdplan, folder: Path) -> None:
    ran = kdplan("export", "a.kd", "tiny", "-o", "out")
    assert ran.code == 2 and "KD0014" in ran.err and "kdplan run a.kd" in ran.err
    assert not (folder / "out").exists()


def test_unknown_code(kdplan: Kdplan) -> None:
    ran = kdplan("explain", "KD9999")
    assert ran.code == 2 and "KD0015" in ran.err


# ---- usage


@pytest.mark.parametrize("arguments", [[], ["bake", "a.kd"], ["run"], ["graph", "a.kd"], ["check", "a.kd", "--fast"]])
def test_wrong_usage_exits_with_2(kdplan: Kdplan, arguments: list[str]) -> None:
    ran = kdplan(*arguments)
    assert ran.code == 2 and "usage: kdplan" in ran.err


def test_version(kdplan: Kdplan) -> None:
    from kdplan import __version__

    assert kdplan("--version").out == f"kdplan {__version__}\n"


def test_unknown_phase(kdplan: Kdplan) -> None:
    for command in (
        ["why", "a.kd", "kdd"],
        ["plan", "a.kd", "--only", "kdd"],
        ["graph", "a.kd", "-o", "x.dot", "--phase", "kdd"],
    ):
        ran = kdplan(*command)
        assert ran.code == 2 and "KD0310" in ran.err and "`kd`" in ran.err, command


# ---- --set


def test_set_changes_a_param(kdplan: Kdplan) -> None:
    assert "epochs = 7" in kdplan("expand", "a.kd", "--set", "epochs=7").out


def test_set_can_make_an_axis(kdplan: Kdplan, folder: Path) -> None:
    edit(folder, "export tiny = small@kd", "")
    ran = kdplan("plan", "a.kd", "--no-cost", "--json", "--set", "weight=[0.1, 0.9]")
    assert list(ran.phases) == ["big@train", "kd[weight=0.1]", "kd[weight=0.9]"]


@pytest.mark.parametrize(("text", "code"), [("epoch=1", "KD0210"), ("epochs=1.5", "KD0244"), ("epochs=(", "KD01")])
def test_set_of_the_wrong_thing(kdplan: Kdplan, text: str, code: str) -> None:
    ran = kdplan("check", "a.kd", "--set", text)
    assert ran.code == 2 and code in ran.err


# ---- expand


def test_expand_is_a_plan(kdplan: Kdplan, folder: Path) -> None:
    text = kdplan("expand", "a.kd").out
    (folder / "expanded.kd").write_text(text)
    assert kdplan("check", "expanded.kd").code == 0
    keys = [
        {p["key"] for p in kdplan("plan", f, "--no-cost", "--json").json["phases"]} for f in ("a.kd", "expanded.kd")
    ]
    assert keys[0] == keys[1]
