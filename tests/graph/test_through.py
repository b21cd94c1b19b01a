"""Networks entered at a tap: the same as calling the rest of their modules; what cannot be entered."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from kdplan.graph.build import Builder, PastError, ShapeError
from kdplan.graph.prune import prune
from kdplan.graph.taps import TapError
from kdplan.nn.models import create
from tests.passes.plans import BIG, HEAD, codes, keys


class Shortcut(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = nn.Linear(4, 4), nn.Linear(4, 4), nn.Linear(4, 2)

    def forward(self, x: Tensor) -> Tensor:
        y = self.a(x).relu_()
        found: Tensor = self.c(self.b(y) + y)
        return found


def test_it_is_the_rest_of_the_network() -> None:
    net = create("alexnet", width=0.0625, classes=5).eval()
    builder = Builder()
    images, x = torch.zeros(2, 3, 67, 67), torch.randn(2, 12, 7, 7)
    node = builder.input("x", x)
    builder.network("net", net)
    found = builder.apply_since("net", "conv2", images, node, "logits")
    early = builder.apply_since("net", "conv2", images, node, "conv3")
    joined = builder.finish({"logits": found, "conv3": early})
    graph = prune(joined.graph_module).graph_module
    value = graph(x=x)
    rest = net[4:]  # type: ignore[index]
    assert torch.equal(value["logits"], rest(x.clone()))
    assert torch.equal(value["conv3"], net.conv3(net.pool2(x.relu())))  # type: ignore[operator]
    assert "conv1" not in str(graph.graph)


def test_what_cannot_be_entered() -> None:
    builder = Builder()
    images = torch.zeros(3, 4)
    x, y = builder.input("x", torch.zeros(3, 4)), builder.input("y", torch.zeros(3, 5))
    builder.network("net", Shortcut())
    assert builder.apply_since("net", "a", images, x, "output").meta["val"].shape == (3, 2)
    with pytest.raises(PastError):
        builder.apply_since("net", "b", images, x, "output")
    with pytest.raises(PastError):
        builder.apply_since("net", "c", images, builder.input("z", torch.zeros(3, 2)), "a")
    with pytest.raises(ShapeError):
        builder.apply_since("net", "a", images, y, "output")
    with pytest.raises(TapError):
        builder.apply_since("net", "d", images, x, "output")


def test_in_plans() -> None:
    def text(loss: str) -> str:
        return f"{HEAD}{BIG}phase p of small on digits with quick {{ loss = {loss} }}\n"

    one = keys(text("kl(small.logits, through(small.layer1, small.logits, from = small.layer1))"))["p"]
    other = keys(text("kl(small.logits, through(small.layer1, small.logits, from = layer1))"))["p"]
    third = keys(text("kl(small.logits, through(small.layer1, small.logits, from = layer2))"))["p"]
    assert one == other != third
    assert codes(text("mean(through(small.layer1, small.logits))")) == ["KD0237"]
    assert codes(text("mean(through(small.layer1, small, from = layer1))")) == ["KD0251"]
