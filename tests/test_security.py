"""What plans, stores, weight files and exports may do: each sentence of docs/security.md has a test here."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from kdplan.cli import main
from kdplan.diagnostics.report import PlanError
from kdplan.graph.deploy import save
from kdplan.ir.origins import ENSEMBLE
from kdplan.nn.models import create
from kdplan.runtime.export import load

Capture = pytest.CaptureFixture[str]
TAIL = """
recipe quick { optimizer = sgd(lr = 0.1)  steps = 1  batch = 8 }
student small = mlp(inputs = 4)
phase alone of small on own with quick { loss = cross_entropy(small.logits, labels) }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in; no user settings."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDPLAN_TRUST", raising=False)
    return tmp_path


def codes(folder: Path, text: str, capsys: Capture, *command: str) -> list[str]:
    """What `check` reports of a plan."""
    (folder / "plan.kd").write_text(text)
    capsys.readouterr()
    main(["check", str(folder / "plan.kd"), "--format", "json", *command])
    return [d["code"] for d in json.loads(capsys.readouterr().out)]


# ---- plans


@pytest.mark.parametrize(
    ("function", "code"),
    [
        ("os:system", "KD1004"),
        ("posix:system", "KD1004"),
        ("os:_exit", "KD1004"),
        ("subprocess:getoutput", "KD1004"),
        ("builtins:exec", "KD1004"),
        ("numpy:load", "KD1004"),
        ("kdplan.cli:main", "KD1004"),
        ("torch:load", "KD1005"),
        ("torch.hub:load", "KD1005"),
        ("torchvision.models:get_model", "KD1005"),
    ],
)
def test_python_itself_is_never_trusted(function: str, code: str, folder: Path, capsys: Capture) -> None:
    text = f'data own = source("{function}", command = "touch marker", cmd = "touch marker")' + TAIL
    assert codes(folder, text, capsys) == [code]
    assert codes(folder, text, capsys, "--no-code") == ["KD0544"]
    assert not (folder / "marker").exists()


IMPORTED = """
from functools import partial
from os import _exit, system
from pathlib import Path
from subprocess import Popen, getoutput
from torch import load
touch = partial(system, "touch marker")
delete = Path("plan.kd").unlink


def nothing() -> None:
    Path("marker").touch()


def number() -> "int":
    Path("marker").touch()
    return 3


class Thing:
    def __init__(self):
        Path("marker").touch()
"""


@pytest.mark.parametrize(
    ("call", "data"),
    [
        ('my.system(command = "touch marker")', True),
        ("my._exit(status = 0)", True),
        ('my.Popen(args = ["touch", "marker"])', True),
        ('my.getoutput(cmd = "touch marker")', True),
        ('my.load(f = "plan.kd")', True),
        ("my.touch()", True),
        ("my.delete()", True),
        ("my.nothing()", True),
        ("my.number()", True),
        ("my.Thing()", False),
    ],
)
def test_only_factories_are_called(call: str, data: bool, folder: Path, capsys: Capture) -> None:
    (folder / "mine.py").write_text(IMPORTED)
    use = 'use "mine.py" as my\ndata digits = digits\n'
    network = TAIL.replace("mlp(inputs = 4)", call).replace("on own", "on digits")
    assert codes(folder, use + network, capsys) == ["KD0507"]
    if data:
        assert codes(folder, use + f"data own = {call}" + TAIL, capsys) == ["KD1005"]
    assert not (folder / "marker").exists()


@pytest.mark.parametrize("call", ['my.system("touch marker")', "my._exit(0)", 'my.getoutput("touch marker")'])
def test_only_losses_are_called(call: str, folder: Path, capsys: Capture) -> None:
    (folder / "mine.py").write_text(IMPORTED)
    loss = TAIL.replace("cross_entropy(small.logits, labels)", f"{call} * mean(small.logits)").replace("4", "64")
    assert codes(folder, 'use "mine.py" as my\ndata own = digits\n' + loss, capsys) == ["KD1005"]
    assert not (folder / "marker").exists()


def test_libraries_load_no_files_by_themselves() -> None:
    for settings in ({"checkpoint_path": "evil.pth"}, {"pretrained": True}, {"pretrained_cfg": {"file": "evil.pth"}}):
        with pytest.raises(ValueError, match=r"timm would load files itself by .*write `weights"):
            create("timm", name="resnet10t", **settings)
    with pytest.raises(ValueError, match="torchvision would load files itself by `weights_backbone`"):
        create("torchvision", name="fcn_resnet50", weights_backbone="DEFAULT")


LAB = """
import numpy as np
from pathlib import Path
Path("marker").touch()

def make(classes=10):
    return {"train": (np.zeros((20, 4), np.float32), np.arange(20) % classes)}
"""


@pytest.fixture
def lab(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """An installed package `mylab`, which leaves a marker where it is imported."""
    (folder / "site" / "mylab").mkdir(parents=True)
    (folder / "site" / "mylab" / "__init__.py").write_text(LAB)
    monkeypatch.syspath_prepend(folder / "site")
    yield folder
    sys.modules.pop("mylab", None)


def test_a_package_runs_only_where_it_is_trusted(lab: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture) -> None:
    text = 'data own = source("mylab:make")' + TAIL
    assert codes(lab, text, capsys) == ["KD1003"]
    assert codes(lab, text, capsys, "--trust", "otherlab") == ["KD1003"]
    assert codes(lab, text, capsys, "--no-code", "--trust", "mylab") == ["KD0544"]
    assert not (lab / "marker").exists() and "mylab" not in sys.modules
    assert codes(lab, text, capsys, "--trust", "mylab") == []
    assert (lab / "marker").exists()
    monkeypatch.setenv("KDPLAN_TRUST", "otherlab, mylab")
    assert codes(lab, text, capsys) == []


# ---- exports


def exported(folder: Path, architecture: dict[str, object]) -> Path:
    """An export with this architecture in its description."""
    net = torch.nn.Linear(4, 2)
    about = {"format": 1, "architecture": architecture, "tap": "", "input_shape": [4], "whole": False}
    save(net, folder / "export", about)
    return folder / "export"


@pytest.mark.parametrize("factory", ["os:system", "posix:system", "subprocess:getoutput", "torch:load", "os:_exit"])
def test_an_export_calls_factories_only(factory: str, folder: Path) -> None:
    arguments = {"command": "touch marker"}
    nested: dict[str, object] = {"members": [[factory, arguments]], "mean": "logits", "orders": None}
    for architecture in ({"factory": factory, "arguments": arguments}, {"factory": ENSEMBLE, "arguments": nested}):
        with pytest.raises((PlanError, ValueError), match=r"no factory|cannot be trusted"):
            load(exported(folder, architecture))
    assert not (folder / "marker").exists()


def test_an_export_names_no_code_elsewhere(folder: Path) -> None:
    (folder / "mine.py").write_text("from pathlib import Path\nPath('marker').touch()")
    (folder / "export").mkdir()
    (folder / "export" / "link.py").symlink_to(folder / "mine.py")
    for where in ("../mine.py", str(folder / "mine.py"), "link.py", "absent.py"):
        with pytest.raises(PlanError, match="KD1006"):
            load(exported(folder, {"factory": f"{where}:net", "arguments": {}}))
    assert not (folder / "marker").exists()
