"""The functions of expressions: each is reachable by name, works on numbers and tensors, and documents itself."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

from kdplan.nn.functions import FUNCTIONS


def test_every_function_shows_an_example() -> None:
    for name, f in FUNCTIONS.items():
        examples = doctest.DocTestParser().get_examples(inspect.getdoc(f) or "")
        assert examples, name
        assert any(name in e.source for e in examples), name


@pytest.mark.parametrize(
    ("name", "args", "expected"),
    [
        ("min", (0.5, 1.0), 0.5),
        ("max", (0.5, 1.0), 1.0),
        ("clamp", (7, 0, 3), 3),
        ("exp", (0,), 1.0),
        ("log", (1,), 0.0),
        ("sqrt", (9,), 3.0),
        ("abs", (-3,), 3),
    ],
)
def test_numbers_and_tensors_agree(name: str, args: tuple[float, ...], expected: float) -> None:
    f = FUNCTIONS[name]
    assert f(*args) == expected
    assert f(torch.tensor(float(args[0])), *args[1:]).item() == pytest.approx(expected)
    if name in ("min", "max"):
        assert f(args[0], torch.tensor(args[1])).item() == expected
        assert f(torch.tensor(args[0]), torch.tensor(args[1])).item() == expected


def test_ramp_of_a_clock() -> None:
    """min(epoch / 80, 1) and exp(-5 (1 - x) ** 2), as plans write ramps."""
    for epoch in (torch.tensor(40.0), 40.0):
        x = FUNCTIONS["min"](epoch / 80, 1)
        assert float(FUNCTIONS["exp"](-5 * (1 - x) ** 2)) == pytest.approx(0.2865048)


def test_shapes_of_features() -> None:
    x = torch.randn(2, 3, 4, 4)
    f = FUNCTIONS
    assert f["pool"](x).shape == (2, 3) and f["pool"](f["pool"](x)).shape == (2, 3)
    assert f["pool"](torch.randn(2, 3, 7)).shape == (2, 3)
    assert f["flatten"](x).shape == (2, 48)
    assert f["concat"](x, x, x).shape == (2, 9, 4, 4)
    assert torch.allclose(f["normalize"](x).norm(dim=1), torch.ones(2, 4, 4))
    assert f["onehot"](torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_reverse_turns_the_gradient_and_detach_stops_it() -> None:
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    (FUNCTIONS["reverse"](x) ** 2).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, -2 * x)
    assert torch.equal(FUNCTIONS["reverse"](x), x)
    assert not FUNCTIONS["detach"](x).requires_grad
