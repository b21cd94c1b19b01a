"""Networks with branches: cut anywhere, equal to the plain network in every branch, with all of its taps."""

from __future__ import annotations

from copy import deepcopy
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.graph.branched import Branched, branch_state, branched
from kdplan.graph.deploy import deploy, parameter_count
from kdplan.graph.fork import BranchError, cut_at
from kdplan.graph.trace import trace
from kdplan.nn.models import create, initialise

RESNET = ("cifar_resnet", {"depth": 8})
X = (4, 3, 16, 16)


def made(base: tuple[str, dict[str, Any]] = RESNET, at: str = "layer3", count: int = 3, gate: str = "gate",
         shape: tuple[int, ...] = X[1:], seed: int = 3) -> Branched:  # fmt: skip
    net = initialise(lambda: branched(list(base), at, count, [gate, {}], list(shape)), seed)
    assert isinstance(net, Branched)
    return net


def plain(base: tuple[str, dict[str, Any]] = RESNET, seed: int = 3) -> nn.Module:
    return initialise(lambda: create(base[0], **base[1]), seed)


def by_hand(nets: list[nn.Module], gate: nn.Module, x: Tensor) -> tuple[list[Tensor], Tensor]:
    """A branched CIFAR ResNet as one would write it."""
    stem: Any = nets[0]
    shared = stem.layer2(stem.layer1(F.relu(stem.bn1(stem.conv1(x)))))
    logits = []
    for net in nets:
        own: Any = net
        logits.append(own.fc(own.layer3(shared).mean(dim=(2, 3))))
    g: Any = gate
    weights = F.softmax(F.relu(g.bn(g.fc(shared.mean(dim=(2, 3))))), dim=1)
    return logits, sum(weights[:, i : i + 1] * z for i, z in enumerate(logits))


