"""Copies of networks with the hooks on their parameters."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from kdplan.graph.compare import NoGradient, compare
from kdplan.graph.copied import copied


class Hooked(nn.Module):
    """Whose weight has a hook."""

    def __init__(self, hook: Callable[..., Tensor] | None = None, after: bool = False) -> None:
        super().__init__()
        self.fc = nn.Linear(2, 2, bias=False)
        self.seen: list[int] = []
        register = self.fc.weight.register_post_accumulate_grad_hook if after else self.fc.weight.register_hook
        register(hook or self.scaled)

    def scaled(self, gradient: Tensor) -> Tensor:
        """Twice the gradient; notes that it was called."""
        self.seen.append(1)
        return gradient * 2

    def forward(self, x: Tensor) -> Tensor:
        """[B, 2] -> [B, 2]."""
        return self.fc(x)  # type: ignore[no-any-return]


def gradient(net: nn.Module) -> Tensor:
    net(torch.ones(1, 2)).sum().backward()
    (weight,) = net.parameters()
    assert weight.grad is not None
    return weight.grad


def test_methods_are_those_of_the_copy() -> None:
    net = Hooked()
    new = copied(net)
    assert isinstance(new, Hooked)
    assert torch.equal(gradient(new), torch.full((2, 2), 2.0))
    assert new.seen == [1] and net.seen == []


def test_functions_are_kept_unless_they_hold_the_original() -> None:
    assert torch.equal(gradient(copied(Hooked(lambda g: g * 3))), torch.full((2, 2), 3.0))
    scale = torch.tensor(3.0)
    assert torch.equal(gradient(copied(Hooked(lambda g: scale.add_(1) * g))), torch.ones(2, 2)) and scale == 3


@pytest.mark.parametrize("after", [False, True], ids=["gradient", "accumulated"])
def test_a_hook_that_raises_is_found_before_training(after: bool) -> None:
    def broken(_: Tensor) -> Tensor:
        raise ValueError("no such gradient")

    with pytest.raises(NoGradient):
        compare(Hooked(broken, after), (torch.rand(4, 2),))
    assert not compare(Hooked(), (torch.rand(4, 2),)).differs


def test_frozen_afterwards() -> None:
    """A parameter that asks for no gradient takes no hook; its copy is made all the same."""
    net = Hooked()
    net.fc.weight.requires_grad_(False)
    assert not copied(net).fc.weight.requires_grad  # type: ignore[union-attr]
