"""A user's functions in a loss: their values are a plain PyTorch loop's, and what differs from itself is reported."""

from __future__ import annotations

import copy
import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.cli import main as kdplan
from kdplan.compile import check_text
from kdplan.graph.build import Builder
from kdplan.graph.compare import Verdict, compare_call
from kdplan.graph.kept import Kept
from kdplan.ir.user_code import module_of_file
from tests.conformance.plain import batches, loop, same

HEAD = """
import random, time
import numpy as np
import torch
from torch import nn

n, center, kept = 0, torch.zeros(4), []
inner = nn.BatchNorm1d(4)
ticks = iter(range(10**9))

class Tripled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, z):
        return z * 1

    @staticmethod
    def backward(ctx, g):
        return 3 * g

def closed():
    calls = 0
    def inner(z):
        nonlocal calls
        calls += 1
        return z.mean() * calls
    return inner

g = closed()

def f(z):
"""
PLAIN = {
    "draws": "return z.mean() * random.random() * np.random.rand() * torch.rand(())",
    "drops": "return nn.functional.dropout(z, 0.5).pow(2).mean()",
    "in place": "z.div_(4).clamp_(min=0)\nreturn z.pow(2).mean()",
    "in place by index": "z[:, 0] = 0\nreturn z.pow(2).mean()",
    "own gradient": "return Tripled.apply(z).pow(2).mean()",
    "detached": "return (z - z.detach().mean(0)).pow(2).mean()",
    "control flow on shapes": "return z.mean() if z.shape[0] > 2 else z.sum()",
    "functorch": "return torch.func.grad(lambda v: v.pow(3).sum())(z).mean()",
    "no grad": "with torch.no_grad():\n    w = z.softmax(1)\nreturn (w * z).mean()",
}
CENTER = "global center\ncenter = 0.9 * center + z.detach().mean(0)\nreturn (z - center).pow(2).mean()"
STATEFUL = {
    "global number": ("n", "global n\nn += 1\nreturn z.mean() * n"),
    "global tensor": ("center", CENTER),
    "written tensor": ("center", "center.mul_(0.9).add_(z.detach().mean(0))\nreturn (z - center).pow(2).mean()"),
    "list": ("kept", "kept.append(z.detach())\nreturn (z - kept[0]).pow(2).mean()"),
    "closure": ("calls", "return g(z)"),
    "attribute": ("f.t", "f.t = getattr(f, 't', 0) + 1\nreturn z.mean() * f.t"),
    "module": ("inner", "return inner(z).pow(4).mean()"),
}  # fmt: skip
UNSTABLE = {
    "clock": "return z.mean() * (1e4 * time.perf_counter() % 1)",
    "iterator": "return z.mean() * next(ticks)",
    "own generator": "return z.mean() * next(ticks) * float(np.random.default_rng().random())",
}


def function(folder: Path, body: str) -> Callable[[Tensor], Tensor]:
    lines = "".join(f"    {line}\n" for line in body.splitlines())
    (folder / "mine.py").write_text(HEAD + lines)
    f: Callable[[Tensor], Tensor] = module_of_file(folder / "mine.py").f
    return f


def both_loops(f: Callable[[Tensor], Tensor]) -> None:
    """Three steps with the loss `f(logits) + cross_entropy(logits) + f(logits)`, by a graph and by hand, are equal."""
    torch.manual_seed(0)
    net = nn.Linear(4, 4)
    plain, data = copy.deepcopy(net), batches(3)
    b = Builder()
    x, y = b.input("inputs_0", data[0][0]), b.input("labels_0", data[0][1])
    b.network("n", net)
    logits = b.apply("n", (x,))
    total = b.call(torch.add, b.call(f, logits), b.call(F.cross_entropy, logits, y))
    gm = b.finish({"loss": total}).graph_module
    kept = Kept(f)
    ours = loop(net, lambda x, y: gm(inputs_0=x, labels_0=y)["loss"], data)
    kept.restore()

    def by_hand(x: Tensor, y: Tensor) -> Tensor:
        z = plain(x)
        return f(z.clone()) + F.cross_entropy(z, y)

    same(ours, loop(plain, by_hand, data))


@pytest.mark.parametrize("case", PLAIN)
def test_values_and_gradients(case: str, tmp_path: Path) -> None:
    f = function(tmp_path, PLAIN[case])
    assert compare_call(f, (torch.randn(6, 4),), {}) == Verdict()
    both_loops(f)


