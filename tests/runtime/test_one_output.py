"""`N`, `N.output` and `N.logits` are one value, whatever a network returns and in whichever order its classes are."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from kdplan.cli import main
from kdplan.compile import inspect
from kdplan.data.dataset import open_view
from kdplan.data.view import ViewSpec
from kdplan.graph.deploy import deploy
from kdplan.graph.trace import trace
from kdplan.nn.outputs import scores
from kdplan.runtime.export import load
from tests.passes.plans import compiled

NETWORKS = """
from dataclasses import dataclass
import torch
from torch import nn


@dataclass
class Result:
    features: torch.Tensor
    logits: torch.Tensor


class Net(nn.Module):
    def __init__(self, form, classes):
        super().__init__()
        self.form = form
        self.body = nn.Sequential(nn.Flatten(), nn.Linear(64, 12), nn.ReLU())
        self.output = nn.Linear(12, classes)  # a module of that name, whose value is not what the network gives
        self.calls = 0

    def forward(self, x):
        features = self.body(x)
        logits = 0.5 * self.output(features)
        if self.form == "whole":
            self.calls += 1  # what no graph holds: the module is called whole
        return {
            "plain": logits,
            "dict": {"features": features, "logits": logits},
            "tuple": (logits, features),
            "dataclass": Result(features, logits),
            "whole": Result(features, logits),
            "nested": {"aux": features, "main": {"out": logits}},
        }[self.form]


def net(form="plain", classes=10):
    return Net(form, classes)


def distance(a, b):
    return (a - b).abs().mean()
"""

PLAN = """
use "net.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 2  batch = 64 }
verticals order of digits { back = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0] }
teacher t = my.net(form = "FORM", classes = order[0]) {
  phase train on digits[order[0]] with quick {
    measure each of self.output on digits.test { top1 }
    loss = cross_entropy(self.output, labels)
  }
}
teacher u = my.net(form = "FORM", classes = order[0]) {
  seed = 3
  phase train on digits[order[0]] with quick { loss = cross_entropy(self.logits, labels) }
}
ensemble two of t, u
measure table of t, t.logits, t.output, t.probabilities, two, two.output, two.logits on digits.test {
  top1, cross_entropy
}
export e = t.output
export f = t
"""


@pytest.mark.parametrize("form", ["plain", "dict", "tuple", "dataclass", "nested", "whole"])
def test_measures_and_exports_read_one_value(
    form: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The classes are in another order than the data's, and the numbers are those of plain PyTorch."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(NETWORKS)
    (tmp_path / "a.kd").write_text(PLAN.replace("FORM", form))
    assert main(["run", "a.kd", "--csv", "csv", "--device", "cpu"]) == 0, capsys.readouterr().err
    for name in "ef":
        assert main(["export", "a.kd", name, "-o", name]) == 0, capsys.readouterr().err
    with (tmp_path / "csv" / "table.csv").open(encoding="utf-8") as file:
        lines = list(csv.DictReader(file))
    rows = {r["network"]: {m: float(r[f"{m}_last"]) for m in ("top1", "cross_entropy")} for r in lines}
    assert rows["t"] == rows["t.logits"] == rows["t.output"] and rows["two"] == rows["two.output"] == rows["two.logits"]
    assert rows["t.probabilities"]["cross_entropy"] == pytest.approx(rows["t"]["cross_entropy"], rel=1e-5)
    batch = open_view(ViewSpec("digits", split="test"), None).batch(torch.arange(360))
    for name in "ef":
        with torch.no_grad():
            logits = scores(load(tmp_path / name)(batch["inputs"])).flip(1)
        assert rows["t"]["top1"] == pytest.approx(100 * (logits.argmax(1) == batch["labels"]).double().mean().item())
        assert rows["t"]["cross_entropy"] == pytest.approx(
            nn.functional.cross_entropy(logits, batch["labels"]).item(), rel=1e-4
        )


LOSSES = {
    "kd": "kd(student = {}, teacher = {}, temperature = 2)",
    "mse": "mse({}, {})",
    "fit": "mse(fit({}, like = {}), t.logits)",
    "own": "my.distance({}, {})",
}


@pytest.mark.parametrize("form", ["plain", "dict", "whole"])
@pytest.mark.parametrize("loss", LOSSES.values(), ids=LOSSES)
def test_losses_read_one_value(loss: str, form: str, tmp_path: Path) -> None:
    """Every way to write it gives the same graph."""
    (tmp_path / "net.py").write_text(NETWORKS)
    text = PLAN.replace("FORM", form) + "student small = digits_net(width = 2, classes = digits.classes)\n"
    ways = ("{}.logits", "{}.output", "{}(inputs)", "{}(inputs).logits", "{}(inputs).output")
    text += "".join(
        f"phase p{i} of small on digits with quick {{ loss = {loss.format(way.format('small'), way.format('t'))} }}\n"
        for i, way in enumerate(ways)
    )
    names = [f"p{i}" for i in range(len(ways))]
    joined = inspect(compiled(text, tmp_path), names)
    graphs = [str(joined[name].joined.graph_module.graph) for name in names]
    assert graphs == [graphs[0]] * len(graphs)


class Named(nn.Module):
    """Its module `logits` gives something else than the network does."""

    def __init__(self) -> None:
        super().__init__()
        self.logits = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> dict[str, Any]:
        return {"aux": None, "out": self.logits(x).relu()}


def test_a_part_with_the_name_of_the_output_is_not_the_output() -> None:
    net, x = Named().eval(), torch.randn(5, 4)
    taps = trace(net, x).taps
    assert taps["logits"] == taps["output"] == taps["out"]
    assert torch.equal(deploy(net, "logits", x)(x), net(x)["out"])
