"""The loop against loops written by hand: averages, accumulation, plateaus, lengths, losses that break."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.diagnostics.report import PlanError
from kdplan.graph.phase_graph import EmaCopy, PhaseGraph
from kdplan.ir.plan import Item, Recipe
from kdplan.ir.seed import fold
from kdplan.runtime.averages import update_ema_copy
from kdplan.runtime.checkpoint import reseed
from kdplan.runtime.loop import Training
from kdplan.runtime.store import Store
from tests.runtime.small import TrainableGraph, job, network, phase_graph, recipe, same, streams, train


def by_hand(change: Recipe, net: nn.Module, after=lambda: None) -> list[float]:  # type: ignore[no-untyped-def]
    """Trains with momentum SGD, whole batches; the mean loss of each epoch."""
    net.train()
    sgd = torch.optim.SGD(net.parameters(), **change.optimizer.arguments, fused=True)
    losses, step, data = [], 0, streams(change)
    for epoch in range(change.epochs or 0):
        total = count = 0.0
        for batch in data.epoch(epoch):
            reseed(fold(3, "step", step), torch.device("cpu"))
            sgd.zero_grad()
            loss = F.cross_entropy(net(batch["inputs_0"]), batch["labels_0"])
            loss.backward()  # type: ignore[no-untyped-call]
            sgd.step()
            after()
            total += loss.item() * len(batch["labels_0"])
            count += len(batch["labels_0"])
            step += 1
        losses.append(total / count)
    return losses


def test_equals_a_loop_written_by_hand(tmp_path: Path) -> None:
    ours, theirs = network(), network()
    training = train(tmp_path, recipe(), ours)
    losses = by_hand(recipe(), theirs)
    assert same(ours, theirs)
    assert [r["loss"] for r in training.history] == pytest.approx(losses, rel=1e-6)
    assert training.step == 10 and [r["step"] for r in training.history] == [5, 10]


def test_accumulation_equals_the_big_batch(tmp_path: Path) -> None:
    """300 images in steps of 128: three steps an epoch, the last of 44 in parts of 32 and 12."""

    def plain() -> nn.Module:  # no batch norm, no dropout: nothing that looks at the parts
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(64, 20), nn.ReLU(), nn.Linear(20, 10))

    big, parts = plain(), plain()
    train(tmp_path / "a", recipe(batch=128), big)
    training = train(tmp_path / "b", recipe(batch=32, accumulate=4), parts)
    assert training.step == 6
    for a, b in zip(big.parameters(), parts.parameters(), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_average_of_weights(tmp_path: Path) -> None:
    net, other = network(), network()
    training = train(tmp_path, recipe(ema=0.7), net)
    average = {k: v.clone() for k, v in other.state_dict().items()}
    updates = 0

    def after() -> None:
        nonlocal updates
        decay = min(0.7, (1 + updates) / (10 + updates))
        updates += 1
        for name, value in other.state_dict().items():
            if value.is_floating_point():
                average[name] = decay * average[name] + (1 - decay) * value
            else:
                average[name] = value.clone()

    by_hand(recipe(), other, after)
    for name, value in training.averages.weights(0).items():
        torch.testing.assert_close(value, average[name], rtol=1e-5, atol=1e-6)
    assert (0, "ema") in training.weights()


def test_ema_copy_is_saved_and_resumes(tmp_path: Path) -> None:
    """An EMA copy is part of the phase's state."""

    def phase() -> PhaseGraph:
        net, slow = network(0), network(0)
        a = phase_graph(net)
        a.root.add_module("slow", slow)
        a.ema_copies.append(EmaCopy("slow", slow, net, 0.9))
        return a

    whole, first, second = phase(), phase(), phase()
    train(tmp_path / "a", recipe(), whole.networks[0], phase_graph=whole)
    with Store(tmp_path / "b").begin("k") as work:
        training = Training(job(work, recipe(), network(), phase_graph=first))
        for batch in list(streams(recipe()).epoch(0))[:3]:
            training.train_step(batch)
            training.step += 1
        training.save()
    train(tmp_path / "b", recipe(), network(), phase_graph=second)
    assert same(whole.ema_copies[0].module, second.ema_copies[0].module)
    assert not same(whole.ema_copies[0].module, whole.networks[0])
    slow, fast = nn.Linear(1, 1), nn.Linear(1, 1)
    expected = 0.75 * slow.weight.item() + 0.25 * fast.weight.item()
    update_ema_copy(EmaCopy("f", slow, fast, 0.75))
    assert slow.weight.item() == pytest.approx(expected)


def test_plateau_ends_the_phase(tmp_path: Path) -> None:
    change = recipe(
        epochs=None,
        optimizer=Item("sgd", {"lr": 1e-9}),
        schedule=Item("plateau", {"patience": 1, "until": 1e-11, "min_delta": 0.5}),
    )
    training = train(tmp_path, change, network())
    assert [r["lr"] for r in training.history] == pytest.approx([1e-9, 1e-9, 1e-10])
    assert training.total is None and training.step == 15


