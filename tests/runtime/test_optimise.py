"""Optimizer state that is named by parameter."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.view import ViewSpec
from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.plan import Item
from kdplan.ir.seed import fold
from kdplan.runtime.checkpoint import reseed
from kdplan.runtime.optimise import Optimisers, load_named_state, named_state
from tests.runtime.small import TrainableGraph, network, phase_graph, recipe, same, train


def test_state_is_found_by_name_whatever_the_order() -> None:
    nets = [network(0), network(0)]
    named = [dict(n.named_parameters()) for n in nets]
    first = torch.optim.Adam(named[0].values(), lr=0.1, betas=(0.8, 0.9))
    for p in named[0].values():
        p.grad = torch.randn_like(p)
    first.step()
    tensors, plain = named_state(first, {id(p): n for n, p in named[0].items()})
    assert "0.weight/exp_avg" in tensors and "5.bias/step" in tensors
    second = torch.optim.Adam([*named[1].values()][::-1], lr=0.5)
    load_named_state(second, named[1], tensors, plain)
    assert second.param_groups[0]["lr"] == 0.1 and second.param_groups[0]["betas"] == (0.8, 0.9)
    for name, p in named[1].items():
        for key, value in first.state[named[0][name]].items():
            assert torch.equal(second.state[p][key], value)


def test_each_move_has_its_own_optimizer(tmp_path) -> None:  # type: ignore[no-untyped-def]
    """Two networks that learn from each other, with two rates, against a loop written by hand."""

    class Two(nn.Module):
        def __init__(self, a: nn.Module, b: nn.Module) -> None:
            super().__init__()
            self.a, self.b = a, b

        def forward(self, inputs_0: Tensor, labels_0: Tensor) -> dict[str, Tensor]:
            a, b = self.a(inputs_0), self.b(inputs_0)
            together = F.mse_loss(a, b)
            return {"loss": F.cross_entropy(a, labels_0) + F.cross_entropy(b, labels_0) + together, "mse": together}

    recipes = [recipe(), recipe(optimizer=Item("adam", {"lr": 0.01}), schedule=Item("steps", {"at": [1]}))]
    trainable_graph = Two(network(0), network(1))
    trainable = [dict(trainable_graph.a.named_parameters()), dict(trainable_graph.b.named_parameters())]
    phase = PhaseGraph(
        trainable_graph,
        trainable_graph,
        [trainable_graph.a, trainable_graph.b],
        trainable,
        trainable_inputs=["inputs_0", "labels_0"],
    )
    train(tmp_path, recipes[0], trainable_graph.a, phase_graph=phase, recipes=recipes)

    by_hand = Two(network(0), network(1)).train()
    sgd = torch.optim.SGD(by_hand.a.parameters(), lr=0.05, momentum=0.9, fused=True)
    adam = torch.optim.Adam(by_hand.b.parameters(), lr=0.01, fused=True)
    loader = Loader(open_view(ViewSpec("digits", limit=300), None), 64, 3, train=True)
    for epoch in range(2):
        adam.param_groups[0]["lr"] = 0.01 * 0.1**epoch
        for i, batch in enumerate(loader.epoch(epoch)):
            reseed(fold(3, "step", epoch * 5 + i), torch.device("cpu"))
            sgd.zero_grad()
            adam.zero_grad()
            by_hand(batch["inputs"], batch["labels"])["loss"].backward()
            sgd.step()
            adam.step()
    assert same(trainable_graph, by_hand)


def test_clip_is_by_the_common_norm_of_all_parameters() -> None:
    net = network()
    phase = phase_graph(net)
    extra = nn.Parameter(torch.ones(3))
    phase.adapters["fit.weight"] = extra
    optimisers = Optimisers(phase, [recipe(clip=1.0, optimizer=Item("sgd", {"lr": 1.0}))], 5, 10)
    before = {n: p.detach().clone() for n, p in phase.named_trainable().items()}
    assert "splice/fit.weight" in before
    optimisers.start_step(0)
    for p in phase.named_trainable().values():
        p.grad = torch.full_like(p, 2.0)
    optimisers.finish_step(torch.amp.GradScaler("cpu", enabled=False))
    trained = torch.cat([(before[n] - p).flatten() for n, p in phase.named_trainable().items()])
    assert trained.norm().item() == pytest.approx(1.0, rel=1e-4)
    assert trained.std().item() < 1e-6
    assert isinstance(phase.trainable_graph, TrainableGraph)
