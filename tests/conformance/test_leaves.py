"""What is called whole is shown, with the reason, by `check`, by `plan` and in the drawing of a phase."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from kdplan.cli import main
from tests.conformance.test_compiled import SQUARE
from tests.conformance.user_files import NETWORK, command, network, write

Capture = pytest.CaptureFixture[str]
PARTS = {
    "counts": ("self.t = getattr(self, 't', 0) + 1\nf = f * self.t", "its graph gives other outputs and gradients"),
    "compiled": ("f = Square.apply(f)", "`forward` calls compiled code, which cannot be traced"),
    "number": ("f = f * float(f.mean())", "the value of a tensor decides what is computed"),
    "generator": ("import random\nf = f * random.random()", "it draws random numbers that no graph holds"),
}


@pytest.mark.parametrize("case", PARTS)
def test_check_warns(case: str, tmp_path: Path, capsys: Capture) -> None:
    lines, reason = PARTS[case]
    outcome = command(tmp_path, network(lines, SQUARE), NETWORK, "check", capsys)
    assert outcome.exit_code == 0 and f"`small` is called whole: {reason}." in outcome.output, outcome.output


@pytest.mark.parametrize("loss", ["my.f(small.fc)", "mean(small.fc)", "my.f(small.fc) + my.f(small.logits)"])
def test_taps_of_what_is_called_whole_are_trained_by(loss: str, tmp_path: Path, capsys: Capture) -> None:
    """Also by a function of the user: its value is no constant."""
    lines = network(PARTS["number"][0], "def f(z):\n    return z.pow(2).mean()\n\n\n")
    plan = NETWORK.replace("loss = ", f"loss = {loss} + ")
    assert plan != NETWORK
    outcome = command(tmp_path, lines, plan, "check", capsys)
    assert outcome.exit_code == 0, outcome.output


def test_plan_and_drawing(tmp_path: Path, capsys: Capture) -> None:
    lines, reason = PARTS["compiled"]
    write(tmp_path, network(lines, SQUARE), NETWORK)
    plan, store = str(tmp_path / "plan.kd"), ["--store", str(tmp_path / "store")]
    for _ in range(2):  # the second time from the store
        assert main(["plan", plan, "--json", *store]) == 0
        (phase,) = json.loads(capsys.readouterr().out)["phases"]
        assert phase["cost"]["whole"] == [f"small: {reason}"]
    assert main(["plan", plan, *store]) == 0
    printed = capsys.readouterr().out
    assert "called whole, so not pruned:" in printed and f"small: {reason}" in " ".join(printed.split())
    for ending, line in (("dot", "\\nwhole: `forward` calls"), ("mmd", "<br/>whole: `forward` calls")):
        assert main(["graph", plan, "--phase", "alone", "-o", str(tmp_path / f"a.{ending}"), *store]) == 0
        assert line in (tmp_path / f"a.{ending}").read_text()


CONV = """class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Conv2d(1, 8, 3, padding=1), nn.Linear(8, 10)

    def forward(self, x):
        f = self.body(x).relu()
        if ASKED > 100:
            f = 2 * f
        return self.head(f.mean((2, 3)))
"""


def test_costs_and_boxes_are_those_of_the_traced_network(tmp_path: Path, capsys: Capture) -> None:
    """FLOPs, parameters, and edges with shapes from the network's box, also where a tap is read."""
    costs = []
    loss = NETWORK.replace("loss = ", "loss = mean(small.body) + ")
    for name, asked in (("traced", "len(x)"), ("whole", "f.mean()")):
        folder = tmp_path / name
        folder.mkdir()
        write(folder, CONV.replace("ASKED", asked), loss)
        plan, store = str(folder / "plan.kd"), ["--store", str(folder / "store")]
        assert main(["plan", plan, "--json", *store]) == 0
        (phase,) = json.loads(capsys.readouterr().out)["phases"]
        costs.append(phase["cost"])
        assert main(["graph", plan, "--phase", "alone", "-o", str(folder / "a.mmd"), *store]) == 0
        capsys.readouterr()
    assert costs[0]["whole"] == [] and len(costs[1]["whole"]) == 1
    for number in ("flops_step", "parameters", "trainable"):
        assert costs[0][number] == costs[1][number] > 0
    drawn = (tmp_path / "whole" / "a.mmd").read_text()
    assert "small<br/>whole:" in drawn and "B×8×8×8" in drawn and "B×10" in drawn and "inside." not in drawn


def test_a_traced_network_has_no_such_note(tmp_path: Path, capsys: Capture) -> None:
    write(tmp_path, network("f = f * 2"), NETWORK)
    assert main(["plan", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store")]) == 0
    assert "called whole" not in capsys.readouterr().out


def test_weights_files_are_in_the_json(tmp_path: Path, capsys: Capture) -> None:
    save_file({"module.fc.weight": torch.zeros(10, 64), "module.fc.bias": torch.zeros(10)}, tmp_path / "w.safetensors")
    write(tmp_path, network("f = f * 2"), NETWORK.replace("my.Net()", 'my.Net() { weights = "w.safetensors" }'))
    plan = str(tmp_path / "plan.kd")
    assert main(["check", plan, "--format", "json"]) == 0
    (note,) = json.loads(capsys.readouterr().out)
    assert note["severity"] == "note" and note["code"] is None and "w.safetensors" in note["message"]
    assert main(["plan", plan, "--json", "--store", str(tmp_path / "store")]) == 0
    assert json.loads(capsys.readouterr().out)["weights"] == [note["message"]]
