"""Pruning, freezing, gradient reach, cost and parameter sets on joined phases."""

from __future__ import annotations

import operator

import pytest
import torch
import torchvision
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdplan.graph.build import Builder
from kdplan.graph.cost import LiveBytes, cost, forward_flops
from kdplan.graph.freeze import split
from kdplan.graph.params import upto
from kdplan.graph.prune import prune
from kdplan.graph.reach import gradient_reach
from kdplan.graph.trace import trace
from kdplan.nn.models.cifar import cifar_resnet


@pytest.mark.parametrize(("tap", "share"), [("layer1", 0.22), ("layer2", 0.46), ("layer3", 0.82), ("fc", 1.0)])
def test_share_of_a_teacher_that_is_kept(tap: str, share: float) -> None:
    with torch.device("meta"):
        net = torchvision.models.resnet34().eval()
    b = Builder()
    x = b.input("x", torch.zeros(1, 3, 224, 224))
    b.network("t", net)
    whole = forward_flops(b.finish({"y": b.apply("t", (x,))}).graph_module)
    b = Builder()
    x = b.input("x", torch.zeros(1, 3, 224, 224))
    b.network("t", net)
    kept = forward_flops(prune(b.finish({"y": b.apply("t", (x,), tap)}).graph_module).graph_module)
    assert kept / whole == pytest.approx(share, abs=0.01)


def phase(batch: int = 4) -> tuple[Builder, torch.fx.GraphModule, nn.Module, nn.Module]:
    torch.manual_seed(0)
    big, small = cifar_resnet(depth=20).eval(), cifar_resnet(depth=8).train()
    b = Builder()
    x = b.input("inputs", torch.zeros(batch, 3, 32, 32))
    y = b.input("labels", torch.zeros(batch, dtype=torch.long))
    b.network("big", big)
    b.network("small", small)
    fit = b.module("fit", nn.Conv2d(32, 32, 1), b.apply("small", (x,), "layer2"))
    match = b.call(F.mse_loss, fit, b.apply("big", (x,), "layer2"))
    soft = b.call(
        F.kl_div,
        b.call(F.log_softmax, b.apply("small", (x,), "logits"), 1),
        b.call(F.softmax, b.call(operator.truediv, b.apply("big", (x,), "logits"), 4.0), 1),
        reduction="batchmean",
    )
    hard = b.call(F.cross_entropy, b.apply("small", (x,), "logits"), y)
    loss = b.call(operator.add, b.call(operator.add, match, soft), b.call(operator.mul, 0.5, hard))
    gm = prune(b.finish({"loss": loss, "match": match}).graph_module).graph_module
    return b, gm, big, small


def trainable_in(gm: nn.Module) -> set[str]:
    return {n for n, _ in gm.named_parameters() if not n.startswith("nets.big.")}


def test_split_equals_the_whole() -> None:
    _, gm, _, small = phase()
    cut = split(gm, trainable_in(gm))
    assert cut.frozen is not None and cut.cacheable
    # The teacher's logits cross, not what the loss makes of them.
    assert cut.boundary == ("big_layer2_2_relu2", "big_fc") or len(cut.boundary) == 2
    inputs = {"inputs": torch.randn(4, 3, 32, 32), "labels": torch.tensor([0, 1, 2, 3])}
    results = []
    for run in (cut, gm):
        small.zero_grad()
        out = run(**inputs)
        out["loss"].backward()
        results.append((out["loss"].detach(), [p.grad.clone() for p in small.parameters() if p.grad is not None]))
    assert torch.equal(results[0][0], results[1][0])
    assert all(torch.equal(a, b) for a, b in zip(results[0][1], results[1][1], strict=True))
    with torch.no_grad():
        assert {k: tuple(v.shape) for k, v in cut.frozen(**inputs).items()}[cut.boundary[-1]] == (4, 10)


def test_nothing_frozen_and_random_teachers() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(4, 3))
    noisy = nn.Sequential(nn.Linear(3, 3), nn.Dropout(0.5)).train()
    b.network("t", noisy)
    b.network("s", nn.Linear(3, 3))
    gm = b.finish({"loss": b.call(F.mse_loss, b.apply("s", (x,)), b.apply("t", (x,)))}).graph_module
    assert not split(gm, {"nets.s.weight"}).cacheable
    assert split(gm, {n for n, _ in gm.named_parameters()}).frozen is None


