"""What a user's code keeps between calls is seen, and put back."""

from __future__ import annotations

import textwrap
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import pytest
import torch

from kdplan.graph.kept import Kept
from kdplan.ir.user_code import module_of_file

FILE = """
from collections import deque
import numpy as np
import torch
from torch import nn

n, center, queue, known, array = 0, torch.zeros(3), deque([1]), {"a": [1]}, np.zeros(3)
net = nn.BatchNorm1d(3)

class State:
    shared = 0
    def __init__(self):
        self.value, self.items = 0, [1]

state = State()

def closed():
    calls = 0
    def inner():
        nonlocal calls
        calls += 1
        return calls
    return inner

inner = closed()
"""
CASES = {
    "n": "global n; n += 1",
    "center": "global center; center = center + 1",
    "center in place": "center.add_(1)",
    "queue": "queue.append(2)",
    "known": "known['b'] = 2",
    "known inside": "known['a'].append(2)",
    "array": "array[0] = 1",
    "net": "net(torch.randn(4, 3))",
    "net by name": "net.running_mean = net.running_mean + 1",
    "State.shared": "State.shared += 1",
    "state.value": "state.value += 1",
    "state.items": "state.items.append(2)",
    "calls": "inner()",
    "f.calls": "f.calls = getattr(f, 'calls', 0) + 1",
    "added": "global added; added = 3",
}


def module(folder: Path, line: str) -> ModuleType:
    (folder / "mine.py").write_text(FILE + f"\ndef f():\n{textwrap.indent(line, '    ')}\n")
    return module_of_file(folder / "mine.py")


@pytest.mark.parametrize("case", CASES)
def test_a_change_is_seen_and_undone(case: str, tmp_path: Path) -> None:
    f: Callable[[], None] = module(tmp_path, CASES[case]).f
    before = Kept(f)
    assert before.changed() == []
    f()
    names = before.changed()
    assert names and all(name.startswith(case.split()[0]) for name in names)
    before.restore()
    assert before.changed() == [] == Kept(f).changed()


def test_a_file_beside_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "helper_of_mine.py").write_text("count = 0\ndef g():\n    global count\n    count += 1\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    f = module(tmp_path, "import helper_of_mine; helper_of_mine.g()")
    exec("import helper_of_mine", vars(f))
    before = Kept(f.f)
    f.f()
    assert before.changed() == ["count"]


def test_nothing_is_kept_by_a_plain_function(tmp_path: Path) -> None:
    f = module(tmp_path, "return torch.rand(3) * n + center")
    before = Kept(f.f)
    f.f()
    assert before.changed() == []


def test_what_is_large_is_data(tmp_path: Path) -> None:
    f = module(tmp_path, "net.add_(1)")
    f.net = torch.zeros(1 << 23)
    before = Kept(f.f)
    f.f()
    assert before.changed() == []
