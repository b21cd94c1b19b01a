"""Networks that start from weights files as people have them."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdplan.compile import Compiled, compile_source, inspect
from kdplan.diagnostics.report import Diagnostic, PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir.expr import Version
from kdplan.nn.models import create, initialise
from kdplan.runtime.networks import materialise
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources

State = dict[str, Tensor]
PLAN = """
data digits = digits
recipe quick {{ optimizer = sgd(lr = 0.1)  steps = 2 }}
teacher big = {model} {{ {settings} }}
student small = digits_net(width = 2)
phase kd of small on digits with quick {{ loss = kl(big.logits, small.logits) }}
measure table of big, small@kd on digits.test {{ top1 }}
export out = big
"""


def weights(classes: int = 10, seed: int = 5) -> State:
    return dict(initialise(lambda: create("digits_net", width=4, classes=classes), seed).state_dict())


def compiled(folder: Path, settings: str, model: str = "digits_net(width = 4)") -> Compiled:
    plan = compile_source(Source("plan.kd", PLAN.format(model=model, settings=settings)), folder)
    inspect(plan)
    return plan


def start(folder: Path, plan: Compiled) -> State:
    return dict(materialise(Sources(plan.plan, Store(folder / "store"), plan.keys), Version("big")).state_dict())


def problem(folder: Path, settings: str, model: str = "digits_net(width = 4)") -> Diagnostic:
    with pytest.raises(PlanError) as raised:
        compiled(folder, settings, model)
    [diagnostic] = raised.value.diagnostics
    return diagnostic


def same(a: State, b: State) -> bool:
    return a.keys() == b.keys() and all(torch.equal(t, b[n]) for n, t in a.items())


def prefixed(prefix: str) -> State:
    return {prefix + n: t for n, t in weights().items()}


@pytest.mark.parametrize(
    ("content", "notes"),
    [
        (weights(), "all tensors"),
        (prefixed("module."), "prefix `module.` removed"),
        (prefixed("model."), "prefix `model.` removed"),
        (prefixed("_orig_mod."), "prefix `_orig_mod.` removed"),
        (prefixed("module._orig_mod."), "prefix `module.` removed, prefix `_orig_mod.` removed"),
        ({"epoch": 3, "state_dict": prefixed("module.")}, "the tensors are in its entry `state_dict`, prefix"),
        ({"model": weights(), "optimizer": {"lr": 0.1}}, "the tensors are in its entry `model`"),
        (
            {"pytorch-lightning_version": "2.0", "state_dict": prefixed("net.")},
            "it is a checkpoint of Lightning, the tensors are in its entry `state_dict`, prefix `net.` removed",
        ),
    ],
)
def test_files_as_training_scripts_write_them(tmp_path: Path, content: object, notes: str) -> None:
    torch.save(content, tmp_path / "w.pth")
    plan = compiled(tmp_path, 'weights = "w.pth"')
    assert same(start(tmp_path, plan), weights())
    assert plan.files[0].startswith(f"big from w.pth: {notes}")


def test_every_tensor_that_does_not_fit_is_listed(tmp_path: Path) -> None:
    state = {n: t for n, t in weights(classes=5).items() if not n.startswith("stem.")}
    torch.save({**state, "extra.weight": torch.zeros(1)}, tmp_path / "w.pth")
    message = problem(tmp_path, 'weights = "w.pth"')
    assert message.code == "KD0830" and message.span is not None and message.span.text == '"w.pth"'
    missing = sorted(n for n in weights() if n.startswith("stem.") and "num_batches" not in n)
    listed = " ".join([message.message, *(note.text for note in message.notes)])
    assert missing and all(name in listed for name in [*missing, "extra.weight", "fc.weight", "fc.bias"])
