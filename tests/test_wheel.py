"""The wheel works by itself: built, unpacked elsewhere, run from elsewhere."""

from __future__ import annotations

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder into which the built wheel was installed."""
    here = tmp_path_factory.mktemp("wheel")
    built = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(here / "dist")],
        capture_output=True, text=True, cwd=ROOT,
    )  # fmt: skip
    assert built.returncode == 0, built.stderr
    (wheel,) = (here / "dist").glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(here / "site")
    return here / "site"


def _kdplan(installed: Path, folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    env = {**os.environ, "PYTHONPATH": str(installed)}
    script = "import sys, kdplan.cli as c; print(c.__file__, file=sys.stderr); sys.exit(c.main())"
    return subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, cwd=folder, env=env
    )


def test_holds_the_grammar_and_the_error_tables(installed: Path) -> None:
    assert (installed / "kdplan/syntax/kdplan.lark").read_text() == (ROOT / "grammar/kdplan.lark").read_text()
    shipped = {p.name for p in (installed / "kdplan/diagnostics/errors").glob("*.toml")}
    assert shipped == {p.name for p in (ROOT / "kdplan/diagnostics/errors").glob("*.toml")} and shipped


def test_runs_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    (tmp_path / "a.kd").write_text((ROOT / "plans/quickstart.kd").read_text())
    checked = _kdplan(installed, tmp_path, "check", "a.kd")
    assert checked.returncode == 0, checked.stderr
    assert "a.kd: fine (9 phases" in checked.stdout
    assert str(installed) in checked.stderr, "the installed package is what ran"


def test_explains_from_elsewhere(installed: Path, tmp_path: Path) -> None:
    ran = _kdplan(installed, tmp_path, "explain", "KD0205")
    assert ran.returncode == 0, ran.stderr
    assert ran.stdout.startswith("KD0205: unknown name")
