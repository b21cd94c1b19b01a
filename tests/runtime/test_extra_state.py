"""Extra state of modules: versions, exports, averages and weights files have it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from torch import nn

from kdplan.cli import main
from kdplan.compile import compile_source, inspect
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir.expr import Version
from kdplan.ir.user_code import module_of_file
from kdplan.runtime.networks import materialise
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources

NETS = """
import torch
from torch import nn

class Counting(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.steps = 0
        self.names = []

    def get_extra_state(self):
        return {"steps": self.steps, "names": self.names, "scale": torch.full((2,), float(self.steps))}

    def set_extra_state(self, state):
        self.steps, self.names = state["steps"], state["names"]
        assert state["scale"].tolist() == [self.steps] * 2

    def forward(self, x):
        if self.training:
            self.steps += 1
            self.names.append(f"step {self.steps} " + "x" * 500)
        return self.fc(x.flatten(1)) * (1 + 0.1 * self.steps)

class Holding(nn.Module):
    def __init__(self):
        super().__init__()
        self.inner = Counting()

    def forward(self, x):
        return self.inner(x)

class Objects(Counting):
    def get_extra_state(self):
        return {"steps": object()}
"""
PLAN = """
use "nets.py" as my
data digits = digits
recipe quick {{ optimizer = sgd(lr = 0.1)  steps = 6  batch = 64  {more} }}
student net = my.{name}()
phase p of net on digits with quick {{ loss = cross_entropy(net.logits, labels) }}
student again = net@p
phase q of again on digits with quick {{ loss = cross_entropy(again.logits, labels) }}
measure m of net@p{snapshot}, again@q on digits.test {{ error }}
"""


def ran(folder: Path, name: str, more: str = "", snapshot: str = "") -> Sources:
    (folder / "nets.py").write_text(NETS)
    text = PLAN.format(name=name, more=more, snapshot=snapshot)
    (folder / "plan.kd").write_text(text)
    assert main(["run", str(folder / "plan.kd"), "--store", str(folder / "store")]) == 0
    plan = compile_source(Source(str(folder / "plan.kd"), text), folder)
    return Sources(plan.plan, Store(folder / "store"), plan.keys)


def counting(net: nn.Module) -> nn.Module:
    return net.inner if hasattr(net, "inner") else net  # type: ignore[return-value]


@pytest.mark.parametrize("name", ["Counting", "Holding"])
def test_versions_have_it(name: str, tmp_path: Path) -> None:
    """The second phase goes on from the first one's number, whose length in bytes has grown."""
    sources = ran(tmp_path, name)
    for version, steps in ((Version("net"), 0), (Version("net", "p"), 6), (Version("again", "q"), 12)):
        net = counting(materialise(sources, version))
        assert (net.steps, len(net.names)) == (steps, steps), version  # type: ignore[arg-type]


def test_an_average_has_that_of_its_network(tmp_path: Path) -> None:
    sources = ran(tmp_path, "Counting", "ema = 0.9", "[ema]")
    assert materialise(sources, Version("net", "p", "ema")).steps == 6


@pytest.mark.parametrize("value", ["float(self.steps)", "torch.full((self.steps,), 1.0)", "self.names"])
def test_averages_copy_it(value: str, tmp_path: Path) -> None:
    """Whatever it is made of, it is no weight: an EMA copy and a mean of versions have that of their network."""
    given = NETS[NETS.index('{"steps"') : NETS.index("    def set_extra_state")].strip()
    nets = NETS.replace(given, f"self.got if self.got is not None else {value}")
    nets = nets.replace("self.steps = 0", "self.steps, self.got = 0, None")
    nets = nets.replace('self.steps, self.names = state["steps"], state["names"]', "self.got = state")
    nets = nets.replace('        assert state["scale"].tolist() == [self.steps] * 2\n', "")
    (tmp_path / "nets.py").write_text(nets)
    text = """
use "nets.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  steps = 6  batch = 64  keep_epochs = [1]  ema = 0.9 }
student net = my.Counting()
network slow = ema(net, decay = 0.9)
phase p of net on digits with quick { loss = cross_entropy(net.logits, labels) + 0 * mse(slow.logits, net.logits) }
network middle = average(net@p, net@p)
measure m of net@p, slow@p, middle, net@p[ema] on digits.test { error }
"""
    (tmp_path / "plan.kd").write_text(text)
    assert main(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store")]) == 0
    plan = compile_source(Source(str(tmp_path / "plan.kd"), text), tmp_path)
    sources = Sources(plan.plan, Store(tmp_path / "store"), plan.keys)
    versions = [Version("net", "p"), Version("slow", "p"), Version("middle"), Version("net", "p", "ema")]
    nets_got = [materialise(sources, v).got for v in versions]
    assert [str(g) for g in nets_got] == [str(nets_got[0])] * 4


def test_a_weights_file_has_it(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    net = module_of_file(tmp_path / "nets.py").Counting()
    net.steps = 3
    torch.save({"state_dict": {f"module.{n}": v for n, v in net.state_dict().items()}}, tmp_path / "w.pth")
    text = PLAN.format(name="Counting", more="", snapshot="").replace(
        "my.Counting()", 'my.Counting() { weights = "w.pth" }'
    )
    plan = compile_source(Source("plan.kd", text), tmp_path)
    inspect(plan)
    loaded = materialise(Sources(plan.plan, Store(tmp_path / "store"), plan.keys), Version("net"))
    assert loaded.steps == 3 and torch.equal(loaded.fc.weight, net.fc.weight)  # type: ignore[union-attr]


def test_what_only_pickle_holds_is_refused(tmp_path: Path) -> None:
    (tmp_path / "nets.py").write_text(NETS)
    plan = compile_source(Source("plan.kd", PLAN.format(name="Objects", more="", snapshot="")), tmp_path)
    with pytest.raises(PlanError) as raised:
        inspect(plan)
    assert "`get_extra_state` gives more than tensors" in raised.value.diagnostics[0].message


def test_exports_load_it(tmp_path: Path) -> None:
    ran(tmp_path, "Counting")
    with (tmp_path / "plan.kd").open("a") as file:
        file.write("export done = again@q\n")
    plan, store, out = (str(tmp_path / name) for name in ("plan.kd", "store", "out"))
    assert main(["export", plan, "done", "--store", store, "-o", out]) == 0
    (about,) = (tmp_path / "out").rglob("model.json")
    assert "_extra_state" in json.loads(about.read_text())["tensors"]
