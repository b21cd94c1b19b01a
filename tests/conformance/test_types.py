"""Data types that do not go together are found by `check`: fake tensors let most of them pass."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.user_files import NETWORK, command, network

Capture = pytest.CaptureFixture[str]
CALLING = NETWORK.replace("loss = ", "loss = my.f(small.logits, labels) + ")
FORWARD = {
    "linear": "f = F.linear(f, torch.ones(10, 10).double())",
    "convolution": "f = F.conv1d(f[:, None], torch.ones(1, 1, 1).double())[:, 0]",
    "norm": "f = F.layer_norm(f.double(), (10,), torch.ones(10), torch.zeros(10)).float()",
    "assignment": "g = f.clone()\ng[[0]] = f[:1].double()\nf = f + g",
    "addition": "f = f.index_add(0, torch.tensor([0]), f[:1].double())",
    "softmax": "f = f * f.long().softmax(1)",
    "bitwise": "f = f * (f & f)",
}
LOSSES = {
    "bce": "F.binary_cross_entropy(z.sigmoid(), F.one_hot(y, 10))",
    "labels": "F.cross_entropy(z, y.int())",
    "scores": "F.cross_entropy(z.long(), y) + z.mean()",
    "distance": "torch.cdist(z, z.double()).mean()",
}


def function(value: str) -> str:
    """A file's beginning with a function `f` of scores and labels."""
    return f"def f(z, y):\n    return {value}\n\n\n"


@pytest.mark.parametrize("case", FORWARD)
def test_networks(case: str, tmp_path: Path, capsys: Capture) -> None:
    outcome = command(tmp_path, network(FORWARD[case]), NETWORK, "check", capsys)
    assert outcome.exit_code == 2 and "error[KD0508]: `small` does not run on" in outcome.output
    assert "mine.py" in outcome.output and "help: Convert one of the values" in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("case", LOSSES)
def test_losses(case: str, tmp_path: Path, capsys: Capture) -> None:
    outcome = command(tmp_path, network("", function(LOSSES[case])), CALLING, "check", capsys)
    assert outcome.exit_code == 2 and "error[KD0506]: `f` does not work on" in outcome.output
    assert "mine.py" in outcome.output and "help: Convert one of the values" in outcome.output
    assert "Traceback" not in outcome.output


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_conversions_are_fine(precision: str, tmp_path: Path, capsys: Capture) -> None:
    text = network("f = (f.double() * 2).to(f.dtype)", function("F.cross_entropy(z.double(), y).float()"))
    plan = CALLING.replace("batch", f"precision = {precision}  batch")
    outcome = command(tmp_path, text, plan, "run", capsys)
    assert outcome.exit_code == 0, outcome.output
