"""The same few steps by a phase's graph and by a plain PyTorch loop."""

from __future__ import annotations

import copy
import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.graph.build import Builder
from kdplan.graph.freeze import split
from kdplan.graph.prune import prune
from kdplan.runtime.checkpoint import reseed

CPU = torch.device("cpu")


@dataclass
class Steps:
    """What every step leaves: the loss, gradients, buffers, and the next draw of each generator."""

    losses: list[Tensor]
    gradients: list[dict[str, Tensor | None]]
    buffers: list[dict[str, Tensor]]
    draws: list[tuple[float, float, float]]


def batches(steps: int, shape: tuple[int, ...] = (6, 4), classes: int = 4) -> list[tuple[Tensor, Tensor]]:
    torch.manual_seed(5)
    return [(torch.randn(shape), torch.randint(classes, shape[:1])) for _ in range(steps)]


def loop(
    net: nn.Module, loss_of: Callable[[Tensor, Tensor], Tensor], data: list[tuple[Tensor, Tensor]], first: int = 0
) -> Steps:
    """Train for one step a batch, and keep what there is to compare."""
    steps = Steps([], [], [], [])
    parameters = dict(net.named_parameters())
    optimizer = torch.optim.SGD(parameters.values(), lr=0.1)
    for number, (x, y) in enumerate(data, first):
        reseed(number, CPU)
        optimizer.zero_grad()
        loss = loss_of(x, y)
        loss.backward()
        optimizer.step()
        steps.losses.append(loss.detach())
        steps.gradients.append({n: None if p.grad is None else p.grad.clone() for n, p in parameters.items()})
        steps.buffers.append({n: b.detach().clone() for n, b in net.named_buffers()})
        steps.draws.append((float(torch.rand(())), random.random(), float(np.random.rand())))
    return steps


def by_graph(net: nn.Module, x: Tensor, y: Tensor, tap: str = "output") -> Callable[[Tensor, Tensor], Tensor]:
    """The loss of one call of the network, as a phase computes it."""
    b = Builder()
    inputs, labels = b.input("inputs_0", x), b.input("labels_0", y)
    b.network("n", net)
    joined = b.finish({"loss": b.call(F.cross_entropy, b.apply("n", (inputs,), tap), labels)})
    cut = split(prune(joined.graph_module).graph_module, {f"nets.n.{n}" for n, _ in net.named_parameters()})
    return lambda x, y: cut(inputs_0=x, labels_0=y)["loss"]


def same(a: Any, b: Any) -> None:
    """Both loops agree bit for bit."""
    for one, two in zip(a.losses, b.losses, strict=True):
        assert torch.equal(one, two), f"losses {a.losses} and {b.losses}"
    for ours, theirs in [*zip(a.gradients, b.gradients, strict=True), *zip(a.buffers, b.buffers, strict=True)]:
        assert ours.keys() == theirs.keys()
        for name, value in ours.items():
            other = theirs[name]
            assert (value is None) == (other is None), name
            assert value is None or torch.equal(value, other), f"{name}: {value} and {other}"
    assert a.draws == b.draws


def compare(make: Callable[[], nn.Module], steps: int = 3) -> tuple[Steps, nn.Module]:
    """Three steps of a network by its graph and by a plain loop are equal; gives them, and the network."""
    torch.manual_seed(0)
    net = make()
    plain = copy.deepcopy(net)
    data = batches(steps)
    loss = by_graph(net, *data[0])
    ours = loop(net, loss, data)
    same(ours, loop(plain, lambda x, y: F.cross_entropy(plain(x), y), data))
    return ours, net
