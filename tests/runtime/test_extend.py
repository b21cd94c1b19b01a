"""More epochs of a phase whose schedule does not read its length: only the new ones are trained, bit for bit."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from kdplan.cli import main
from kdplan.cli.inputs import compile_file, open_store
from kdplan.cli.parser import parser

PLAN = """
data digits = digits {{ limit = 200  augment = [pad_crop(8, pad = 1)] }}
recipe quick {{
  optimizer = sgd(lr = 0.05, momentum = 0.9)
  schedule = {schedule}
  epochs = {epochs}
  batch = 64
  ema = 0.9
}}
student small = digits_net(width = 2)
phase alone of small on digits with quick {{
  loss = cross_entropy(small.logits, labels)
  measure on digits.test {{ top1 }}
}}
"""


def planned(file: Path, store: Path):
    given = parser().parse_args(["plan", str(file), "--store", str(store)])
    return compile_file(given, open_store(given))


def run(file: Path, store: Path, epochs: int, schedule: str = "steps(at = [1, 3])") -> str:
    """Write and run the plan; gives the action that was planned."""
    file.write_text(PLAN.format(epochs=epochs, schedule=schedule), encoding="utf-8")
    action = planned(file, store).planned["alone"].action
    assert main(["run", str(file), "--store", str(store), "--device", "cpu"]) == 0
    return action


def weights(file: Path, store: Path) -> dict[str, dict[str, torch.Tensor]]:
    built = planned(file, store)
    folder = store / "phases" / built.keys["alone"].key
    return {p.name: load_file(p) for p in sorted(folder.glob("*.safetensors"))}


def test_longer_run_goes_on_and_ends_bit_equal(tmp_path: Path) -> None:
    file, once, twice = tmp_path / "a.kd", tmp_path / "once", tmp_path / "twice"
    assert run(file, twice, 2) == "run"
    assert run(file, twice, 4) == "extend"
    state = weights(file, twice)
    assert run(file, once, 4) == "run"
    wanted = weights(file, once)
    assert state.keys() == wanted.keys() and {"weights-0-best.safetensors", "weights-0-ema.safetensors"} <= state.keys()
    for name, tensors in wanted.items():
        for key, tensor in tensors.items():
            assert torch.equal(tensor, state[name][key]), (name, key)
    built = planned(file, twice)
    metrics = [open_store(parser().parse_args(["plan", str(file), "--store", str(s)])) for s in (once, twice)]
    epochs = [[r["epoch"] for r in store.artifact(built.keys["alone"].key).metrics()] for store in metrics]
    assert epochs == [[1, 2, 3, 4], [1, 2, 3, 4]]


@pytest.mark.parametrize(("schedule", "epochs"), [("cosine()", 2), ("steps(at = [1, 3])", 1)])
def test_other_changes_train_again(tmp_path: Path, schedule: str, epochs: int) -> None:
    """A schedule that reads the length, and fewer epochs, start from the beginning."""
    file, store = tmp_path / "a.kd", tmp_path / "store"
    run(file, store, 1 if schedule == "cosine()" else 2, schedule)
    assert run(file, store, epochs, schedule) == "rerun"