@pytest.mark.parametrize("case", STATEFUL)
def test_state(case: str, tmp_path: Path) -> None:
    name, body = STATEFUL[case]
    f = function(tmp_path, body)
    verdict = compare_call(f, (torch.randn(6, 4),), {})
    assert not verdict.unstable and not verdict.differs
    assert all(kept.startswith(name) for kept in verdict.kept) and verdict.kept
    assert Kept(f).changed() == [] and compare_call(f, (torch.randn(6, 4),), {}).kept == verdict.kept
    both_loops(f)


@pytest.mark.parametrize("case", UNSTABLE)
def test_what_differs_from_itself(case: str, tmp_path: Path) -> None:
    assert "outputs" in compare_call(function(tmp_path, UNSTABLE[case]), (torch.randn(6, 4),), {}).unstable


def test_two_calls_with_state_are_two(tmp_path: Path) -> None:
    f = function(tmp_path, "global n\nn += 1\nreturn z.mean() * n")
    b = Builder()
    x = b.input("inputs_0", torch.zeros(6, 4))
    assert b.call(f, x) is not b.call(f, x)


# ---- whole plans

PLAN = """
use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64 }
student small = digits_net(width = 2)
phase alone of small on digits with quick { loss = LOSS }
"""


def text_of(folder: Path, body: str, loss: str = "my.f(small.logits) + cross_entropy(small.logits, labels)") -> str:
    function(folder, body)
    mine = folder / "mine.py"
    mine.write_text(mine.read_text().replace("torch.zeros(4)", "torch.zeros(10)"))
    return PLAN.replace("LOSS", loss)


def test_state_outside_of_networks_is_a_warning(tmp_path: Path) -> None:
    found = check_text(text_of(tmp_path, CENTER), folder=tmp_path)
    assert [(d.code, d.message) for d in found] == [
        ("KD0543", "`f` changes `center`; a resumed run starts with the first values again.")
    ]


def test_a_function_that_differs_from_itself_is_an_error(tmp_path: Path) -> None:
    found = check_text(text_of(tmp_path, UNSTABLE["clock"]), folder=tmp_path)
    assert [d.code for d in found] == ["KD0542"]
    assert found[0].message.startswith("Two runs of `f` from one state give other outputs")


def test_labels_are_labels(tmp_path: Path) -> None:
    body = "return nn.functional.cross_entropy(z, n) * (1e4 * time.perf_counter() % 1)"
    text = text_of(tmp_path, body, "my.f(small.logits, labels) + cross_entropy(small.logits, labels)")
    (tmp_path / "mine.py").write_text((tmp_path / "mine.py").read_text().replace("def f(z)", "def f(z, n)"))
    assert [d.code for d in check_text(text, folder=tmp_path)] == ["KD0542"]


def test_a_phase_leaves_state_as_it_was(tmp_path: Path) -> None:
    """Two phases of one meaning have equal losses, in one process."""
    again = PLAN.splitlines()[-1].replace("alone", "again").replace("LOSS", "1 * my.f(small.logits)")
    text = text_of(tmp_path, CENTER, "my.f(small.logits)") + again
    (tmp_path / "plan.kd").write_text(text)
    assert kdplan(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store"), "--device", "cpu"]) == 0
    logs = [p / "metrics.jsonl" for p in (tmp_path / "store" / "phases").iterdir()]
    losses = [json.loads(log.read_text().splitlines()[-1])["loss"] for log in logs]
    assert len(losses) == 2 and losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_a_run_reports_the_first_batch(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Of a function that is stable on drawn numbers, and not on those of the phase."""
    body = "try:\n    low = float(z.detach().abs().max()) < 2\nexcept Exception:\n    low = False\n"
    body += "return z.mean() * (next(ticks) if low else 1)"
    assert check_text(text_of(tmp_path, body), folder=tmp_path) == []
    (tmp_path / "plan.kd").write_text(text_of(tmp_path, body))
    assert kdplan(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "store"), "--device", "cpu"]) != 0
    caught = capsys.readouterr()
    assert "KD0542" in caught.out + caught.err


@pytest.mark.parametrize(
    "definition",
    [
        "class Gap(nn.Module):\n    def forward(self, z):\n        return z.pow(2).mean()\n\n\nf = Gap()",
        "class Gap:\n    def __call__(self, z):\n        return z.pow(2).mean()\n\n\nf = Gap()",
        "import functools\n\n\ndef power(z, n):\n    return z.pow(n).mean()\n\n\nf = functools.partial(power, n=2)",
        "f = lambda z: z.pow(2).mean()",
    ],
)
def test_what_can_be_called_is_a_loss(definition: str, tmp_path: Path) -> None:
    from kdplan.compile import check_text
    from tests.conformance.user_files import LOSS
    from tests.conformance.user_files import write as write_files

    write_files(tmp_path, definition + "\n", LOSS)
    assert check_text(LOSS, folder=tmp_path) == []