def test_length_in_steps(tmp_path: Path) -> None:
    training = train(tmp_path, recipe(epochs=None, steps=7, schedule=Item("linear")), network())
    assert training.step == 7 and [r["step"] for r in training.history] == [5, 7]
    assert training.optimisers.schedules[0].lr_factor(7 / 5) == 0


def test_channels_last_and_half_precision_train(tmp_path: Path) -> None:
    first = train(tmp_path / "a", recipe(layout="channels_last", precision="bf16"), network())
    second = train(tmp_path / "b", recipe(precision="fp16"), network())
    third = train(tmp_path / "c", recipe(), network())
    for training in (first, second):
        assert training.history[-1]["loss"] == pytest.approx(third.history[-1]["loss"], rel=0.05)
    assert second.scaler.is_enabled() and first.trainable_graph is not None


def test_scaler_goes_on(tmp_path: Path) -> None:
    with Store(tmp_path).begin("k") as work:
        training = Training(job(work, recipe(precision="fp16"), network()))
        training.train_step(next(streams(recipe()).epoch(0)))
        training.step = 1
        training.scaler.update(1024.0)
        training.save()
        again = Training(job(work, recipe(precision="fp16"), network()))
    assert again.scaler.get_scale() == 1024.0 and again.step == 1


class Breaks(TrainableGraph):
    """A term that is infinite from the seventh call on, in a loss that is then NaN."""

    calls = 0

    def forward(self, inputs_0: Tensor, labels_0: Tensor) -> dict[str, Tensor]:
        terms = super().forward(inputs_0, labels_0)
        self.calls += 1
        odd = terms["hard"] * (float("inf") if self.calls >= 7 else 1.0)
        return {"loss": terms["hard"] + odd - odd, "hard": terms["hard"], "odd": odd}


def test_loss_that_is_not_finite(tmp_path: Path) -> None:
    phase = phase_graph(network())
    phase.trainable_graph = phase.root = Breaks(phase.networks[0])
    with pytest.raises(PlanError) as problem:
        train(tmp_path, recipe(epochs=4), network(), phase_graph=phase, checkpoint_seconds=0, progress_seconds=1000)
    diagnostic = problem.value.diagnostics[0]
    assert diagnostic.code == "KD0820" and "is NaN from step 6 on (epoch 2; first `odd`)" in diagnostic.message
    assert Store(tmp_path).resume_step("k") == 6  # six good steps were done


def test_frozen_graph_runs_without_gradients(tmp_path: Path) -> None:
    class Frozen(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, inputs_0: Tensor) -> dict[str, Tensor]:
            assert not torch.is_grad_enabled()
            return {"crossing": self.net(inputs_0)}

    class Copying(nn.Module):
        def __init__(self, net: nn.Module) -> None:
            super().__init__()
            self.net = net

        def forward(self, inputs_0: Tensor, crossing: Tensor, epoch: Tensor, progress: Tensor) -> dict[str, Tensor]:
            assert epoch.shape == () and 0 <= progress.item() < 1
            return {"loss": F.mse_loss(self.net(inputs_0), crossing) * (1 + epoch), "epoch": epoch}

    teacher, student = network(1), network(2)
    before = {k: v.clone() for k, v in teacher.state_dict().items()}
    phase = PhaseGraph(
        trainable_graph=Copying(student),
        frozen=Frozen(teacher),
        root=nn.ModuleList([teacher, student]),
        networks=[student],
        trainable=[dict(student.named_parameters())],
        trainable_inputs=["inputs_0", "crossing", "epoch", "progress"],
        frozen_inputs=["inputs_0"],
    )
    training = train(tmp_path, recipe(), student, phase_graph=phase)
    assert all(torch.equal(before[k], v) for k, v in teacher.state_dict().items())
    assert not any(p.requires_grad for p in teacher.parameters()) and not teacher.training
    assert [(r["epoch"], r["terms"]["epoch"]) for r in training.history] == [(1, 0.0), (2, 1.0)]


def test_compiler_that_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real = torch.compile

    def broken(graph: object, inputs: object) -> object:
        raise RuntimeError("no compiler found")

    monkeypatch.setattr(torch, "compile", lambda module, **options: real(module, backend=broken, **options))
    with pytest.raises(PlanError) as problem:
        train(tmp_path, recipe(compile=True), network())
    assert problem.value.diagnostics[0].code == "KD0812" and "no compiler found" in str(problem.value)


@pytest.mark.slow
def test_compiled_phase_trains(tmp_path: Path) -> None:
    a = train(tmp_path / "a", recipe(compile=True), network())
    b = train(tmp_path / "b", recipe(), network())
    assert a.history[0]["loss"] == pytest.approx(b.history[0]["loss"], rel=0.05)
