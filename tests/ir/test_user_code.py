"""A user's file runs from the text that was read, with the modules beside it."""

from __future__ import annotations

import inspect
import random
import sys
from pathlib import Path

import pytest
import torch

from kdplan.ir import user_code
from tests.ir.test_imports import write


def test_imports_of_every_form(tmp_path: Path) -> None:
    lines = "import helper, lab.inner\nimport lab.inner as i\nfrom lab import inner\nfrom .helper import x\n"
    lines += "from lab.inner import *\nvalues = (helper.x, lab.inner.y, i.y, inner.y, x, y)\n"
    lines += "\n\ndef later():\n    import late\n    return late.z\n"
    files = {"net.py": lines, "helper.py": "x = 1", "lab/inner.py": "y = 2", "late.py": "z = 3"}
    module = user_code.module_of_file(write(tmp_path, files))
    assert module.values == (1, 2, 2, 2, 1, 2) and module.later() == 3
    assert not {"helper", "lab", "late"} & set(sys.modules)


def test_files_of_one_name_in_two_folders(tmp_path: Path) -> None:
    for name in ("a", "b"):
        write(tmp_path / name, {"net.py": "from helper import x", "helper.py": f"x = '{name}'"})
    assert [user_code.module_of_file(tmp_path / name / "net.py").x for name in ("a", "b")] == ["a", "b"]


def test_a_module_that_python_has_too(tmp_path: Path) -> None:
    files = {"net.py": "from statistics import x", "statistics.py": "x = 1"}
    assert user_code.module_of_file(write(tmp_path, files)).x == 1


def test_what_runs_is_what_was_read(tmp_path: Path) -> None:
    path = write(tmp_path, {"net.py": "from helper import x\n\n\ndef f():\n    return x\n", "helper.py": "x = 1"})
    user_code.begin()
    digest = user_code.code(path).digest
    (tmp_path / "helper.py").write_text("x = 2")
    path.write_text("broken(")
    module = user_code.module_of_file(path)
    assert module.f() == 1 and user_code.code(path).digest == digest
    assert inspect.getsource(module.f) == "def f():\n    return x\n"
    assert user_code.edited() == ([path, tmp_path / "helper.py"], [])
    assert user_code.edited() == ([], [])


def test_a_new_reading_sees_edits(tmp_path: Path) -> None:
    path = write(tmp_path, {"net.py": "x = 1"})
    assert user_code.module_of_file(path).x == 1
    path.write_text("x = 2")
    assert user_code.module_of_file(path).x == 1
    user_code.begin()
    assert user_code.module_of_file(path).x == 2


def test_one_module_until_it_is_forgotten(tmp_path: Path) -> None:
    path = write(tmp_path, {"net.py": "seen = []"})
    first = user_code.module_of_file(path)
    assert user_code.module_of_file(path) is first
    user_code.forget_modules()
    assert user_code.module_of_file(path) is not first


def test_a_function_that_imports_after_its_module_was_forgotten(tmp_path: Path) -> None:
    path = write(tmp_path, {"net.py": "def f():\n    from . import late\n    return late.x", "late.py": "x = 1"})
    f = user_code.module_of_file(path).f
    user_code.forget_modules()
    assert f() == 1


def test_draws_of_a_file_are_the_same_each_time(tmp_path: Path) -> None:
    path = write(tmp_path, {"net.py": "import random, torch\ndraw = (random.random(), float(torch.rand(())))"})
    state, tensors = random.getstate(), torch.random.get_rng_state()
    first = user_code.module_of_file(path).draw
    assert random.getstate() == state and torch.equal(torch.random.get_rng_state(), tensors)
    user_code.forget_modules()
    random.random()
    torch.rand(())
    assert user_code.module_of_file(path).draw == first


def test_a_module_whose_name_is_made_while_it_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(tmp_path)
    text = "import importlib\nx = importlib.import_module('hel' + 'per_y').x"
    with pytest.raises(ImportError, match=r"helper_y\.py is imported by a name"):
        user_code.module_of_file(write(tmp_path, {"net.py": text, "helper_y.py": "x = 1"}))


@pytest.mark.parametrize("name", ["my-net.py", "2 nets.py", "v1.2.py", "größe.py"])
def test_names_of_files(name: str, tmp_path: Path) -> None:
    assert user_code.module_of_file(write(tmp_path, {name: "import helper\nx = helper.x", "helper.py": "x = 1"})).x == 1


def test_what_a_helper_raises_stands_at_its_line(tmp_path: Path) -> None:
    path = write(tmp_path, {"net.py": "import helper", "helper.py": "x = 1\nx / 0"})
    before = set(sys.modules)
    with pytest.raises(ZeroDivisionError) as caught:
        user_code.module_of_file(path)
    assert caught.traceback[-1].path == tmp_path / "helper.py" and caught.traceback[-1].lineno == 1
    assert not {n for n in sys.modules if n.startswith(user_code.PREFIX)} - before
