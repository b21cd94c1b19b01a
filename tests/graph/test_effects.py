"""Buffers, random numbers and in-place writes through pruning and splitting."""

from __future__ import annotations

import copy
import operator

import timm
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.graph.build import Builder
from kdplan.graph.freeze import split
from kdplan.graph.prune import prune
from tests.graph.test_trace import Odd


def test_writes_and_counters_survive_pruning_and_splitting() -> None:
    torch.manual_seed(0)
    student, teacher = Odd(), Odd()
    theirs = copy.deepcopy(student)
    b = Builder()
    x = b.input("x", torch.zeros(2, 4))
    b.network("s", student)
    b.network("t", teacher)
    loss = b.call(F.mse_loss, b.apply("s", (x,)), b.apply("t", (x,)))
    gm = prune(b.finish({"loss": loss}).graph_module).graph_module
    cut = split(gm, {n for n, _ in gm.named_parameters() if n.startswith("nets.s.")})
    assert cut.frozen is not None and not cut.cacheable
    value = torch.randn(5, 4)
    torch.manual_seed(1)
    mine = cut(x=value)["loss"]
    torch.autograd.backward(mine)
    assert int(student.count) == 1 and int(teacher.count) == 1
    torch.manual_seed(1)
    result = theirs(value)
    with torch.no_grad():
        target = teacher(value)
    other = F.mse_loss(result, target)
    torch.autograd.backward(other)
    assert torch.equal(mine, other)
    assert student.fc.weight.grad is not None and theirs.fc.weight.grad is not None
    assert torch.equal(student.fc.weight.grad, theirs.fc.weight.grad)


def test_a_frozen_teacher_in_training_mode_counts_once() -> None:
    nets = [timm.create_model("mobilenetv3_small_050", num_classes=5).train() for _ in range(2)]
    b = Builder()
    x = b.input("x", torch.zeros(2, 3, 32, 32))
    for name, net in zip(("s", "t"), nets, strict=True):
        b.network(name, net)
    loss = b.call(F.mse_loss, b.apply("s", (x,), "blocks.1"), b.apply("t", (x,), "blocks.1"))
    found = prune(b.finish({"loss": loss}).graph_module)
    gm = found.graph_module
    assert any(p.startswith("nets.t.blocks.3") for p in found.buffers)
    cut = split(gm, {n for n, _ in gm.named_parameters() if n.startswith("nets.s.")})
    assert cut.frozen is not None and not cut.cacheable, "running statistics change"
    cut(x=torch.randn(4, 3, 32, 32))
    for net in nets:
        counts = {n: int(v) for n, v in net.named_buffers() if n.endswith("num_batches_tracked")}
        assert counts["bn1.num_batches_tracked"] == 1
        assert all(c == (0 if n.startswith(("blocks.2", "blocks.3", "blocks.4", "blocks.5")) else 1)
                   for n, c in counts.items())  # fmt: skip


def test_a_frozen_head_on_trained_features_passes_gradients() -> None:
    student, teacher = nn.Sequential(nn.Linear(3, 4)), nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 2))
    b = Builder()
    x = b.input("x", torch.zeros(2, 3))
    b.network("s", student)
    b.network("t", teacher)
    out = b.apply_submodule("t", "1", (b.apply("s", (x,)),))
    loss = b.call(operator.add, b.call(torch.sum, out), b.call(torch.sum, b.apply("t", (x,))))
    gm = b.finish({"loss": loss}).graph_module
    teacher.requires_grad_(False)
    cut = split(gm, {"nets.s.0.weight", "nets.s.0.bias"})
    torch.autograd.backward(cut(x=torch.ones(2, 3))["loss"])
    assert student[0].weight.grad is not None and teacher[1].weight.grad is None
    assert len(cut.boundary) == 1


class Shared(nn.Module):
    """Two taps of one storage, written to afterwards."""

    def __init__(self) -> None:
        super().__init__()
        self.a = nn.Linear(4, 4)
        self.flat = nn.Flatten()
        self.act = nn.ReLU(inplace=True)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.a(x)
        z = self.flat(y)
        self.act(z)  # y is written to as well, and read again
        return y + 1.0


def test_a_tap_keeps_its_value_when_the_network_goes_on_to_read_the_written_one() -> None:
    net = Shared()
    b = Builder()
    x = b.input("x", torch.zeros(2, 4))
    b.network("n", net)
    taps = {t: b.apply("n", (x,), t) for t in ("a", "flat", "output")}
    gm = prune(b.finish(taps).graph_module).graph_module
    value = torch.randn(3, 4)
    got = gm(x=value)
    plain = net.a(value).detach()
    assert torch.equal(got["a"], plain) and torch.equal(got["flat"], plain)
    assert torch.equal(got["output"], plain.relu() + 1.0) and torch.equal(got["output"], net(value))


class Rude(nn.Module):
    """Writes into its input, and reads it again."""

    def forward(self, x: Tensor) -> Tensor:
        x.mul_(2.0)
        return x + 1.0


def test_networks_that_write_into_a_common_input_do_not_meet() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(2, 4))
    for name, net in (("a", Rude()), ("b", Rude()), ("c", nn.ReLU(inplace=True))):
        b.network(name, net)
    gm = b.finish({name: b.apply(name, (x,)) for name in ("a", "b", "c")}).graph_module
    got = gm(x=torch.full((3, 4), -1.0))
    assert torch.equal(got["a"], torch.full((3, 4), -1.0)) and torch.equal(got["b"], got["a"])
    assert torch.equal(got["c"], torch.zeros(3, 4))


def test_equal_calls_are_one_call_unless_they_draw() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(2, 4))
    b.network("t", nn.Linear(8, 3))
    one, two = (b.call(torch.cat, [x, x], 1) for _ in range(2))
    assert one is two and b.apply("t", (one,)) is b.apply("t", (two,))
    assert b.call(torch.mul, x, 1) is not b.call(torch.mul, x, True)
    assert b.call(F.dropout, x, 0.5) is not b.call(F.dropout, x, 0.5)
    assert b.call(torch.rand_like, x) is not b.call(torch.rand_like, x)
    assert b.call(Tensor.add_, one, 1) is not b.call(Tensor.add_, one, 1)


def test_an_equal_call_after_a_write_has_what_was_there_before() -> None:
    torch.manual_seed(0)
    b = Builder()
    x = b.input("x", torch.zeros(2, 3))
    b.network("writes", nn.Sequential(nn.ReLU(inplace=True), nn.Linear(6, 2)))
    b.network("reads", nn.Linear(6, 2))
    first = b.apply("writes", (b.call(torch.cat, [x, x], 1),))
    second = b.apply("reads", (b.call(torch.cat, [x, x], 1),))
    gm = b.finish({"loss": b.call(torch.sum, b.call(torch.add, first, second))}).graph_module
    value = torch.randn(2, 3)
    both = torch.cat([value, value], 1)
    wanted = b.networks["writes"](both.clone()) + b.networks["reads"](both)
    assert torch.equal(gm(x=value)["loss"], wanted.sum())
