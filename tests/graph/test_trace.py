"""Tracing: names, control flow, batch sizes, leaves, side effects."""

from __future__ import annotations

from typing import Any, NamedTuple

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.graph.build import Builder, BuildError
from kdplan.graph.taps import TapError
from kdplan.graph.trace import TraceError, trace


class Branching(nn.Module):
    """Control flow on shapes, tensors made from sizes, arithmetic on sizes."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(6, 6)

    def forward(self, x: Tensor) -> Tensor:
        b, n, c = x.shape
        if n > 2 and x.dim() == 3 and c in (4, 6):
            x = self.fc(x)
        position = torch.arange(n, device=x.device).to(x.dtype)
        x = x + position.view(1, n, 1) + torch.zeros(b, n, 1)
        x = x.view(b * n, c).reshape(b, -1)
        assert isinstance(x, Tensor) and isinstance(x.shape, torch.Size)
        return x.sum(1) / int(c)


def test_sizes_stay_in_the_graph() -> None:
    net = Branching()
    t = trace(net, torch.zeros(2, 5, 6))
    assert not t.leaves
    x = torch.randn(7, 5, 6)
    assert torch.equal(t.graph_module(x), net(x))
    assert t.holds_for(x)
    assert not t.holds_for(torch.zeros(7, 2, 6)), "another branch would be taken"


class Picky(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.norm = nn.BatchNorm1d(3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.norm(x) if len(x) > 1 else x
        return y


def test_a_phase_knows_the_batch_sizes_that_it_is_right_for() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(8, 3))
    b.network("n", Picky())
    phase = b.finish({"y": b.apply("n", (x,))})
    # The length itself is what was asked, so another length is another answer.
    assert phase.holds_at(8) and not phase.holds_at(1)


def test_modes_of_replaced_modules_are_put_back() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5, inplace=True))
    b = Builder()
    x = b.input("x", torch.zeros(8, 3))
    b.network("n", net)
    phase = b.finish({"before": b.apply("n", (x,), "0"), "after": b.apply("n", (x,))})
    phase.graph_module.eval()
    phase.set_modes()
    out = phase.graph_module(x=torch.ones(64, 3))
    assert bool((out["after"] == 0).any()) and not bool((out["before"] == 0).any())


class Pair(NamedTuple):
    first: Tensor
    second: dict[str, Tensor]


class Structured(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Linear(4, 4)
        self.again = self.body  # the same module under a second name

    def forward(self, x: Tensor, scale: float = 1.0) -> Pair:
        a = self.body(x) * scale
        return Pair(self.body(a), {"sum": a + x})


def test_taps_of_structures_shared_modules_and_repeated_calls() -> None:
    t = trace(Structured(), torch.zeros(2, 4), kwargs={"scale": 2.0})
    assert {"body", "body#0", "body#1", "again", "again#1", "output.first", "output.second.sum"} <= set(t.taps)
    assert t.taps["body"] == t.taps["body#1"] == t.taps["again"] != t.taps["body#0"]
    net = Structured()
    b = Builder()
    x = b.input("x", torch.zeros(2, 4))
    b.network("n", net)
    both = {k: b.apply("n", (x,), k) for k in ("body#0", "output.second.sum", "logits")}
    value = torch.randn(3, 4)
    out = b.finish(both).graph_module(x=value)
    assert torch.equal(out["body#0"], net.body(value))
    assert torch.equal(out["output.second.sum"], net(value).second["sum"])
    assert torch.equal(out["logits"], net(value).first)


class Stubborn(nn.Module):
    """Cannot be traced: its control flow reads data."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.inner(x)
        return y if float(y.detach().sum()) > 1e9 else y.relu()


