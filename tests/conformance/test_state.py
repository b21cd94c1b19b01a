"""Buffers and attributes that a user's `forward` changes end as they do in a plain PyTorch loop."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdplan.graph.trace import trace
from tests.conformance.plain import Steps, batches, by_graph, compare, loop, same

Step = Callable[[Any, Tensor], Tensor]


class Stateful(nn.Module):
    """A linear layer, a step on its features, and a head."""

    def __init__(self, step: Step) -> None:
        super().__init__()
        self.step = step
        self.body = nn.Linear(4, 5)
        self.head = nn.Linear(5, 4)
        self.t = 0
        self.history: list[float] = []
        self.register_buffer("center", torch.zeros(5))
        self.register_buffer("bank", torch.zeros(12, 5))
        self.register_buffer("n", torch.zeros(()))

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.step(self, self.body(x)))


def rebound(m: Any, f: Tensor) -> Tensor:
    m.center = 0.9 * m.center + 0.1 * f.detach().mean(0)
    return f - m.center


def rebound_without_gradient(m: Any, f: Tensor) -> Tensor:
    before = m.center
    with torch.no_grad():
        m.center = 0.9 * m.center + 0.1 * f.mean(0)
    return f * (1 + before) + m.center


def read_then_written(m: Any, f: Tensor) -> Tensor:
    out = f - m.center
    with torch.no_grad():
        m.center.mul_(0.9).add_(f.mean(0), alpha=0.1)
    return out


def written_only(m: Any, f: Tensor) -> Tensor:
    m.center.add_(f.detach().mean(0))
    return f


def written_from_gradient(m: Any, f: Tensor) -> Tensor:
    with torch.no_grad():
        m.center.copy_(f.mean(0))
    return f - m.center


def lerp(m: Any, f: Tensor) -> Tensor:
    out = f - m.center
    m.center.lerp_(f.detach().mean(0), 0.2)
    return out


def multiplied(m: Any, f: Tensor) -> Tensor:
    m.center *= 0.9
    m.center += 0.1 * f.detach().mean(0)
    return f - m.center


def counted(m: Any, f: Tensor) -> Tensor:
    m.n += 1
    return f / m.n


def counted_in_place(m: Any, f: Tensor) -> Tensor:
    m.n.add_(1)
    return f


def bank_by_index(m: Any, f: Tensor) -> Tensor:
    out = f + m.bank.mean(0)
    with torch.no_grad():
        m.bank[torch.arange(f.shape[0])] = f
    return out


def bank_by_slice(m: Any, f: Tensor) -> Tensor:
    m.bank[: f.shape[0]] = f.detach()
    return f + m.bank.sum(0)


def bank_by_index_copy(m: Any, f: Tensor) -> Tensor:
    out = f + m.bank.mean(0)
    m.bank.index_copy_(0, torch.arange(f.shape[0]), f.detach())
    return out


def bank_through_a_view(m: Any, f: Tensor) -> Tensor:
    m.bank[0].add_(f.detach().mean(0))
    return f + m.bank[0]


def queue(m: Any, f: Tensor) -> Tensor:
    out = f + m.bank.mean(0)
    m.bank = torch.cat([f.detach(), m.bank])[: m.bank.shape[0]]
    return out


def queue_with_a_pointer(m: Any, f: Tensor) -> Tensor:
    start = int(m.n)
    m.bank[start : start + f.shape[0]] = f.detach()
    m.n[...] = (start + f.shape[0]) % m.bank.shape[0]
    return f + m.bank.mean(0)


def python_number(m: Any, f: Tensor) -> Tensor:
    m.t += 1
    return f * min(1.0, m.t / 2)


def python_list(m: Any, f: Tensor) -> Tensor:
    m.history.append(float(len(m.history)))
    return f * sum(m.history)


def other_shape(m: Any, f: Tensor) -> Tensor:
    m.bank = torch.cat([m.bank, f.detach()])
    return f + m.bank.sum(0)


IN_THE_GRAPH = [
    rebound, rebound_without_gradient, read_then_written, written_only, written_from_gradient, lerp, multiplied,
    counted, counted_in_place, bank_by_index, bank_by_slice, bank_by_index_copy, bank_through_a_view, queue,
]  # fmt: skip
WHOLE = [queue_with_a_pointer, python_number, python_list, other_shape]


@pytest.mark.parametrize("step", [*IN_THE_GRAPH, *WHOLE], ids=lambda s: s.__name__)
def test_three_steps_are_those_of_a_plain_loop(step: Step) -> None:
    _, net = compare(lambda: Stateful(step))
    changed = [b.abs().sum().item() for b in net.buffers()]
    assert any(changed) or net.t or net.history


@pytest.mark.parametrize("step", [*IN_THE_GRAPH, *WHOLE], ids=lambda s: s.__name__)
def test_only_what_a_graph_cannot_hold_is_called_whole(step: Step) -> None:
    leaves = trace(Stateful(step), torch.zeros(6, 4)).leaves
    assert list(leaves) == ([""] if step in WHOLE else [])


def test_a_changed_attribute_is_named() -> None:
    assert trace(Stateful(python_number), torch.zeros(6, 4)).leaves == {"": "it changes the Python attribute `t`"}


def test_tracing_leaves_no_trace() -> None:
    net = Stateful(python_list)
    trace(net, torch.zeros(6, 4))
    assert net.t == 0 and net.history == []


def test_state_written_behind_the_last_tap_is_kept_up() -> None:
    """Pruning takes what nothing reads, but not the state of a module that runs."""
    torch.manual_seed(0)
    net = Stateful(written_only)
    loss = by_graph(net, torch.zeros(6, 4), torch.zeros(6, dtype=torch.long), tap="body")
    loss(torch.ones(6, 4), torch.zeros(6, dtype=torch.long))
    assert torch.equal(net.center, net.body(torch.ones(6, 4)).mean(0))


class Inner(nn.Module):
    """Only this part changes what a graph cannot hold."""

    def __init__(self) -> None:
        super().__init__()
        self.t = 0

    def forward(self, x: Tensor) -> Tensor:
        self.t += 1
        return x / self.t


def test_the_smallest_module_is_the_one_called_whole() -> None:
    traced = trace(nn.Sequential(nn.Linear(4, 4), Inner(), nn.Linear(4, 4)), torch.zeros(6, 4))
    assert list(traced.leaves) == ["1"]
    compare(lambda: nn.Sequential(nn.Linear(4, 4), Inner(), nn.Linear(4, 4)))


class Input(nn.Module):
    """Running statistics of the input: no trained parameter comes before them."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 4)
        self.register_buffer("mean", torch.zeros(4))
        self.mean: Tensor

    def forward(self, x: Tensor) -> Tensor:
        out = self.head(x - self.mean)
        self.mean.lerp_(x.mean(0), 0.1)
        return out


def test_state_that_no_trained_parameter_reaches() -> None:
    compare(Input)


@pytest.mark.parametrize("step", [*IN_THE_GRAPH, queue_with_a_pointer], ids=lambda s: s.__name__)
def test_buffers_are_all_that_a_stopped_run_needs(step: Step) -> None:
    torch.manual_seed(0)
    whole, stopped, resumed = Stateful(step), Stateful(step), Stateful(step)
    stopped.load_state_dict(whole.state_dict())
    data = batches(3)
    steps = loop(whole, by_graph(whole, *data[0]), data)
    loop(stopped, by_graph(stopped, *data[0]), data[:2])
    resumed.load_state_dict(stopped.state_dict())
    last = loop(resumed, by_graph(resumed, *data[0]), data[2:], first=2)
    same(last, Steps(steps.losses[2:], steps.gradients[2:], steps.buffers[2:], steps.draws[2:]))
