"""Random draws and contexts of a user's `forward` are those of a plain PyTorch loop."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.graph.build import Builder
from kdplan.graph.trace import trace
from tests.conformance.plain import batches, by_graph, compare, loop, same


class Layers(nn.Module):
    """Layers that are dropped at random, by one of the generators."""

    def __init__(self, draw: str) -> None:
        super().__init__()
        self.draw = draw
        self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.first, self.second):
            number = {"python": random.random, "numpy": np.random.rand, "torch": lambda: float(torch.rand(()))}
            if number[self.draw]() < 0.5:
                x = x + layer(x)
        return x * self.first.weight.sum() + self.second.bias


class Dropped(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body, self.drop, self.head = nn.Linear(4, 8), nn.Dropout(0.5), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        noise = torch.randn(x.shape[0], 8)
        return self.head(self.drop(self.body(x)) + F.dropout(noise, 0.2, self.training))


class Precise(nn.Module):
    """A part that is meant to be exact."""

    def __init__(self) -> None:
        super().__init__()
        self.body, self.head = nn.Linear(4, 8), nn.Linear(8, 4)

    def forward(self, x: Tensor) -> Tensor:
        x = self.body(x)
        with torch.autocast("cpu", enabled=False):
            return self.head(x.float())


class Seeded(nn.Module):
    """The same noise in every step, and a generator that nobody else notices."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(3)
            noise = torch.randn(4)
        return self.head(x) + noise


@pytest.mark.parametrize("draw", ["python", "numpy", "torch"])
def test_layers_that_are_dropped_at_random(draw: str) -> None:
    compare(lambda: Layers(draw), steps=6)


def test_dropout_and_noise_draw_in_the_same_order() -> None:
    compare(Dropped)


def test_a_forked_generator() -> None:
    compare(Seeded)


def test_tracing_draws_nothing() -> None:
    random.seed(1)
    np.random.seed(1)
    expected = (random.random(), np.random.rand())
    random.seed(1)
    np.random.seed(1)
    trace(Layers("python"), torch.zeros(6, 4))
    trace(Layers("numpy"), torch.zeros(6, 4))
    assert (random.random(), np.random.rand()) == expected


def test_autocast_around_a_part() -> None:
    torch.manual_seed(0)
    net, plain = Precise(), Precise()
    plain.load_state_dict(net.state_dict())
    data = batches(3)
    by = by_graph(net, *data[0])

    def mixed(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return by(x, y)

    def expected(x: Tensor, y: Tensor) -> Tensor:
        with torch.autocast("cpu", torch.bfloat16):
            return F.cross_entropy(plain(x), y)

    same(loop(net, mixed, data), loop(plain, expected, data))


def test_two_calls_draw_twice_only_where_they_draw() -> None:
    for make, calls in ((Dropped, 2), (Precise, 1)):
        b = Builder()
        x = b.input("inputs_0", torch.zeros(6, 4))
        b.network("n", make().train())
        first, again, second = (b.apply("n", (x,), call=call) for call in (0, 0, 1))
        assert first is again
        assert len({first, second}) == calls, make


def test_two_calls_are_those_of_a_plain_loop() -> None:
    torch.manual_seed(0)
    net, plain = Dropped(), Dropped()
    plain.load_state_dict(net.state_dict())
    data = batches(3)
    b = Builder()
    x = b.input("inputs_0", data[0][0])
    b.network("n", net)
    gm = b.finish({"loss": b.call(F.mse_loss, b.apply("n", (x,)), b.apply("n", (x,), call=1))}).graph_module
    ours = loop(net, lambda x, _: gm(inputs_0=x)["loss"], data)
    same(ours, loop(plain, lambda x, _: F.mse_loss(plain(x), plain(x)), data))
    assert all(loss > 0 for loss in ours.losses)
