"""`__all__` is complete and sorted wherever a module has one."""

from __future__ import annotations

import ast
import importlib
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent


def _modules_with_all() -> list[str]:
    found = []
    for file in sorted((ROOT / "kdplan").rglob("*.py")):
        tree = ast.parse(file.read_text(encoding="utf-8"))
        named = [t.id for n in tree.body if isinstance(n, ast.Assign) for t in n.targets if isinstance(t, ast.Name)]
        if "__all__" in named:
            parts = file.relative_to(ROOT).with_suffix("").parts
            found.append(".".join(parts[:-1] if parts[-1] == "__init__" else parts))
    return found


MODULES = _modules_with_all()


def test_the_public_modules_say_what_is_public() -> None:
    assert "kdplan.api" in MODULES


@pytest.mark.parametrize("name", MODULES)
def test_all_is_complete_and_sorted(name: str) -> None:
    module = importlib.import_module(name)
    listed = list(module.__all__)
    assert listed == sorted(listed)
    assert [n for n in listed if not hasattr(module, n)] == []
    own = {n for n, v in vars(module).items() if getattr(v, "__module__", None) == name and not n.startswith("_")}
    assert own - set(listed) == set()