class Around(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.stubborn = Stubborn()
        self.last = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.last(self.stubborn(x))
        return y


def test_what_cannot_be_traced_is_a_leaf_with_taps_inside() -> None:
    net = Around()
    b = Builder()
    x = b.input("x", torch.zeros(2, 4))
    b.network("n", net)
    assert "stubborn.inner" in b.taps("n", (x,))
    first = {"out": b.apply("n", (x,)), "inner": b.apply("n", (x,), "stubborn.inner")}
    gm = b.finish(first | {"leaf": b.apply("n", (x,), "stubborn")}).graph_module
    value = torch.randn(5, 4)
    out = gm(x=value)
    assert torch.equal(out["out"], net(value))
    assert torch.equal(out["inner"], net.stubborn.inner(value))
    assert torch.equal(out["leaf"], net.stubborn(value))
    assert {n for n, _ in gm.named_parameters()} == {f"nets.n.{n}" for n, _ in net.named_parameters()}
    assert sum(1 for n in gm.graph.nodes if "stubborn" in str(n.target) or "inside" in str(n.target)) == 1


def test_attention_leaf_gives_its_inside() -> None:
    layer = nn.TransformerEncoderLayer(8, 2, 16, batch_first=True).train()
    b = Builder()
    x = b.input("x", torch.zeros(2, 5, 8))
    b.network("n", nn.Sequential(layer))
    gm = b.finish({"h": b.apply("n", (x,), "0.linear1"), "y": b.apply("n", (x,))}).graph_module
    assert gm(x=torch.randn(3, 5, 8))["h"].shape == (3, 5, 16)


class Odd(nn.Module):
    """no_grad, writes into a slice, a stored value, a counter, randomness."""

    count: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(4, 4)
        self.register_buffer("count", torch.zeros((), dtype=torch.long))
        self.seen: Any = None

    def forward(self, x: Tensor) -> Tensor:
        with torch.no_grad():
            target = self.fc(x)
        y = self.fc(x).clone()
        y[:, 0] = 0
        self.seen = y
        self.count.add_(1)
        noise = torch.rand(x.shape[0], 1)
        z: Tensor = (y - target) * F.dropout(noise, 0.5, self.training)
        return z


def test_effects_are_kept() -> None:
    net = Odd()
    t = trace(net, torch.zeros(2, 4))
    assert net.seen is None and int(net.count) == 0, "tracing changes nothing in the module"
    assert not t.leaves
    x = torch.randn(3, 4)
    results = []
    for call in (net, t.graph_module):
        net.zero_grad()
        torch.manual_seed(0)
        out = call(x)
        out.square().sum().backward()
        assert net.fc.weight.grad is not None
        results.append((out.detach(), net.fc.weight.grad.clone()))
    assert all(torch.equal(a, b) for a, b in zip(*results, strict=True))
    assert int(net.count) == 2


def test_modes_are_those_of_the_module() -> None:
    net = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5), nn.BatchNorm1d(3))
    net[1].eval()
    b = Builder()
    x = b.input("x", torch.zeros(4, 3))
    b.network("n", net)
    phase = b.finish({"y": b.apply("n", (x,))})
    net.eval()
    phase.set_modes()
    assert [m.training for m in net] == [True, False, True]


def test_equal_calls_are_one_call() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(2, 3))
    b.network("n", nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 2)))
    assert b.apply("n", (x,), "logits") is b.apply("n", (x,), "1")
    other = b.apply("n", (b.call(torch.neg, x),), "logits")
    assert other is not b.apply("n", (x,), "logits")
    tail = b.apply_submodule("n", "1", (b.apply("n", (x,), "0"),))
    assert tail is not b.apply("n", (x,), "1")
    gm = b.finish({"a": b.apply("n", (x,)), "b": tail}).graph_module
    out = gm(x=torch.ones(2, 3))
    assert torch.equal(out["a"], out["b"])


def test_meta_networks_have_shapes_too() -> None:
    with torch.device("meta"):
        net = torchvision.models.resnet18()
    t = trace(net, torch.zeros(2, 3, 64, 64))
    assert tuple(t.taps["layer3"].node.meta["val"].shape) == (2, 256, 4, 4)
    assert t.taps["features"].node.meta["val"].shape == (2, 512)
    assert t.taps["stem"].node.meta["val"].shape == (2, 64, 16, 16)


def test_mistakes_have_names() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(2, 3))
    b.network("n", nn.Sequential(nn.Linear(3, 3)))
    with pytest.raises(TapError) as tap:
        b.apply("n", (x,), "layer5")
    assert "logits" in tap.value.available
    with pytest.raises(BuildError, match="broadcast"):
        b.call(torch.add, x, b.input("y", torch.zeros(2, 5)))
    with pytest.raises(TraceError, match="reduction dim"):
        trace(nn.Sequential(nn.Linear(3, 3)), torch.zeros(2, 4))


def test_names_that_are_no_identifiers() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(2, 3))
    nets = {f"t[v={i}]": nn.Linear(3, 2) for i in range(2)}
    for name, net in nets.items():
        b.network(name, net)
    gm = b.finish({"y": b.call(torch.stack, [b.apply(n, (x,)) for n in nets])}).graph_module
    value = torch.ones(2, 3)
    assert torch.equal(gm(x=value)["y"], torch.stack([net(value) for net in nets.values()]))
