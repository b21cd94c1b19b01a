"""`use package "mylab" as lab`: code of installed packages, where the user trusts them."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

from kdplan.api import PlanBuilder, fn, item, labels
from kdplan.cli import main
from kdplan.compile import check_text, compile_source, inspect
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir import trust
from kdplan.passes.expand import expand
from kdplan.syntax.format import format_text

Capture = pytest.CaptureFixture[str]
NETS = """
from os import system
from pathlib import Path
import numpy as np
import torch
from torch import nn

class Net(nn.Module):
    def __init__(self, width=4):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        return self.fc(x.flatten(1))

def loss(student, teacher, weights=(1.0,)):
    return weights[0] * ((student - teacher) ** 2).mean()

def few(count=20):
    pair = np.zeros((count, 1, 8, 8), np.float32), np.arange(count) % 10
    return {"train": pair, "test": pair, "classes": [str(i) for i in range(10)]}
"""
PLAN = """
use package "mylab.nets" as lab
data own = lab.few(count = 30)
recipe quick { optimizer = sgd(lr = 0.1)  steps = 2  batch = 10 }
student small = lab.Net(width = 8)
teacher big = digits_net(width = 2)
phase p of small on own with quick {
  loss = cross_entropy(small.logits, labels) + lab.loss(small.logits, big@init.logits, weights = [0.5])
}
measure m of small@p on own.test { error }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder with an installed package; no user settings."""
    package = tmp_path / "site-packages" / "mylab"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("from pathlib import Path\nPath('ran').touch()\n")
    (package / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(package.parent))
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("KDPLAN_TRUST", raising=False)
    yield tmp_path
    for name in [n for n in sys.modules if n.partition(".")[0] == "mylab"]:
        del sys.modules[name]


def found(text: str, folder: Path) -> list[tuple[str, str]]:
    return [(d.code, d.span.text if d.span else "") for d in check_text(text, folder=folder)]


def test_a_package_that_is_not_trusted(folder: Path) -> None:
    """One message at the `use`, and nothing of the package has run."""
    assert found(PLAN, folder) == [("KD1003", 'use package "mylab.nets" as lab')]
    assert not (folder / "ran").exists() and "mylab" not in sys.modules


def test_a_package_that_is_trusted(folder: Path, capsys: Capture) -> None:
    """Networks, data and losses of it, as of a file; the second time all is in the store."""
    (folder / "plan.kd").write_text(PLAN)
    run = ["run", "plan.kd", "--trust", "mylab", "--store", "store"]
    assert main(run) == 0 and main(run) == 0
    assert "1 cached" in capsys.readouterr().out


def test_nothing_runs_without_code(folder: Path, capsys: Capture) -> None:
    (folder / "plan.kd").write_text(PLAN)
    main(["check", "plan.kd", "--no-code", "--trust", "mylab", "--format", "json"])
    assert {d["code"] for d in json.loads(capsys.readouterr().out)} == {"KD0544"}
    assert not (folder / "ran").exists() and "mylab" not in sys.modules


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ('use package "os" as lab', "KD1004"),
        ('use package "numpy" as lab', "KD1004"),
        ('use package "no_such_lab" as lab', "KD1007"),
        ('use package "my lab" as lab', "KD1007"),
        ('use package "./mylab" as lab', "KD1007"),
        ('use package "" as lab', "KD1007"),
        ('use packge "mylab" as lab', "KD0105"),
        ('student small "mylab"', "KD0105"),
    ],
)
def test_what_is_refused(text: str, code: str, folder: Path) -> None:
    with trust.trusting(["mylab"]):
        assert [c for c, _ in found(text, folder)][:1] == [code]


@pytest.mark.parametrize("call", ["lab.system(1)", "lab.Path(1)"])
def test_what_a_package_imports_is_no_factory(call: str, folder: Path) -> None:
    text = f'use package "mylab.nets" as lab\nstudent s = {call.replace("1", "")}\n'
    text += "data digits = digits\nrecipe q { optimizer = sgd(lr = 0.1)  epochs = 1 }\n"
    text += "phase p of s on digits with q { loss = cross_entropy(s.logits, labels) }"
    with trust.trusting(["mylab"]):
        assert found(text, folder)[0][0] in ("KD0507", "KD1005")


def test_its_name_is_the_last_word(folder: Path) -> None:
    text = PLAN.replace(" as lab", "").replace("lab.", "nets.").replace("mynets", "mylab")
    with trust.trusting(["mylab"]):
        assert found(text, folder) == []


def test_losses_of_known_libraries_need_no_trust(folder: Path) -> None:
    text = """
