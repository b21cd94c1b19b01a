"""What cannot be written, or is no plan, is refused at once: exit code 2, and nothing trained."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from .conftest import Kdplan


@pytest.mark.parametrize(
    "arguments",
    [
        ("run", "a.kd", "--store", ""),
        ("run", "a.kd", "--store", "/proc/x"),
        ("run", "a.kd", "--store", "a.kd"),
        ("run", "a.kd", "--store", "a.kd/below"),
        ("plan", "a.kd", "--store", ""),
        ("plan", "a.kd", "--store", "file:///dev/null"),
        ("status", "a.kd", "--store", "a.kd"),
        ("run", "a.kd", "--csv", "a.kd"),
        ("run", "a.kd", "--csv", "table.csv"),
        ("run", "a.kd", "--csv", "/proc/x"),
        ("run", "a.kd", "--plots", "a.kd"),
        ("run", "a.kd", "--plots", "s3://bucket/x"),
        ("run", "a.kd", "--tensorboard", "gs://x"),
        ("export", "a.kd", "tiny", "-o", "a.kd"),
        ("export", "a.kd", "tiny", "-o", "/proc/x/y"),
        ("graph", "a.kd", "-o", "nodir/x.svg"),
        ("graph", "a.kd", "-o", "/proc/x.svg"),
    ],
)
def test_refused(kdplan: Kdplan, folder: Path, arguments: tuple[str, ...]) -> None:
    """One message, which names the option, and no new file."""
    ran = kdplan(*arguments)
    option = next(a for a in arguments if a.startswith("-"))
    assert ran.code == 2 and "KD0017" in ran.err and f"`{option} " in ran.err, ran.err
    assert "phase" not in ran.err
    assert [p.name for p in folder.iterdir()] == ["a.kd"]


def test_the_environment_is_checked_too(kdplan: Kdplan, monkeypatch: pytest.MonkeyPatch) -> None:
    """The message names the variable."""
    monkeypatch.setenv("KDPLAN_STORE", "a.kd")
    ran = kdplan("run", "a.kd")
    assert ran.code == 2 and "`KDPLAN_STORE a.kd`" in ran.err


def test_new_folders_are_made(kdplan: Kdplan, folder: Path) -> None:
    """A folder that is not there yet is no mistake."""
    assert kdplan("run", "a.kd", "--store", "new/store", "--csv", "new/csv", "--plots", "new/plots").code == 0
    assert (folder / "new" / "csv" / "table.csv").is_file()
    assert kdplan("export", "a.kd", "tiny", "--store", "new/store", "-o", "new/export").code == 0


@pytest.mark.parametrize(("name", "said"), [("net.py", "a Python file"), ("n.ipynb", "a notebook"), ("p.json", "JSON")])
def test_files_of_other_languages(kdplan: Kdplan, folder: Path, name: str, said: str) -> None:
    """A file that is no plan is called what it is."""
    (folder / name).write_text("import torch\n")
    ran = kdplan("check", name)
    assert ran.code == 2 and "KD0018" in ran.err and said in ran.err and "import" not in ran.err


@pytest.mark.parametrize(("code", "near"), [("KD9999", None), ("205", "KD0205"), ("kd-0205", "KD0205"), ("x", None)])
def test_codes_in_another_notation(kdplan: Kdplan, code: str, near: str | None) -> None:
    """A code with other digits is not near to any."""
    ran = kdplan("explain", code)
    assert ran.code == 2 and "KD0015" in ran.err
    assert (f"`{near}`?" in ran.err) if near else ("Did you mean" not in ran.err)


def test_a_plan_without_exports(kdplan: Kdplan, folder: Path) -> None:
    """The declaration that is missing is shown."""
    (folder / "b.kd").write_text((folder / "a.kd").read_text().replace("export tiny = small@kd", ""))
    ran = kdplan("export", "b.kd", "tiny", "-o", "x")
    assert ran.code == 2 and "`export tiny = small@kd`" in ran.err and "nothing" not in ran.err


@pytest.mark.parametrize("command", [("plan", "--no-cost", "--only"), ("run", "--only"), ("why",)])
def test_the_nearest_phase(kdplan: Kdplan, command: tuple[str, ...]) -> None:
    """An unknown phase is answered with the nearest, by the short form of its name."""
    ran = kdplan(command[0], "a.kd", *command[1:], "kdd")
    assert ran.code == 2 and "Did you mean `kd`?" in ran.err


def test_json_of_a_refusal(kdplan: Kdplan, folder: Path) -> None:
    """`check --format json` gives it as JSON."""
    (folder / "net.py").write_text("")
    assert json.loads(kdplan("check", "net.py", "--format", "json").out)[0]["code"] == "KD0018"


def test_a_probe_that_was_killed_leaves_nothing_for_long(kdplan: Kdplan, folder: Path) -> None:
    """Before a run, a folder is made where it will write; the next probe there removes that of a killed process."""
    code = """
import os, signal
from pathlib import Path
from kdplan.runtime.store.atomic import scratch
with scratch(Path("tables")):
    os.kill(os.getpid(), signal.SIGKILL)
"""
    (folder / "tables").mkdir()
    (folder / "tables" / ".new-mine").write_text("a name that a user may have")
    subprocess.run([sys.executable, "-c", code], check=False)
    assert len(list((folder / "tables").iterdir())) == 2
    assert kdplan("run", "a.kd", "--csv", "tables").code == 0
    assert sorted(p.name for p in (folder / "tables").iterdir()) == [".new-mine", "table.csv"]
