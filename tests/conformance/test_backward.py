"""Networks whose backward pass fails in plain PyTorch: `check` says so, and frozen they run as they are."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdplan.graph.compare import NoGradient, compare
from tests.conformance.user_files import NETWORK, command, network

Capture = pytest.CaptureFixture[str]
SPOILED = {
    "augmented": "f = f.exp()\nf += 1",
    "of a view": "f = f.sigmoid()\ng = f[:, :5]\ng *= 2",
    "indexed": "f = f.tanh()\nf[:, 0] = 0",
    "method": "f = f.exp()\nf.add_(1)",
    "module": "f = nn.ReLU(inplace=True)(f.exp() * (g := f.sigmoid())) + g.mul_(2)",
    "raises": "class Bad(torch.autograd.Function):\n    @staticmethod\n    def forward(ctx, x):\n"
    "        return x * 2\n    @staticmethod\n    def backward(ctx, g):\n        return 1 / 0\nf = Bad.apply(f)",
}


@pytest.mark.parametrize("case", SPOILED)
def test_what_has_no_gradient_is_an_error_of_check(case: str, tmp_path: Path, capsys: Capture) -> None:
    outcome = command(tmp_path, network(SPOILED[case]), NETWORK, "check", capsys)
    assert outcome.exit_code == 2 and "error[KD0553]: The backward pass of `small` fails: " in outcome.output
    assert "my.Net()" in outcome.output and "Traceback" not in outcome.output


def test_an_output_that_no_loss_reads_may_have_none(tmp_path: Path, capsys: Capture) -> None:
    code = network("g = f.exp()\ng += 1").replace("return f", 'return {"logits": f, "spoiled": g}')
    for name in ("check", "run"):
        outcome = command(tmp_path, code, NETWORK, name, capsys)
        assert outcome.exit_code == 0, outcome.output
        assert "`small` is called whole: its graph gives other gradients" in outcome.output


@pytest.mark.parametrize("case", SPOILED)
def test_frozen_networks_need_none(case: str, tmp_path: Path, capsys: Capture) -> None:
    plan = NETWORK.replace("my.Net()", "digits_net(width = 2)").replace(
        "phase", "teacher big = my.Net()\nphase", 1
    ).replace("loss = ", "loss = kd(teacher = big@init.logits, student = small.logits) + ")  # fmt: skip
    for name in ("check", "run"):
        outcome = command(tmp_path, network(SPOILED[case]), plan, name, capsys)
        assert outcome.exit_code == 0 and "KD0553" not in outcome.output, outcome.output


def test_a_shared_storage_is_written_to(tmp_path: Path) -> None:
    """`+=` on a name writes into the tensor that another name has, as in plain PyTorch."""

    class Net(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y = x * 2
            z = y
            z += 1
            return y * z

    assert compare(Net(), (torch.randn(4, 3),)).differs == "outputs"
    with pytest.raises(NoGradient):
        compare(nn.Sequential(nn.Linear(3, 3), _Spoiled()), (torch.randn(4, 3),))


class _Spoiled(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = x.exp()
        x += 1
        return x