use package "torchvision.ops" as ops
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
student s = digits_net(width = 2)
teacher t = digits_net(width = 4)
phase p of s on digits with quick {
  loss = ops.sigmoid_focal_loss(s.logits, softmax(t@init.logits), reduction = "mean")
}
"""
    assert found(text, folder) == []


def test_registered_factories_need_no_trust(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trust, "registered", lambda package: {f"{package}.nets:Net"} if package == "mylab" else set())
    monkeypatch.setattr("kdplan.passes.load.registered", trust.registered)
    text = PLAN.replace("lab.few(count = 30)", "digits").replace("lab.loss", "mse").replace(", weights = [0.5]", "")
    assert found(text, folder) == []
    (code, at), *_ = found(PLAN.replace("lab.few(count = 30)", "digits"), folder)
    assert code == "KD1003" and at.startswith("lab.loss(")


def test_versions_are_in_the_key(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    version = metadata.version

    def keys(number: str) -> object:
        monkeypatch.setattr(metadata, "version", lambda name: number if name == "mylab" else version(name))
        with trust.trusting(["mylab"]):
            return compile_source(Source("plan.kd", PLAN), folder).keys

    assert keys("1.0") == keys("1.0") != keys("1.1")


def test_sources_are_in_the_key_of_a_package_in_development(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    source = folder / "src" / "mydev"
    source.mkdir(parents=True)
    (source / "__init__.py").write_text("")
    (source / "nets.py").write_text(NETS)
    monkeypatch.syspath_prepend(str(source.parent))
    text = PLAN.replace("mylab", "mydev")
    with trust.trusting(["mydev"]):
        before = compile_source(Source("plan.kd", text), folder)
        inspect(before)
        (source / "nets.py").write_text(NETS.replace("weights[0] *", "2 * weights[0] *"))
        after = compile_source(Source("plan.kd", text), folder)
    assert before.keys != after.keys
    for name in [n for n in sys.modules if n.partition(".")[0] == "mydev"]:
        del sys.modules[name]


def test_as_a_core_plan_and_formatted(folder: Path) -> None:
    with trust.trusting(["mylab"]):
        plan = compile_source(Source("plan.kd", PLAN), folder)
        text = expand(plan.plan)
        assert 'use package "mylab.nets" as nets' in text
        assert compile_source(Source("plan.kd", text), folder).keys == plan.keys
    once = format_text(Source("plan.kd", PLAN))
    assert 'use package "mylab.nets" as lab' in once and format_text(Source("plan.kd", once)) == once


def test_from_python(folder: Path) -> None:
    def built(*packages: str) -> list[str]:
        p = PlanBuilder(folder=folder, trust=packages)
        lab = p.use_package("mylab.nets")
        small = p.student("small", lab.Net, width=8)
        recipe = p.recipe("quick", optimizer=item("sgd", lr=0.1), steps=2, batch=10)
        digits = p.data("digits")
        p.phase("p", of=small, on=digits, with_=recipe, loss=fn.cross_entropy(small.logits, labels))
        return [d.code for d in p.check()]

    assert built("mylab") == []
    with pytest.raises(PlanError) as raised:
        built()
    assert [d.code for d in raised.value.diagnostics] == ["KD1003"]
