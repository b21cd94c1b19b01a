"""What `plan` says a phase will take on disk is what it takes: to the byte, for its files of tensors."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdplan.cli import main
from kdplan.cli.inputs import add_costs, compile_file, open_store
from kdplan.cli.parser import parser
from kdplan.ir.optimizers import OPTIMIZERS
from kdplan.nn.optim import build_optimizer, state_of

PLAN = """
data digits = digits {{ limit = 128 }}
recipe quick {{ {recipe}  epochs = {epochs}  batch = 64 }}
teacher big = digits_net(width = 4, blocks = 1) {{
  phase train on digits with quick {{ loss = cross_entropy(self.logits, labels) {more} }}
}}
student small = digits_net(width = 3)
phase distil of small on digits with quick {{
  loss = kd(small.logits, big.logits, temperature = 4) + mse(fit(small.layer2, like = big.layer2), big.layer2)
}}
"""


@pytest.mark.parametrize(
    ("recipe", "epochs", "more"),
    [
        ("optimizer = sgd(lr = 0.01)  schedule = cosine()", 1, ""),
        ("optimizer = sgd(lr = 0.01, momentum = 0.9)", 1, ""),
        ("optimizer = adam(lr = 0.01, amsgrad = true)  ema = 0.9", 2, "measure each of self on digits.test { top1 }"),
        ("optimizer = adafactor(lr = 0.01)  keep_epochs = [1, 2]", 2, ""),
        (
            "optimizer = rmsprop(lr = 0.01, centered = true, momentum = 0.5)  schedule = cosine(cycles = 2)  ema = 0.5",
            3,
            "",
        ),
    ],
)
def test_the_disk_column_is_true(
    recipe: str, epochs: int, more: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("plan.kd").write_text(PLAN.format(recipe=recipe, epochs=epochs, more=more), encoding="utf-8")
    arguments = parser().parse_args(["plan", "plan.kd"])
    compiled = compile_file(arguments, open_store(arguments))
    add_costs(compiled, open_store(arguments))
    assert main(["run", "plan.kd"]) == 0
    store = open_store(arguments)
    for name, step in compiled.planned.items():
        files = list(store.phase_folder(step.key).glob("*.safetensors"))
        assert step.cost is not None
        assert step.cost.disk_bytes == sum(f.stat().st_size for f in files), (name, [f.name for f in files])
        final = [f.stat().st_size for f in files if f.name == "final.safetensors"]
        assert step.cost.last_state_bytes == sum(final)


@pytest.mark.parametrize("name", sorted(OPTIMIZERS))
@pytest.mark.parametrize("shape", [(5, 3), (7,), (4, 3, 2, 2)])
def test_the_state_of_every_optimizer(name: str, shape: tuple[int, ...]) -> None:
    for momentum in (0.0, 0.9):
        settings = {"lr": 0.01} | (
            {"momentum": momentum} if "momentum" in {p.name for p in OPTIMIZERS[name].params} else {}
        )
        p = torch.nn.Parameter(torch.ones(shape))
        p.grad = torch.ones(shape).to_sparse() if name == "sparseadam" else torch.ones(shape)
        try:
            optimizer = build_optimizer(name, settings, [p])
        except ValueError:
            assert state_of(name, settings, p) == {}
            continue
        optimizer.step()
        real = {k: (v.shape, v.dtype) for k, v in optimizer.state[p].items() if isinstance(v, torch.Tensor)}
        assert {k: (v.shape, v.dtype) for k, v in state_of(name, settings, p).items()} == real
