"""What is predicted of the state that training keeps is what it keeps."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdplan.cli.inputs import compile_file
from kdplan.cli.parser import parser
from kdplan.compile import inspect
from kdplan.graph import held
from kdplan.graph.held import size_of
from kdplan.ir.optimizers import OPTIMIZERS
from kdplan.ir.plan import Item
from kdplan.nn.optim import build_optimizer, state_of
from kdplan.runtime import saving
from kdplan.runtime.execute import run_plan
from kdplan.runtime.loop import Training
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store

SHAPES = [(3, 4), (5,), (2, 2, 3, 3), (3, 4), ()]


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("momentum", [False, True])
def test_state_of_optimizers(name: str, momentum: bool) -> None:
    if momentum and name not in ("sgd", "rmsprop"):
        pytest.skip("has no momentum of its own")
    shapes = [s for s in SHAPES if len(s) == 2] if name == "muon" else SHAPES
    parameters = [nn.Parameter(torch.rand(s)) for s in shapes]
    item = Item(name, {"lr": 0.1} | ({"momentum": 0.9} if momentum else {}))
    for p in parameters:
        p.grad = torch.ones_like(p).to_sparse() if name == "sparseadam" else torch.ones_like(p)
    optimizer = build_optimizer(item.name, item.arguments, parameters)
    optimizer.step()
    kept = size_of(v for e in optimizer.state.values() for v in e.values() if isinstance(v, torch.Tensor))
    assert sum(size_of(state_of(item.name, item.arguments, p).values()) for p in parameters) == kept


PLAN = """\
data digits = digits { limit = 200 }
teacher big = mlp(inputs = 64, hidden = [40])
student small = mlp(inputs = 64, hidden = [20, 30])
recipe quick { optimizer = OPTIMIZER  epochs = 2  batch = 50  OTHER }
phase train of big on digits with quick { loss = cross_entropy(big.logits, labels) }
phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + mse(small.logits, big@train.logits)
}
"""


@pytest.mark.parametrize("optimizer", ["sgd(lr = 0.1)", "sgd(lr = 0.1, momentum = 0.9)", "adam(lr = 0.01)"])
@pytest.mark.parametrize("other", ["", "ema = 0.9", "on_nan = rollback"])
def test_copies_of_a_phase(tmp_path: Path, optimizer: str, other: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """By byte, in a phase alone and in one with a frozen teacher."""
    monkeypatch.setattr(saving, "AT_ONCE", 0)
    monkeypatch.setattr(held, "AT_ONCE", 0)
    (tmp_path / "a.kd").write_text(PLAN.replace("OPTIMIZER", optimizer).replace("OTHER", other))
    arguments = parser().parse_args(["run", str(tmp_path / "a.kd")])
    compiled = compile_file(arguments)
    inspect(compiled)
    kept: dict[str, int] = {}
    save = Training.save

    def watched(self: Training, at_once: bool = False) -> None:
        save(self, at_once)
        back = self.recovery._back
        kept[self.job.name] = size_of(self.saving.copies._kept.values()) + (size_of(back[0].values()) if back else 0)

    monkeypatch.setattr(Training, "save", watched)
    options = RunOptions(device="cpu", checkpoint_steps=5)
    result = run_plan(compiled.plan, compiled.planned, compiled.keys, Store(tmp_path / "store"), options)
    assert not result.failed
    assert kept == {name: p.cost.copy_bytes for name, p in compiled.planned.items() if p.cost is not None}
    assert len(kept) == 2 and all(kept.values())


def test_small_states_are_not_copied() -> None:
    """Those that are written at once."""
    assert held.AT_ONCE == saving.AT_ONCE == 4_000_000
