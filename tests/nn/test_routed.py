"""`Routed`: every sample runs through its own network, and through no other."""

from __future__ import annotations

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from kdplan.nn.routed import Routed


class Counting(nn.Module):
    """A linear layer that counts samples and calls."""

    def __init__(self, outputs: int) -> None:
        super().__init__()
        self.fc = nn.Linear(5, outputs)
        self.samples = self.calls = 0

    def forward(self, x: Tensor) -> Tensor:
        self.samples += len(x)
        self.calls += 1
        return self.fc(x)


@settings(max_examples=25, deadline=None)
@given(st.integers(1, 9), st.integers(1, 4), st.integers(0, 999))
def test_one_pass_a_sample(batch: int, members: int, seed: int) -> None:
    torch.manual_seed(seed)
    labels_a_part = [1 + i for i in range(members)]
    part_of = [i for i, n in enumerate(labels_a_part) for _ in range(n)]
    first = [sum(labels_a_part[:i]) for i in range(members)]
    classes = [[*range(first[i], first[i] + n)] for i, n in enumerate(labels_a_part)]
    nets = [Counting(n) for n in labels_a_part]
    routed = Routed(nets, part_of, classes)
    labels, x = torch.randint(0, len(part_of), (batch,)), torch.randn(batch, 5)
    with torch.no_grad():
        values, ids = routed(labels, x)
    assert sum(n.samples for n in nets) == batch
    assert sum(n.calls for n in nets) == len({part_of[c] for c in labels.tolist()})
    for i, label in enumerate(labels.tolist()):
        own = part_of[label]
        n = labels_a_part[own]
        torch.testing.assert_close(values[i, :n], nets[own].fc(x[i]))
        assert ids[i, :n].tolist() == classes[own] and label in classes[own]
        assert (values[i, n:] == -torch.inf).all() and (ids[i, n:] == -1).all()


def test_maps_of_one_shape() -> None:
    a, b = nn.Conv2d(2, 3, 1), nn.Conv2d(2, 3, 1)
    routed = Routed([a, b], part_of=[0, 1, 1])
    x = torch.randn(4, 2, 5, 5)
    out = routed(torch.tensor([1, 0, 2, 0]), x)
    assert isinstance(out, Tensor)
    torch.testing.assert_close(out, torch.cat([b(x[:1]), a(x[1:2]), b(x[2:3]), a(x[3:])]))


def test_what_it_would_return_is_what_it_returns() -> None:
    routed = Routed([nn.Linear(5, 2), nn.Linear(5, 3)], [0, 0, 1, 1, 1], [[0, 1], [2, 3, 4]])
    labels, x = torch.tensor([0, 4, 2]), torch.randn(3, 5)
    real, fake = routed(labels, x), routed.fake_forward(labels, x)
    assert [tuple(t.shape) for t in real] == [tuple(t.shape) for t in fake] == [(3, 3), (3, 3)]
