"""The best epoch, epochs that are kept, and what happens to them when a phase goes on from an older checkpoint."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import nn

from kdplan.ir.plan import Item
from kdplan.runtime.checkpoint import plain_tensors
from kdplan.runtime.interrupt import Interrupted
from kdplan.runtime.loop import Training
from kdplan.runtime.snapshots import Snapshots
from kdplan.runtime.store import Store, StoreCorrupt
from tests.runtime.small import job, network, recipe, same, train
from tests.runtime.test_resume import StopAt


def marked(net: nn.Linear, value: float) -> nn.Linear:
    nn.init.constant_(net.weight, value)
    return net


@pytest.mark.parametrize(("larger", "best"), [(True, 2), (False, 4)])
def test_best_is_the_first_of_equals(tmp_path: Path, larger: bool, best: int) -> None:
    net = nn.Linear(1, 1)
    snapshots = Snapshots(tmp_path / "s", [net])
    for epoch, score in enumerate([5.0, 7.0, 7.0, 1.0, float("nan"), 1.0], 1):
        marked(net, epoch)
        snapshots.offer_best(epoch, score, larger)
        snapshots.tidy(snapshots.wanted())
    assert snapshots.best is not None and snapshots.best["epoch"] == best
    (file,) = snapshots.files().items()
    target = tmp_path / "best"
    file[1](target)
    from safetensors.torch import load_file

    assert file[0] == (0, "best") and load_file(target)["weight"].item() == best


def test_files_of_the_checkpoint_before_stay(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    snapshots = Snapshots(tmp_path / "s", [net])
    snapshots.offer_best(1, 1.0, True)
    before = snapshots.state()
    snapshots.tidy(snapshots.wanted())
    snapshots.offer_best(2, 2.0, True)
    snapshots.tidy(snapshots.wanted())  # the checkpoint that speaks of epoch 1 is still the one before
    again = Snapshots(tmp_path / "s", [net])
    again.load_state(before)
    assert (0, "best") in again.files()
    snapshots.tidy(snapshots.wanted())
    with pytest.raises(StoreCorrupt):
        again.files()


def test_altered_snapshot_is_noticed(tmp_path: Path) -> None:
    net = nn.Linear(1, 1)
    snapshots = Snapshots(tmp_path / "s", [net])
    snapshots.keep("epoch=3", 3)
    (file,) = (tmp_path / "s").iterdir()
    file.write_bytes(file.read_bytes()[:-1] + b"\x01")
    with pytest.raises(StoreCorrupt):
        snapshots.files()


def test_epochs_and_cycles_are_kept(tmp_path: Path) -> None:
    change = recipe(epochs=4, keep_epochs=[1], schedule=Item("cosine", {"cycles": 2}))
    training = train(tmp_path, change, network())
    assert set(training.weights()) == {(0, "last"), (0, "epoch=1"), (0, "cycle=1"), (0, "cycle=2")}
    assert training.snapshots.kept == {"epoch=1": 1, "cycle=1": 2, "cycle=2": 4}


def test_damaged_checkpoint_costs_time_only(tmp_path: Path) -> None:
    scores = iter([3.0, 1.0, 2.0, 5.0, 4.0] * 4)
    change = recipe(epochs=5)
    whole, other = network(), network()
    first = train(tmp_path / "a", change, whole, validate=lambda: {"top1": next(scores)})
    scores = iter([3.0, 1.0, 2.0, 5.0, 4.0])
    interrupt = StopAt(17)
    with Store(tmp_path / "b").begin("k") as work:
        training = Training(
            job(
                work,
                change,
                other,
                validate=lambda: {"top1": next(scores)},
                checkpoint_seconds=0,
                interrupt=interrupt,
            )
        )
        interrupt.training = training
        with pytest.raises(Interrupted):
            training.run()
    newest = tmp_path / "b" / "work" / "k" / "checkpoints" / "step-17" / "state.safetensors"
    newest.write_bytes(newest.read_bytes()[:-1])
    again = network(seed=7)
    scores = iter([5.0, 4.0])
    with Store(tmp_path / "b").begin("k") as work:
        training = Training(job(work, change, again, validate=lambda: {"top1": next(scores)}))
        assert training.step == 16 and work.notices
        training.run()
    assert same(whole, again)
    assert training.snapshots.best == first.snapshots.best == {"epoch": 4, "score": 5.0}


def test_tensors_that_share_memory_are_saved_apart() -> None:
    whole = torch.arange(6.0)
    plain = plain_tensors({"a": whole[:3], "b": whole[3:], "c": whole, "t": whole.reshape(2, 3).t()})
    assert [t.tolist() for t in (plain["a"], plain["b"])] == [[0, 1, 2], [3, 4, 5]]
    assert len({t.untyped_storage().data_ptr() for t in plain.values()}) == 4
    assert plain["t"].is_contiguous() and plain["t"].shape == (3, 2)
