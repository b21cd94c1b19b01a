"""Draws of a run are functions of (seed, step): a killed run goes on bit-equal, and generators are put back."""

from __future__ import annotations

import random
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdplan.compile import check_text, compile_source, inspect
from kdplan.diagnostics.span import Source
from kdplan.runtime.execute import run_plan
from kdplan.runtime.store import Store
from tests.conformance.user_files import HEAD, Processes

DRAWS = """
import os, random
import numpy as np

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x):
        f = self.fc(x.flatten(1))
        if self.training and type(x) is torch.Tensor:
            self.n += 1
            if int(self.n) == 30 and os.path.exists("kill"):
                os._exit(9)
        return f * random.random() + np.random.rand() + torch.rand(10) + x.new_tensor([random.gauss(0, 1)])

def noise(z):
    return (z * random.random() * np.random.rand() + torch.rand(10)).pow(2).mean()
"""
PLAN = """use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.01)  epochs = 2  batch = 64 }
student small = my.Net()
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) + my.noise(small.logits) }
"""


def weights(folder: Path, store: str) -> dict[str, Tensor]:
    (phase,) = (folder / store / "phases").iterdir()
    return load_file(next(phase.glob("weights-*.safetensors")))


def test_a_killed_run_goes_on_bit_equal(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEAD + DRAWS)
    (tmp_path / "plan.kd").write_text(PLAN)
    processes = Processes(tmp_path)
    run = partial(processes, "run", "plan.kd", "--device", "cpu", "--checkpoint-seconds", "0", "--store")
    assert run("whole") == 0
    (tmp_path / "kill").touch()
    assert run("killed") == 9
    (tmp_path / "kill").unlink()
    assert any((tmp_path / "killed" / "work").iterdir())
    assert run("killed") == 0
    processes.close()
    one, two = weights(tmp_path, "whole"), weights(tmp_path, "killed")
    assert one.keys() == two.keys() and all(torch.equal(v, two[n]) for n, v in one.items())
    assert one["n"] == 46


def test_generators_of_the_process_are_put_back(tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEAD + DRAWS)
    random.seed(1)
    np.random.seed(1)
    expected = (random.random(), np.random.rand())
    random.seed(1)
    np.random.seed(1)
    compiled = compile_source(Source("plan.kd", PLAN), tmp_path)
    inspect(compiled)
    result = run_plan(compiled.plan, compiled.planned, compiled.keys, Store(tmp_path / "store"))
    assert result.trained == ["alone"]
    assert (random.random(), np.random.rand()) == expected


FIXED = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.head = nn.Linear(64, 8), nn.Linear(8, 10)
        self.body.requires_grad_(False)

    def forward(self, x):
        return self.head(self.body(x.flatten(1)))
"""


@pytest.mark.parametrize(("of", "codes"), [("small", ["KD0545"]), ("small.head", []), ("small.body", [])])
def test_parameters_that_a_constructor_fixes(of: str, codes: list[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(HEAD + FIXED)
    text = PLAN.replace("of small on", f"of {of} on").replace(" + my.noise(small.logits)", "")
    found = check_text(text, folder=tmp_path)
    assert [d.code for d in found] == codes
    if codes:
        assert "fixes `body.weight` and `body.bias`" in found[0].message
        assert found[0].help == "Write `of small.head` to train a part."
