"""What holds of the source tree as a whole."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
from importlinter.cli import EXIT_STATUS_SUCCESS, lint_imports

from kdplan.ir.losses import LOSSES
from tests.structure import circles

ROOT = Path(__file__).parent.parent
CORE = ("syntax", "ir", "passes", "resolve", "graph", "runtime")
METHODS = re.compile(
    r"born.?again|sskd|fitnet|tolerant|patriarch|amalgam|native.?ensemble|knowledge.?concentration|mutual.?learning"
    r"|top_score|self.?paced",
    re.IGNORECASE,
)
SOURCES = sorted((ROOT / "kdplan").rglob("*.py"))
TESTS = sorted((ROOT / "tests").rglob("*.py"))


def test_imports_run_one_way(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.chdir(ROOT)
    done = lint_imports(config_filename=str(ROOT / "pyproject.toml"), no_cache=True)
    assert done == EXIT_STATUS_SUCCESS, capsys.readouterr().out


def test_no_import_circles() -> None:
    """Also inside of a layer, and with imports inside of functions or for types only."""
    assert circles() == []


def test_the_core_knows_no_method() -> None:
    """The table of losses has their names, and nothing else has."""
    losses = re.compile(r"\b(" + "|".join(spec.name for spec in LOSSES) + r")\b")
    lines = [
        (f"{file.relative_to(ROOT)}:{n}: {line.strip()}", losses.sub("", line) if file.name == "losses.py" else line)
        for part in CORE
        for file in (ROOT / "kdplan" / part).rglob("*.py")
        for n, line in enumerate(file.read_text(encoding="utf-8").splitlines(), 1)
    ]
    assert [where for where, line in lines if METHODS.search(line)] == []


def test_files_are_short() -> None:
    lengths = {str(f.relative_to(ROOT)): len(f.read_text(encoding="utf-8").splitlines()) for f in SOURCES + TESTS}
    assert {name: n for name, n in lengths.items() if n > 500} == {}


@pytest.mark.parametrize(
    "command",
    [
        ["check", "--help"],
        ["plan", "{plan}", "--no-cost", "--store", "{store}"],
        ["status", "{plan}", "--store", "{store}"],
        ["fmt", "--check", "{plan}"],
    ],
    ids=lambda c: c[0],
)
def test_looking_imports_no_torch(command: list[str], tmp_path: Path) -> None:
    """Torch takes seconds to import: commands that only look at plans do without."""
    plan = str(ROOT / "plans" / "quickstart.kd")
    given = [c.format(plan=plan, store=tmp_path) for c in command]
    script = (
        "import sys\nfrom kdplan.cli import main\n"
        f"try:\n    main({given!r})\nexcept SystemExit:\n    pass\n"
        "print('torch' in sys.modules, file=sys.stderr)"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=ROOT)
    assert done.stderr.splitlines()[-1] == "False", done.stderr
