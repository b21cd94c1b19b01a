"""What a user's file imports is found in its text; nothing is run."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest

from kdplan.ir.imports import read


def write(folder: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)
    return folder / next(iter(files))


@pytest.mark.parametrize(
    ("line", "modules"),
    [
        ("import helper", {"helper"}),
        ("import helper as h, torch", {"helper"}),
        ("from helper import x", {"helper"}),
        ("from . import helper", {"helper"}),
        ("from .helper import x", {"helper"}),
        ("from helper import *", {"helper"}),
        ("import lab.inner", {"lab", "lab.inner"}),
        ("from lab import inner", {"lab", "lab.inner"}),
        ("from lab.inner import x", {"lab", "lab.inner"}),
        ("import lab", {"lab"}),
        ("import plain.part", {"plain.part"}),
        ("from plain import part", {"plain.part"}),
        ("import chain", {"chain", "helper"}),
        ("def f():\n    import helper", {"helper"}),
        ("try:\n    import helper\nexcept ImportError:\n    pass", {"helper"}),
        ("import around", {"around"}),
        ("import torch.nn, os.path, numpy as np", set()),
        ("x = 'import helper'", set()),
    ],
)
def test_modules_beside_a_file(line: str, modules: set[str], tmp_path: Path) -> None:
    path = write(
        tmp_path,
        {
            "net.py": line,
            "helper.py": "x = 1",
            "lab/__init__.py": "",
            "lab/inner.py": "x = 2",
            "plain/part.py": "x = 3",
            "chain.py": "from helper import x",
            "around.py": "import net",
            "torch.txt": "",
        },
    )
    assert set(read(path).local) == modules | {"net"}


def test_relative_imports_of_a_package(tmp_path: Path) -> None:
    files = {"net.py": "import lab.a.b", "lab/__init__.py": "", "lab/c.py": "", "lab/d.py": "y = 1"}
    files |= {"lab/a/__init__.py": "from .. import c", "lab/a/b.py": "from ..d import y"}
    path = write(tmp_path, files)
    assert set(read(path).local) == {"net", "lab", "lab.a", "lab.a.b", "lab.c", "lab.d"}


def test_a_file_alone_has_the_hash_of_its_text(tmp_path: Path) -> None:
    path = write(tmp_path, {"net.py": "import torch, json"})
    assert read(path).digest == hashlib.sha256(path.read_bytes()).hexdigest()


def test_every_file_and_version_counts(tmp_path: Path) -> None:
    path = write(
        tmp_path, {"net.py": "import helper, pytest, certainly_absent", "helper.py": "import deep", "deep.py": "x = 1"}
    )
    code = read(path)
    assert code.packages == {"pytest": pytest.__version__, "certainly_absent": "not installed"}
    digests = {code.digest}
    for name in ("net.py", "helper.py", "deep.py"):
        (tmp_path / name).write_text((tmp_path / name).read_text() + "\n# edited")
        digests.add(read(path).digest)
    (tmp_path / "certainly_absent.py").write_text("")
    digests.add(read(path).digest)
    assert len(digests) == 5


def test_where_a_folder_lies_does_not_count(tmp_path: Path) -> None:
    files = {"net.py": "import helper", "helper.py": ""}
    assert read(write(tmp_path / "a", files)).digest == read(write(tmp_path / "b", files)).digest


def test_a_module_on_the_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write(tmp_path / "plans", {"net.py": "from mylab_x.nets import f"})
    files = {"__init__.py": "", "nets.py": "from . import deep", "deep.py": "", "other.py": ""}
    write(tmp_path / "src" / "mylab_x", files)
    monkeypatch.syspath_prepend(tmp_path / "src")
    first = read(path)
    assert {m.path.name for m in first.elsewhere} == {"__init__.py", "nets.py", "deep.py"} and not first.packages
    (tmp_path / "src" / "mylab_x" / "deep.py").write_text("x = 1")
    assert read(path).digest != first.digest


def test_a_text_that_is_no_python(tmp_path: Path) -> None:
    assert set(read(write(tmp_path, {"net.py": "import ("})).local) == {"net"}
