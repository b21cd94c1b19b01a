"""The policies of `on_nan`: what a step that is skipped changes, and what a phase goes back to."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from kdplan.diagnostics.report import PlanError
from kdplan.ir.plan import Item, Recipe
from kdplan.runtime.events import NoEvents
from kdplan.runtime.interrupt import Interrupted
from kdplan.runtime.loop import Training
from kdplan.runtime.store import Store
from tests.runtime.small import TrainableGraph, job, network, phase_graph, recipe, same, train
from tests.runtime.test_resume import StopAt

SKIP, BACK = Item("skip"), Item("rollback", {"times": 2})


class Broken(TrainableGraph):
    """NaN in the loss or in its gradient where the first labels of a batch are these."""

    def __init__(self, net: torch.nn.Module, labels: list[int], where: str) -> None:
        super().__init__(net)
        self.labels, self.where = labels, where

    def forward(self, inputs_0: Tensor, labels_0: Tensor) -> dict[str, Tensor]:
        terms = super().forward(inputs_0, labels_0)
        if labels_0[: len(self.labels)].tolist() == self.labels:
            if self.where == "loss":
                return {n: t * float("nan") for n, t in terms.items()}
            terms["loss"].register_hook(lambda gradient: gradient * float("nan"))
        return terms


def changed(settings: Recipe, labels: list[int], where: str = "loss", **options: Any) -> tuple[Any, dict[str, Any]]:
    net = network()
    phase = phase_graph(net)
    phase.trainable_graph = phase.root = Broken(net, labels, where)
    return net, options | {"phase_graph": phase}


def first_labels(step: int, settings: Recipe, count: int = 3) -> list[int]:
    """The first labels of a step's batch."""
    from tests.runtime.small import streams

    per_epoch = streams(settings).steps
    batch = next(streams(settings).epoch(*divmod(step, per_epoch)))
    return batch["labels_0"][:count].tolist()  # type: ignore[no-any-return]


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("optimizer", ["sgd", "adam"])
def test_a_skipped_step_changes_nothing(tmp_path: Path, where: str, optimizer: str) -> None:
    """The last of eight steps is skipped: what is left is the seventh's, buffers and averages included."""
    made = {"optimizer": Item(optimizer, {"lr": 0.01}), "epochs": None, "on_nan": SKIP, "ema": 0.5}
    short, long = recipe(**made, steps=7), recipe(**made, steps=8)
    net, options = changed(long, first_labels(7, long), where)
    ended = train(tmp_path / "long", long, net, **options)
    plain = network()
    before = train(tmp_path / "short", short, plain)
    assert ended.step == 8 and same(net, plain)
    assert ended.averages.slots[0].updates == before.averages.slots[0].updates == 7
    one, other = ended.optimisers.state()[0], before.optimisers.state()[0]
    assert one.keys() == other.keys() and all(torch.equal(one[n], other[n]) for n in one)


def test_the_steps_after_it_are_trained(tmp_path: Path) -> None:
    settings = recipe(on_nan=SKIP)
    net, options = changed(settings, first_labels(3, settings))
    ended = train(tmp_path, settings, net, **options)
    assert ended.step == 10 and all(bool(p.isfinite().all()) for p in net.parameters())
    lines = ended.history
    assert [line["skipped"] for line in lines] == [1, 0]
    assert all(line["loss"] == line["loss"] for line in lines)


def test_a_policy_that_has_nothing_to_do_changes_no_bit(tmp_path: Path) -> None:
    plain = network()
    train(tmp_path / "stop", recipe(), plain)
    for policy in (SKIP, BACK):
        net = network()
        train(tmp_path / policy.name, recipe(on_nan=policy), net)
        assert same(net, plain)


def test_an_epoch_without_a_step(tmp_path: Path) -> None:
    settings = recipe(on_nan=SKIP)
    net, options = changed(settings, [])
    with pytest.raises(PlanError, match=r"KD0827.*epoch 1"):
        train(tmp_path, settings, net, **options)


class Notes(NoEvents):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("where", ["loss", "gradient"])
@pytest.mark.parametrize("step", [1, 7])
def test_goes_back_and_on(tmp_path: Path, where: str, step: int) -> None:
    settings, events = recipe(on_nan=BACK), Notes()
    net, options = changed(settings, first_labels(step, settings, 4), where, events=events)
    ended = train(tmp_path, settings, net, **options)
    assert ended.step == 10 and ended.recovery.rollbacks == 1
    (note,) = events.notes
    assert note.startswith("KD0828: ") and f"to step {step // 5 * 5}, 1 time left" in note
    lines = ended.history
    assert [(line["epoch"], line["rollbacks"]) for line in lines] == [(1, int(step < 5)), (2, 1)]
    plain = network()
    train(tmp_path / "plain", recipe(), plain)
    assert not same(net, plain)


def test_goes_back_no_more_often_than_it_may(tmp_path: Path) -> None:
    settings, events = recipe(on_nan=BACK), Notes()
    net, options = changed(settings, [], events=events)
    with pytest.raises(PlanError, match="KD0820"):
        train(tmp_path, settings, net, **options)
    assert len(events.notes) == 2


@pytest.mark.parametrize(("policy", "step"), [(SKIP, 1), (SKIP, 7), (BACK, 1), (BACK, 7)])
def test_resumed_equals_uninterrupted(tmp_path: Path, policy: Item, step: int) -> None:
    """Stopped before, at and after the step that is not finite."""
    settings = recipe(on_nan=policy, ema=0.9)
    labels = first_labels(step, settings, 4)
    whole, options = changed(settings, labels)
    one = train(tmp_path / "a", settings, whole, **options)
    for stop in (1, 3, 6, 8):
        interrupt = StopAt(stop)
        with Store(tmp_path / "b").begin("k") as work:
            net, options = changed(settings, labels)
            training = Training(job(work, settings, net, interrupt=interrupt, **options))
            interrupt.training = training
            with pytest.raises((Interrupted, PlanError)):
                training.run()
    parts, options = changed(settings, labels)
    other = train(tmp_path / "b", settings, parts, **options)
    assert same(whole, parts)
    a, b = ([{k: v for k, v in r.items() if k != "seconds"} for r in ended.history] for ended in (one, other))
    assert a == b and len(a) == 2
