"""Weights and buffers that are not finite are in no checkpoint, snapshot or artifact."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor

from kdplan.diagnostics.report import PlanError
from kdplan.runtime.store import Store
from tests.runtime.small import TrainableGraph, network, phase_graph, recipe, train


class Late(TrainableGraph):
    """A finite loss whose gradient is NaN at one call."""

    calls, at = 0, 8

    def forward(self, inputs_0: Tensor, labels_0: Tensor) -> dict[str, Tensor]:
        self.calls += 1
        terms = super().forward(inputs_0, labels_0)
        if self.calls == self.at:
            terms["loss"].register_hook(lambda gradient: gradient * float("nan"))
        return terms


class Buffered(TrainableGraph):
    """A buffer that becomes infinite, and one that is so from the start."""

    def __init__(self, net: torch.nn.Module) -> None:
        super().__init__(net)
        self.register_buffer("mask", torch.tensor([0.0, -float("inf")]))
        self.register_buffer("largest", torch.ones(1))

    def forward(self, inputs_0: Tensor, labels_0: Tensor) -> dict[str, Tensor]:
        self.largest.mul_(1e30)
        return super().forward(inputs_0, labels_0)


def failed(folder: Path, graph: type[TrainableGraph], **options: object) -> str:
    phase = phase_graph(network())
    phase.trainable_graph = phase.root = graph(phase.networks[0])
    with pytest.raises(PlanError) as problem:
        train(folder, recipe(epochs=2), network(), phase_graph=phase, **options)
    (diagnostic,) = problem.value.diagnostics
    assert diagnostic.code == "KD0826"
    return diagnostic.message


def test_a_gradient_that_is_not_finite_in_the_last_step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    result = train(tmp_path / "plain", recipe(epochs=2), network())
    monkeypatch.setattr(Late, "at", result.step)
    assert f"after step {result.step}" in failed(tmp_path, Late, checkpoint_seconds=0)
    assert not Store(tmp_path).has("k") and Store(tmp_path).resume_step("k") == result.step - 1


def test_a_buffer_that_is_not_finite(tmp_path: Path) -> None:
    assert "`largest`" in failed(tmp_path, Buffered)
