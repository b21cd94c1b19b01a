"""A byte order mark at the start of a text file is no part of its text, whichever file it is."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from kdplan.cli import main
from kdplan.data.catalog import describe
from kdplan.data.hierarchy import read_hierarchy
from tests.data.concepts import write_concepts, write_open_images
from tests.data.faces import write_faces
from tests.data.fine import write_fine
from tests.passes.plans import HEAD, keys

MARK = b"\xef\xbb\xbf"


def marked(folder: Path) -> int:
    """Put the mark before every text file."""
    files = [p for p in folder.rglob("*") if p.suffix in (".kd", ".txt", ".csv", ".json")]
    for path in files:
        path.write_bytes(MARK + path.read_bytes())
    return len(files)


@pytest.mark.parametrize(
    ("name", "args", "write"),
    [
        ("open_images", {"path": "x", "labels": "machine"}, lambda root: write_open_images(root / "x")),
        ("templates", {"path": "x"}, lambda root: write_faces(root / "x", splits=10, subjects=6)),
        ("cub200", {}, write_fine),
        ("fgvc_aircraft", {}, write_fine),
    ],
)
def test_lists_of_data_sets(tmp_path: Path, name: str, args: dict[str, str], write: Callable[[Path], object]) -> None:
    write(tmp_path)
    before = describe(name, args, tmp_path, cache=tmp_path)
    assert marked(tmp_path) > 0
    after = describe(name, args, tmp_path, cache=tmp_path)
    assert (after.classes, after.splits) == (before.classes, before.splits)


def test_plans_and_lists_of_classes(tmp_path: Path) -> None:
    write_concepts(tmp_path / "lists")
    (tmp_path / "v.csv").write_text("\n".join(f"{c},{'low' if c < 5 else 'high'}" for c in range(10)))
    (tmp_path / "v.json").write_text('{"low": ["0", "1"], "high": ["2"]}')
    (tmp_path / "base.kd").write_text(HEAD)
    plan = tmp_path / "plan.kd"
    plan.write_text('use "base.kd"\nverticals V of digits from "v.csv"\nstudent small = digits_net(width = 2)\n')
    tree = read_hierarchy(tmp_path / "lists" / "hierarchy.csv").parents
    assert main(["check", str(plan)]) == 0
    marked(tmp_path)
    assert main(["check", str(plan)]) == 0
    assert keys(plan.read_text(encoding="utf-8-sig"), tmp_path) == {}
    assert read_hierarchy(tmp_path / "lists" / "hierarchy.csv").parents == tree


def test_fmt_writes_no_mark(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.kd"
    plan.write_bytes(MARK + b"param a=1\n")
    assert main(["fmt", str(plan)]) == 0
    assert plan.read_bytes() == b"param a = 1\n"


def test_an_error_underlines_what_it_means(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan = tmp_path / "plan.kd"
    plan.write_bytes(MARK + b"student s = digits_nett()\n")
    assert main(["check", str(plan)]) == 2
    assert "plan.kd:1:13" in capsys.readouterr().err
