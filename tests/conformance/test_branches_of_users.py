"""Branches are made of a network's graph: of a network that a graph does not hold, `check` says why there are none."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.conformance.user_files import command

Capture = pytest.CaptureFixture[str]
NET = """import time

class Net(nn.Module):
    calls = [0]

    def __init__(self):
        super().__init__()
        self.body, self.deep, self.head = nn.Linear(64, 8), nn.Linear(8, 8), nn.Linear(8, 10)

    def forward(self, x):
        f = self.deep(self.body(x.flatten(1)))
        LINE
        return self.head(f)
"""
PLAN = """use "mine.py" as my
data digits = digits { limit = 100 }
recipe quick { optimizer = sgd(lr = 0.01)  epochs = 1  batch = 32 }
branches one of my.Net() from deep on digits with quick {
  count = 2  loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
}
"""
LINES = {
    "a value decides": ("f = f if f.mean() > 0 else 2 * f", "called whole, since the value of a tensor decides"),
    "an attribute": ("self.t = getattr(self, 't', 0) + 1; f = f * self.t", "its graph gives other outputs"),
    "an element of the class": ("self.calls[0] += 1; f = f * self.calls[0]", "its graph gives other outputs"),
    "a copy of a weight": (
        "self.__dict__.setdefault('w', self.head.weight.detach().clone()); f = f + self.w.mean()",
        "its graph gives other outputs",
    ),
    "the clock": ("f = f * (1 + time.perf_counter() % 1)", "its graph gives other outputs"),
}


@pytest.mark.parametrize("case", LINES)
def test_no_branches_of_what_no_graph_holds(case: str, tmp_path: Path, capsys: Capture) -> None:
    line, why = LINES[case]
    outcome = command(tmp_path, NET.replace("LINE", line), PLAN, "check", capsys)
    assert outcome.exit_code == 2 and "error[KD0516]" in outcome.output
    assert why in outcome.output and "help: Store state in buffers" in outcome.output


def test_branches_of_what_a_graph_holds(tmp_path: Path, capsys: Capture) -> None:
    outcome = command(tmp_path, NET.replace("LINE", "f = f.relu()"), PLAN, "run", capsys)
    assert outcome.exit_code == 0 and "KD0" not in outcome.output, outcome.output