def test_reach_respects_detach_and_terms() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(4, 3))
    for n in ("a", "b", "t"):
        b.network(n, nn.Sequential(nn.Linear(3, 3), nn.Linear(3, 3)))
    a, c, t = (b.apply(n, (x,)) for n in ("a", "b", "t"))
    first = b.call(F.mse_loss, a, b.detach(c))
    second = b.call(F.cross_entropy, t, b.call(torch.argmax, c, 1))
    third = b.call(F.mse_loss, b.apply("b", (x,), "0"), x)
    gm = b.finish({"loss": b.call(operator.sub, b.call(operator.add, first, second), third)}).graph_module
    trainable = {n for n, _ in gm.named_parameters() if not n.startswith("nets.t.")}
    reach = gradient_reach(gm)
    assert reach.flops == forward_flops(gm) > 0
    assert reach.whole & trainable == {n for n in trainable if n.startswith(("nets.a.", "nets.b.0."))}
    assert reach.constant(trainable) == {second.name}
    assert reach.constant(trainable | {"nets.t.0.weight"}) == set()


def test_cost_is_what_a_real_step_costs() -> None:
    _, gm, _, small = phase(batch=16)
    trainable = trainable_in(gm)
    predicted = cost(gm, trainable)
    cut = split(gm, trainable)
    inputs = {"inputs": torch.randn(16, 3, 32, 32), "labels": torch.zeros(16, dtype=torch.long)}
    known: list[Tensor] = [*inputs.values(), *gm.parameters(), *gm.buffers()]
    live_bytes, counter = LiveBytes(known), FlopCounterMode(display=False)
    with live_bytes, counter:
        torch.autograd.backward(cut(**inputs)["loss"])
    assert predicted.flops_step == counter.get_total_flops()
    assert predicted.peak_bytes == pytest.approx(live_bytes.peak, rel=0.05)
    assert predicted.trainable == sum(p.numel() for p in small.parameters()) + 32 * 32 + 32
    assert predicted.flops_frozen == forward_flops(cut.frozen) if cut.frozen else False
    assert predicted.boundary_bytes == 16 * (32 * 16 * 16 + 10) * 4
    doubled = cost(gm, trainable, batch=32)
    assert doubled.flops_step == 2 * predicted.flops_step and doubled.batch == 32


def test_cost_lets_go_of_frozen_values_that_backward_does_not_need() -> None:
    big, small = (nn.Conv2d(3, 8, 3, padding=1) for _ in range(2))
    b = Builder()
    x = b.input("x", torch.zeros(4, 3, 16, 16))
    b.network("big", big)
    b.network("small", small)
    gap = b.call(operator.sub, b.apply("small", (x,)), b.apply("big", (x,)))  # saves neither map
    gm = prune(b.finish({"loss": b.call(torch.sum, b.call(torch.square, gap))}).graph_module).graph_module
    trainable = {n for n, _ in gm.named_parameters() if n.startswith("nets.small.")}
    given = torch.randn(4, 3, 16, 16)
    live_bytes = LiveBytes([given, *gm.parameters()])
    with live_bytes:
        torch.autograd.backward(split(gm, trainable)(x=given)["loss"])
    assert cost(gm, trainable).peak_bytes == pytest.approx(live_bytes.peak, rel=0.01)


def test_pruning_tells_what_went() -> None:
    b = Builder()
    x = b.input("x", torch.zeros(4, 3, 32, 32))
    net = torchvision.models.mobilenet_v3_small(num_classes=10).train()
    b.network("n", net)
    found = prune(b.finish({"y": b.apply("n", (x,), "features.3")}).graph_module)
    assert "nets.n.classifier.2" in found.random
    assert any(p.startswith("nets.n.features.12") for p in found.buffers)
    assert not any(p.startswith(("nets.n.features.0.", "nets.n.features.3.")) for p in found.buffers)


def test_parameter_sets() -> None:
    t = trace(cifar_resnet(depth=8), torch.zeros(2, 3, 32, 32))
    names = {n for n, _ in t.module.named_parameters()}
    assert upto(t, ["logits"]) == names
    assert upto(t, ["layer2"], beyond=["layer1"]) == {n for n in names if n.startswith("layer2.")}
    assert not any(n.startswith(("layer3", "fc")) for n in upto(t, ["layer2"]))
