"""Verdicts are kept in the store, and made anew when anything that they depend on has changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdplan.graph.compare import Verdict
from kdplan.graph.fingerprint import fingerprint, sources
from kdplan.ir.user_code import begin, module_of_file
from tests.conformance.user_files import HEAD, Processes

Calls = Callable[..., str]

NET = (
    HEAD
    + """
import helper

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        if type(x) is torch.Tensor and x.device.type == "cpu":
            open("called", "a").write("x")
        return helper.scaled(self.fc(x.flatten(1)))

def f(z):
    if type(z) is torch.Tensor:
        open("called", "a").write("f")
    return z.pow(2).mean()
"""
)
PLAN = """use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.01)  steps = 2  batch = 32 }
student small = my.Net()
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) + my.f(small.logits) }
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "mine.py").write_text(NET)
    (tmp_path / "helper.py").write_text("def scaled(z):\n    return z * 2\n")
    (tmp_path / "plan.kd").write_text(PLAN)
    (tmp_path / "store").mkdir()
    return tmp_path


@pytest.fixture
def calls(folder: Path) -> Iterator[Calls]:
    """What a command calls on real numbers, in a process that has read none of the files."""
    processes = Processes(folder)

    def called(*arguments: str) -> str:
        (folder / "called").unlink(missing_ok=True)
        assert processes(*arguments, "--store", "store") == 0
        return (folder / "called").read_text() if (folder / "called").exists() else ""

    yield called
    processes.close()


def test_nobody_waits_twice(folder: Path, calls: Calls) -> None:
    assert set(calls("check", "plan.kd")) == {"x", "f"}
    assert len(list((folder / "store" / "verdicts").iterdir())) == 2
    assert calls("check", "plan.kd") == ""
    assert calls("plan", "plan.kd") == ""
    # a file beside the user's file
    (folder / "helper.py").write_text("def scaled(z):\n    return z * 3\n")
    assert "x" in calls("check", "plan.kd")
    # the file itself
    (folder / "mine.py").write_text(NET + "\n# another\n")
    assert set(calls("check", "plan.kd")) == {"x", "f"}


def test_a_run_does_one_step_more(folder: Path, calls: Calls) -> None:
    calls("check", "plan.kd")
    # The first step is computed with the network as it is, too; the function is called in it and in both steps.
    assert calls("run", "plan.kd") == "xfff"
    assert len(list((folder / "store" / "verdicts").iterdir())) == 2


def test_another_phase_shares_the_verdicts(folder: Path, calls: Calls) -> None:
    calls("check", "plan.kd")
    another = PLAN.splitlines()[-1].replace("phase alone of small", "phase more of small@alone")
    (folder / "plan.kd").write_text(f"{PLAN}{another}\n")
    assert calls("check", "plan.kd") == ""


def test_without_a_store_none_is_made(folder: Path, calls: Calls) -> None:
    (folder / "store").rmdir()
    calls("check", "plan.kd")
    assert not (folder / "store").exists()


# ---- the hash


class Net(nn.Module):
    def __init__(self, **values: Any) -> None:
        super().__init__()
        self.body = nn.Linear(2, 2)
        for name, value in values.items():
            setattr(self, name, value)


def doubled(x: float, by: float = 2) -> float:
    return x * by


def scaling(by: float) -> Any:
    return lambda x: x * by


OTHERS: dict[str, tuple[Any, Any]] = {
    "number": (1, 1.0),
    "list": ([1, 2], [2, 1]),
    "dict": ({"a": {"b": 1}}, {"a": {"b": 2}}),
    "set": ({"a", "b"}, {"a", "c"}),
    "tensor": (torch.ones(2), torch.zeros(2)),
    "function": (doubled, scaling),
    "lambda": (lambda x: x * 2, lambda x: x + 2),
    "closure": (scaling(2), scaling(3)),
    "partial": (partial(doubled, by=2), partial(doubled, by=3)),
    "built in": (torch.relu, torch.tanh),
    "method": (Net(a=1).forward, Net(a=2).forward),
    "module": (nn.Dropout(0.1), nn.Dropout(0.2)),
    "type": (nn.ReLU, nn.GELU),
    "dtype": (torch.float32, torch.float64),
}


@pytest.mark.parametrize("kind", OTHERS)
def test_another_setting_is_another_hash(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdplan.graph.fingerprint._STARTED", float("inf"))  # helpers of tests were written just now
    one, two = OTHERS[kind]
    first, second = fingerprint(Net(x=one)), fingerprint(Net(x=two))
    assert first is not None and second is not None
    assert first == fingerprint(Net(x=one)) != second


def test_weights_are_no_part_of_it_but_modes_and_shapes_are() -> None:
    net = nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2))
    first = fingerprint(net)
    nn.init.ones_(net[0].weight)  # type: ignore[arg-type]
    assert fingerprint(net) == first
    assert fingerprint(net.eval()) != first
    assert fingerprint(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3))) != first


def test_what_is_not_known_has_no_hash() -> None:
    assert fingerprint(Net(x=iter([1]))) is None
    assert fingerprint(Net(x=torch.Generator())) is None


def test_imports_are_followed_without_running_them(tmp_path: Path) -> None:
    package = tmp_path / "pack"
    package.mkdir()
    (package / "__init__.py").write_text("raise SystemExit")
    (package / "part.py").write_text("x = 1")
    (tmp_path / "other.py").write_text("import missing_module_of_mine, os")
    (tmp_path / "mine.py").write_text("def f():\n    import other\n    from pack.part import x\nimport torch\n")
    names = {Path(f).relative_to(tmp_path).as_posix() for f in sources([str(tmp_path / "mine.py")])}
    assert names == {"mine.py", "other.py", "pack/__init__.py", "pack/part.py"}


def test_a_file_that_changed_is_what_was_read(tmp_path: Path) -> None:
    path = tmp_path / "mine.py"
    path.write_text("def f(z):\n    return z\n")
    f = module_of_file(path).f
    first = fingerprint(f)
    assert first is not None
    path.write_text("def f(z):\n    return 2 * z\n")
    assert fingerprint(f) == first
    begin()
    assert fingerprint(module_of_file(path).f) not in (first, None)


def test_a_verdict_of_another_version_is_none() -> None:
    assert Verdict.of({"differs": ""}) is None
