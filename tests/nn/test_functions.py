"""The functions of expressions: each is reachable by name, works on numbers and tensors, and documents itself."""

from __future__ import annotations

import doctest
import inspect

import pytest
import torch

from kdplan.graph.functions import built_in
from kdplan.ir.functions import FUNCTIONS as TABLE
from kdplan.nn import losses
from kdplan.nn.functions import FUNCTIONS


def test_every_function_shows_an_example() -> None:
    for name in [name for name, spec in TABLE.items() if spec.built == "function"]:
        f = built_in(name)
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
        ("mix", (2.0, 4.0, 0.25), 3.5),
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


def test_the_plans_table_is_the_signatures() -> None:
    for name, spec in TABLE.items():
        if spec.built != "function" and spec.implementation:
            continue
        parameters = inspect.signature(built_in(name)).parameters
        plain = {n: p for n, p in parameters.items() if p.kind is not p.VAR_POSITIONAL}
        assert spec.more == (len(plain) < len(parameters)), name
        assert [p.name for p in spec.params] == list(plain), name
        for p in spec.params:
            assert p.required == (plain[p.name].default is inspect.Parameter.empty), (name, p.name)
            assert p.required or p.default == plain[p.name].default, (name, p.name)


def test_several_and_one() -> None:
    x = torch.tensor([[1.0, 5.0], [3.0, 2.0]])
    f = FUNCTIONS
    assert f["sum"](x, x, 1).tolist() == [[3, 11], [7, 5]] and f["sum"](x).item() == 11
    assert f["min"](x, 2.5, 4 - x).tolist() == [[1, -1], [1, 2]] and f["min"](x).item() == 1
    assert f["max"](x, 2.5, 4 - x).tolist() == [[3, 5], [3, 2.5]] and f["max"](x).item() == 5


def test_probabilities_as_logits() -> None:
    """One row of probabilities against a batch of logits: how label smoothing is written as a divergence."""
    x = torch.randn(4, 5, dtype=torch.float64, requires_grad=True)
    value = losses.kl(x, losses.as_logits(losses.uniform(5)))
    assert torch.allclose(value, losses.kl_probabilities(losses.uniform(5).double(), losses.softmax(x)))
    hard = torch.tensor([[1.0, 0.0, 0.0, 0.0, 0.0]])
    value = losses.kl(x, losses.as_logits(hard))
    value.backward()
    assert torch.allclose(value, -losses.log_softmax(x)[:, 0].mean()) and x.grad is not None and x.grad.isfinite().all()


def test_resizing_keeps_what_fits() -> None:
    x = torch.randn(2, 3, 4, 4)
    assert FUNCTIONS["resize"](x, 4) is x
    assert torch.allclose(FUNCTIONS["resize"](torch.ones(1, 1, 6, 6), 3), torch.ones(1, 1, 3, 3))


def test_shapes_of_features() -> None:
    x = torch.randn(2, 3, 4, 4)
    f = FUNCTIONS
    assert f["pool"](x).shape == (2, 3) and f["pool"](f["pool"](x)).shape == (2, 3)
    assert f["pool"](torch.randn(2, 3, 7)).shape == (2, 3)
    assert f["flatten"](x).shape == (2, 48)
    assert f["concat"](x, x, x).shape == (2, 9, 4, 4)
    assert torch.equal(f["columns"](x, [2, 0]), torch.stack([x[:, 2], x[:, 0]], dim=1))
    assert torch.allclose(f["normalize"](x).norm(dim=1), torch.ones(2, 4, 4))
    assert f["onehot"](torch.tensor([2, 0]), 3).tolist() == [[0, 0, 1], [1, 0, 0]]


def test_reverse_turns_the_gradient_and_detach_stops_it() -> None:
    x = torch.randn(3, dtype=torch.float64, requires_grad=True)
    (FUNCTIONS["reverse"](x) ** 2).sum().backward()
    assert x.grad is not None and torch.allclose(x.grad, -2 * x)
    assert torch.equal(FUNCTIONS["reverse"](x), x)
    assert not FUNCTIONS["detach"](x).requires_grad
