"""Optimizers by name, and weight averages that resume to the bit."""

from __future__ import annotations

import inspect
from typing import Any

import pytest
import torch
from torch import nn
from torch.optim import Optimizer

from kdplan.ir.optimizers import OPTIMIZERS
from kdplan.nn.optim import WeightAverage, build_optimizer, set_lr_factor

IMPLEMENTATION = {"self", "params", "foreach", "fused", "capturable", "differentiable"}


def test_table_is_what_torch_has() -> None:
    classes = {
        n: c
        for n in dir(torch.optim)
        if inspect.isclass(c := getattr(torch.optim, n)) and issubclass(c, Optimizer) and c is not Optimizer
    }
    rows = {spec.implementation.removeprefix("torch.optim:"): spec for spec in OPTIMIZERS.values()}
    assert rows.keys() == classes.keys() - {"LBFGS"}
    for name, spec in rows.items():
        assert spec.name == name.lower()
        parameters = inspect.signature(classes[name].__init__).parameters
        assert [p.name for p in spec.params] == [n for n in parameters if n not in IMPLEMENTATION], name
        assert all(p.default == parameters[p.name].default for p in spec.params), name


@pytest.mark.parametrize("name", sorted(OPTIMIZERS.keys() - {"sparseadam"}))
def test_every_optimizer_lowers_a_loss(name: str) -> None:
    torch.manual_seed(0)
    net = nn.Linear(4, 3, bias=False)
    x, y = torch.randn(16, 4), torch.randn(16, 3)
    optimizer = build_optimizer(name, {"lr": 0.01}, net.parameters())
    losses = []
    for _ in range(5):
        optimizer.zero_grad()
        loss = (net(x) - y).square().mean()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0]


def test_settings_reach_torch() -> None:
    net = nn.Linear(2, 2)
    groups: list[dict[str, Any]] = [{"params": [net.weight]}, {"params": [net.bias], "lr": 0.5}]
    o = build_optimizer("adamw", {"lr": 0.1, "betas": [0.8, 0.9], "weight_decay": 0.05}, groups)
    assert [g["betas"] for g in o.param_groups] == [(0.8, 0.9)] * 2
    set_lr_factor(o, 0.1)
    set_lr_factor(o, 0.1)
    assert [g["lr"] for g in o.param_groups] == pytest.approx([0.01, 0.05])
    again = build_optimizer("adamw", {"lr": 0.7}, groups)
    again.load_state_dict(o.state_dict())
    set_lr_factor(again, 1.0)
    assert [g["lr"] for g in again.param_groups] == [0.1, 0.5]
    assert build_optimizer("adagrad", {}, net.parameters(), fused=True).defaults["fused"]


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("sdg", {}, "did you mean `sgd`"),
        ("sgd", {"momentun": 0.9}, "did you mean `momentum`"),
        ("sgd", {"lr": -1.0}, "`sgd` refuses.*learning rate"),
        ("sgd", {"nesterov": True}, "Nesterov"),
        ("adam", {"betas": 0.9}, "refuses"),
        ("muon", {}, "refuses.*2D"),
    ],
)
def test_mistakes_are_told(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        build_optimizer(name, settings, nn.Linear(2, 2).parameters())


def net_with_statistics() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(3, 4), nn.BatchNorm1d(4), nn.Linear(4, 2))


def stir(net: nn.Module, seed: int) -> None:
    """A step of random changes, running statistics and counters included."""
    torch.manual_seed(seed)
    with torch.no_grad():
        for p in net.parameters():
            p.add_(torch.randn_like(p))
    net(torch.randn(8, 3))


def test_average_is_the_formula() -> None:
    net = net_with_statistics()
    average = WeightAverage(net, decay=0.9)
    expected = {k: v.detach().clone().double() for k, v in net.state_dict().items()}
    for n in range(20):
        stir(net, n)
        average.update()
        d = min(0.9, (1 + n) / (10 + n))
        for k, v in net.state_dict().items():
            expected[k] = d * expected[k] + (1 - d) * v.double() if v.is_floating_point() else v
    for k, v in average.state_dict().items():
        assert torch.allclose(v.double(), expected[k].double(), atol=1e-5), k
    assert average.state_dict()["1.num_batches_tracked"].item() == 20


def test_average_resumes_to_the_bit() -> None:
    def go(cut: int | None) -> dict[str, torch.Tensor]:
        net = net_with_statistics()
        average = WeightAverage(net, decay=0.99)
        for n in range(12):
            if n == cut:
                state = {k: v.clone() for k, v in average.state_dict().items()}
                updates, average = average.updates, WeightAverage(net, decay=0.99)
                average.load_state_dict(state, updates)
            stir(net, n)
            average.update()
        return average.state_dict()

    whole = go(None)
    for cut in (1, 7):
        assert all(torch.equal(v, whole[k]) for k, v in go(cut).items())


def test_swapping_shows_the_average_and_gives_everything_back() -> None:
    net = net_with_statistics()
    average = WeightAverage(net, decay=0.5)
    stir(net, 1)
    average.update()
    own = {k: v.clone() for k, v in net.state_dict().items()}
    with pytest.raises(RuntimeError, match="stop"), average.swapped():
        assert all(torch.equal(v, average.state_dict()[k]) for k, v in net.state_dict().items())
        raise RuntimeError("stop")
    assert all(torch.equal(v, own[k]) for k, v in net.state_dict().items())
    assert all(p.requires_grad and p.is_leaf for p in net.parameters())


def test_decay_out_of_range_is_told() -> None:
    with pytest.raises(ValueError, match=r"from 0 to 1, not 1\.5"):
        WeightAverage(nn.Linear(1, 1), decay=1.5)
