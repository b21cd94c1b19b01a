"""The first batch of a run is computed twice, as a graph and with the users' networks as they are."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor, fx

from kdplan.compile import compile_source
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.graph.assemble import assemble
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.graph.plain_form import PlainForm
from kdplan.runtime.events import NoEvents
from kdplan.runtime.execute import run_plan
from kdplan.runtime.first_batch import FirstBatch
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from tests.conformance.user_files import write

NETS = """
class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.body, self.norm, self.head = nn.Linear(64, 8), nn.BatchNorm1d(8), nn.Linear(8, 10)
        self.drop = nn.Dropout(0.5)

    def forward(self, x):
        f = self.drop(F.relu(self.norm(self.body(x.flatten(1)))))
        return self.head(input=f)


class Clock(Net):
    ticks = [0.0]

    def forward(self, x):
        import time
        return super().forward(x) * (1 + time.perf_counter() % 1)


def f(z):
    return z.pow(2).mean()
"""
PLAN = """use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  steps = 3  batch = 32 SETTINGS }
teacher big = my.Net() { MODE }
student small = my.Net()
phase alone of OF on digits with quick {
  loss = cross_entropy(small.logits, labels) + kd(small.logits, big@init.logits, temperature = 4) + my.f(small.norm)
}
"""


class Notes(NoEvents):
    """Keeps what a run says."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def note(self, text: str) -> None:
        self.said.append(text)


def run(folder: Path, of: str = "small", mode: str = "", settings: str = "", **more: Any) -> tuple[list[str], Any]:
    """The notes of a run, and the trained weights."""
    plan = PLAN.replace("OF", of).replace("MODE", mode).replace("SETTINGS", settings)
    folder.mkdir(exist_ok=True)
    write(folder, NETS, plan)
    ready = compile_source(Source("plan.kd", plan), folder)
    notes, store = Notes(), Store(folder / "store")
    result = run_plan(ready.plan, ready.planned, ready.keys, store, RunOptions(device="cpu"), notes, **more)
    for problem in result.failed.values():
        raise problem
    (weights,) = (folder / "store" / "phases").glob("*/weights-0-last.safetensors")
    return [n for n in notes.said if n.startswith("KD")], load_file(weights)


def wrong(plan: Any, phase: Any, networks: Any) -> PhaseGraph:
    """A phase's graphs with a mistake in one that is no whole network."""
    graph = assemble(plan, phase, networks)
    trained = graph.trainable_graph
    assert isinstance(trained, fx.GraphModule)
    for node in trained.graph.nodes:
        if node.target is torch.nn.functional.relu:
            node.target, node.kwargs = torch.nn.functional.gelu, {}
    trained.recompile()
    return graph


@pytest.fixture
def compared(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The networks of every comparison."""
    seen: list[list[str]] = []
    compare = FirstBatch.compare

    def kept(self: FirstBatch, outputs: Any) -> bool:
        seen.append(list(self.form.networks))
        return compare(self, outputs)

    monkeypatch.setattr(FirstBatch, "compare", kept)
    return seen


USES: dict[str, dict[str, Any]] = {
    "trained": {},
    "in part": {"of": "small.norm, small.head"},
    "a teacher that draws": {"mode": "mode = train"},
    "accumulated": {"settings": " accumulate = 2"},
    "half": {"settings": " precision = bf16"},
    "channels": {"settings": " channels_last = true"},
}


@pytest.mark.parametrize("use", USES)
def test_both_forms_are_equal(use: str, tmp_path: Path, compared: list[list[str]]) -> None:
    notes, _ = run(tmp_path, **USES[use])
    assert notes == []
    assert compared == [["small", "big@init"]]


def test_the_comparison_changes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ours = run(tmp_path / "a")
    monkeypatch.setattr(FirstBatch, "of", lambda *_: None)
    _, plain = run(tmp_path / "b")
    assert ours.keys() == plain.keys() and all(torch.equal(ours[n], plain[n]) for n in ours)


def test_a_graph_that_differs_is_not_used(tmp_path: Path) -> None:
    notes, ours = run(tmp_path / "a", assemble=wrong)
    assert len(notes) == 1 and notes[0].startswith("KD0540: `small` is called whole: its graph gives other outputs")
    assert notes[0].endswith("on the first batch.")
    _, right = run(tmp_path / "b")
    assert all(torch.allclose(ours[n].float(), right[n].float(), atol=1e-6) for n in right)


def test_a_step_that_is_put_back_is_done_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing can be said, the first step trains as any other."""
    _, ours = run(tmp_path / "a")

    def unsaid(self: FirstBatch, outputs: Any) -> bool:
        self._start_again()
        return False

    monkeypatch.setattr(FirstBatch, "compare", unsaid)
    _, again = run(tmp_path / "b")
    assert ours.keys() == again.keys() and all(torch.equal(ours[n], again[n]) for n in ours)


def test_a_network_that_differs_from_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kdplan.runtime.phase.verify", lambda *_, **__: [])
    monkeypatch.setitem(globals(), "PLAN", PLAN.replace("small = my.Net", "small = my.Clock"))
    with pytest.raises(PlanError) as problem:
        run(tmp_path)
    assert [d.code for d in problem.value.diagnostics] == ["KD0542"]


def test_a_batch_that_does_not_fit_twice_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, compared: list[list[str]]
) -> None:
    def full(*_: Any, **__: Any) -> dict[str, Tensor]:
        raise torch.OutOfMemoryError("full")

    monkeypatch.setattr(PlainForm, "__call__", full)
    notes, _ = run(tmp_path)
    assert [n.partition(":")[0] for n in notes] == ["KD0551"] and compared == []


def test_a_network_that_is_not_run_in_the_step_is_compared_before(tmp_path: Path, compared: list[list[str]]) -> None:
    """The teacher's values come from the store."""
    notes, _ = run(tmp_path, settings=" frozen = stored")
    assert notes == [] and compared == [["small"]]
    verdicts = list((tmp_path / "store" / "verdicts").iterdir())
    assert len(verdicts) == 4  # `Net` in both modes, the function, and the teacher on real images