@pytest.mark.parametrize("training", [True, False])
def test_it_is_what_one_would_write(training: bool) -> None:
    net = made().train(training)
    nets = []
    for i in range(3):
        one = plain()
        one.load_state_dict(branch_state(net.state_dict(), i))
        nets.append(one.train(training))
    gate = deepcopy(net.get_submodule("gate"))
    x = torch.randn(X, generator=torch.Generator().manual_seed(0))
    logits, together = by_hand(nets, gate, x)
    logits_found, found = net.outputs(x), made().train(training)(x)
    assert all(torch.equal(a, b) for a, b in zip(logits, logits_found, strict=True))
    torch.testing.assert_close(together, found, rtol=1e-6, atol=1e-6)
    F.cross_entropy(together, torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    fresh = made().train(training)
    F.cross_entropy(fresh(x), torch.arange(4)).backward()  # type: ignore[no-untyped-call]
    for name, p in nets[0].named_parameters():
        torch.testing.assert_close(p.grad, fresh.get_parameter(name).grad, rtol=1e-4, atol=1e-6)
    for name, p in nets[2].named_parameters():
        if name.startswith(("layer3", "fc")):
            torch.testing.assert_close(p.grad, fresh.get_parameter(f"branch.2.{name}").grad, rtol=1e-4, atol=1e-6)


def test_names_and_counts() -> None:
    net, one = made(), plain()
    assert set(one.state_dict()) == set(branch_state(net.state_dict(), 2))
    last = sum(p.numel() for n, p in one.named_parameters() if n.startswith(("layer3", "fc")))
    gate = parameter_count(net.get_submodule("gate"))
    assert gate == 32 * 3 + 3 + 6
    assert parameter_count(net) == parameter_count(one) + 2 * last + gate
    assert parameter_count(made(gate="mean")) == parameter_count(one) + 2 * last
    assert all(torch.equal(v, net.state_dict()[n]) for n, v in one.state_dict().items()), "the plain network's weights"
    assert not [n for n in net.state_dict() if n.startswith(("branch.1.layer2", "branch.0"))]


def test_a_branch_begins_the_same_however_many_there_are() -> None:
    two, four = made(count=2).state_dict(), made(count=4).state_dict()
    assert all(torch.equal(v, four[n]) for n, v in two.items() if not n.startswith("gate"))
    assert not torch.equal(four["branch.1.fc.weight"], four["branch.2.fc.weight"])
    assert not torch.equal(four["fc.weight"], four["branch.1.fc.weight"])


@pytest.mark.parametrize(
    ("base", "at", "shape"),
    [
        (("digits_net", {"width": 2}), "inputs", (1, 8, 8)),
        (("digits_net", {"width": 2}), "features", (1, 8, 8)),
        (("mlp", {"inputs": 64}), "fc", (1, 8, 8)),
        (("cifar_resnet", {"depth": 14}), "layer2.1", (3, 16, 16)),
        (("cifar_wide_resnet", {"depth": 10, "width": 1}), "layer3", (3, 16, 16)),
        (("cifar_densenet", {"depth": 10, "growth": 4}), "layer3", (3, 16, 16)),
        (("cifar_resnext", {"depth": 11, "cardinality": 2, "width": 4}), "layer3", (3, 16, 16)),
        (("cifar_vgg", {"depth": 11}), "layer4", (3, 32, 32)),
        (("torchvision", {"name": "mobilenet_v3_small", "classes": 5}), "features.8", (3, 32, 32)),
        (("torchvision", {"name": "googlenet", "classes": 5, "init_weights": True}), "inception5a", (3, 64, 64)),
        (("timm", {"name": "vit_tiny_patch16_224", "classes": 5, "img_size": 32}), "blocks.8", (3, 32, 32)),
    ],
)
def test_any_traced_network(base: tuple[str, dict[str, Any]], at: str, shape: tuple[int, ...]) -> None:
    """Every branch is the plain network with its weights, bit for bit, and all taps are there in each."""
    net = made(base, at, 2, "gate", shape).eval()
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        found = net.outputs(x)
        for i in range(2):
            one = plain(base).eval()
            one.load_state_dict(branch_state(net.state_dict(), i))
            assert torch.equal(one(x), found[i])
        traced = trace(net, x)
        assert torch.equal(traced.graph_module(x), net(x))
    names = set(trace(plain(base).eval(), x).taps)
    assert {f"branch.{i}.{name}" for i in range(2) for name in names} | {"gated", "gate"} <= set(traced.taps)


def test_taps_of_branches() -> None:
    net = made().eval()
    x = torch.randn(X)
    with torch.no_grad():
        values = {
            t: deploy(net, t, x)(x) for t in ("branch.1.layer3", "branch.1.features", "branch.1.layer2", "layer2")
        }
        one = plain().eval()
        one.load_state_dict(branch_state(net.state_dict(), 1))
        assert all(torch.equal(deploy(one, t.removeprefix("branch.1."), x)(x), v) for t, v in values.items())
        taps = trace(net, x).taps
        assert taps["branch.0.layer2"] == taps["branch.2.layer2"] == taps["layer2"]
        assert taps["branch.0.layer3"] == taps["layer3"] != taps["branch.1.layer3"]
        assert taps["gated"] == taps["output"] == taps["logits"]
        assert "features" not in taps, "each branch has its own"


class Writes(nn.Module):
    """Writes into what its last layers read, and drops some of it by a function."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.act, self.head = nn.Linear(4, 6), nn.ReLU(inplace=True), nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.head(F.dropout(self.act(self.stem(x)), 0.5, self.training))
        return found


def test_in_place_operations_behind_the_cut_do_not_meet() -> None:
    net = Branched([Writes(), Writes()], "act", ("mean", {}), [4]).eval()
    x = torch.randn(5, 4)
    nets = [Writes().eval() for _ in range(2)]
    for i, one in enumerate(nets):
        one.load_state_dict(branch_state(net.state_dict(), i))
        assert torch.equal(one(x), net.outputs(x)[i])
    point = deploy(net, "stem", x)(x)
    assert (point < 0).any()


def test_functions_follow_the_mode_of_their_own_branch() -> None:
    torch.manual_seed(0)  # now and then all units of a branch would be off, and nothing there to drop
    net = Branched([Writes(), Writes()], "head", ("mean", {}), [4])
    x = torch.randn(1000, 4)
    assert not torch.equal(net.train()(x), net(x))
    assert torch.equal(net.eval()(x), net(x))
    nets = Branched([Writes(), Writes()], "stem", ("mean", {}), [4]).eval()
    nets.get_submodule("branch.1").train()
    first, second = nets.outputs(x)
    assert torch.equal(first, nets.outputs(x)[0])
    assert not torch.equal(second, nets.outputs(x)[1])


class Asks(nn.Module):
    """Goes another way where images are large."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.fc = nn.Conv2d(1, 2, 3, padding=1), nn.Linear(2, 3)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv(x)
        if x.shape[2] > 8:
            x = x * 2
        found: Tensor = self.fc(x.mean(dim=(2, 3)))
        return found


def test_control_flow_on_shapes_is_asked_anew_for_other_shapes() -> None:
    net = Branched([Asks(), Asks()], "fc", ("mean", {}), [1, 8, 8]).eval()
    one = Asks().eval()
    one.load_state_dict(branch_state(net.state_dict(), 0))
    for size in (8, 16):
        x = torch.randn(3, 1, size, size)
        assert torch.equal(net.outputs(x)[0], one(x))


def test_it_can_be_copied_and_moved() -> None:
    net = made().eval()
    x = torch.randn(X)
    assert torch.equal(deepcopy(net)(x), net(x))
    half = deepcopy(net).double()
    assert half(x.double()).dtype == torch.float64


class Skips(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c, self.aside = (nn.Linear(4, 4) for _ in range(4))

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.c(x + self.b(self.a(x)))
        return found


class Twice(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.a, self.b = nn.Linear(4, 4), nn.Linear(4, 4)

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.a(self.b(self.a(x)))
        return found


@pytest.mark.parametrize(
    ("net", "at", "code", "why"),
    [
        (Skips(), "b", "KD0516", "without it"),
        (Skips(), "nothing", "KD0501", "Choose from"),
        (Skips(), "aside", "KD0501", "Choose from"),
        (Twice(), "b", "KD0516", "`a.bias` is used before it too"),
    ],
)
def test_where_no_cut_is(net: nn.Module, at: str, code: str, why: str) -> None:
    with pytest.raises(BranchError, match=why) as told:
        cut_at(trace(net, torch.zeros(2, 4)), at)
    assert told.value.code == code


def test_gates_that_do_not_fit(tmp_path: Any) -> None:
    (tmp_path / "gates.py").write_text(
        "from torch import nn\n"
        "def flat(outputs, inputs=32): return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), "
        "nn.Linear(inputs, outputs), nn.Softmax(dim=1))\n"
    )
    flat = f"{tmp_path / 'gates.py'}:flat"

    def gated(**settings: Any) -> Branched:
        return branched([*RESNET], "layer3", 2, [flat, settings], X[1:])

    assert gated(outputs=2)(torch.zeros(X)).shape == (4, 10)
    with pytest.raises(BranchError, match=r"gives \[B, 3\].*\[B, 2\]"):
        gated(outputs=3)
    with pytest.raises(BranchError, match="does not run on features 32×8×8"):
        gated(outputs=2, inputs=5)


def test_a_part_does_not_run_by_itself() -> None:
    with pytest.raises(RuntimeError, match="by itself"):
        made().get_submodule("layer3")(torch.zeros(1, 32, 4, 4))
