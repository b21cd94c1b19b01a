"""Networks: parameter counts, names, initial weights, heads and channels, and the messages for wrong settings."""

from __future__ import annotations

import inspect
import random
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from kdplan.graph.trace import trace
from kdplan.ir import user_code
from kdplan.ir.trust import trusting
from kdplan.nn.catalog import MODELS
from kdplan.nn.models import create, find, initialise
from kdplan.nn.models.zoo import load_fitted
from kdplan.nn.weight_files import WeightsFile
from kdplan.nn.weight_fit import MisfitError


def size(net: nn.Module) -> int:
    return sum(p.numel() for p in net.parameters())


@pytest.mark.parametrize(
    ("settings", "count"),
    [
        ({"depth": 20, "classes": 100}, 278324),
        ({"depth": 32, "classes": 100}, 472756),
        ({"depth": 56, "classes": 100}, 861620),
        ({"depth": 110, "classes": 100}, 1736564),
        ({"depth": 8, "classes": 100, "width": [32, 64, 128, 256]}, 1233540),
        ({"depth": 32, "classes": 100, "width": [32, 64, 128, 256]}, 7433860),
        ({"depth": 20, "shortcut": "pad"}, 269722),
        ({"depth": 32, "shortcut": "pad"}, 464154),
        ({"depth": 56, "shortcut": "pad"}, 853018),
        ({"depth": 110, "shortcut": "pad"}, 1727962),
    ],
)
def test_cifar_resnet_has_the_known_number_of_parameters(settings: dict[str, object], count: int) -> None:
    with torch.device("meta"):
        assert size(create("cifar_resnet", **settings)) == count


@pytest.mark.parametrize(
    ("name", "settings", "count"),
    [
        ("cifar_resnet", {"depth": 164, "block": "bottleneck"}, 1_704_154),
        ("cifar_wide_resnet", {"depth": 16, "width": 2, "classes": 100}, 703_284),
        ("cifar_wide_resnet", {"depth": 40, "width": 2, "classes": 100}, 2_255_156),
        ("cifar_wide_resnet", {"depth": 28, "width": 10, "classes": 100}, 36.5e6),
        ("cifar_densenet", {"depth": 100, "growth": 12}, 769_162),
        ("cifar_densenet", {"depth": 100, "growth": 12, "classes": 100}, 800_032),
        ("cifar_densenet", {"depth": 40, "growth": 12}, 176_122),
        ("cifar_densenet", {"depth": 40, "growth": 12, "classes": 100}, 188_092),
        ("cifar_densenet", {"depth": 250, "growth": 24}, 15.3e6),
        ("cifar_densenet", {"depth": 190, "growth": 40}, 25_624_430),
        ("cifar_densenet", {"depth": 40, "growth": 12, "reduction": 1.0, "bottleneck": False}, 1.0e6),
        ("cifar_densenet", {"depth": 100, "growth": 24, "reduction": 1.0, "bottleneck": False}, 27.2e6),
        ("cifar_densenet", {"blocks": [6, 12, 24, 16], "growth": 32, "classes": 100}, 7_048_548),
        ("cifar_resnext", {"cardinality": 8}, 34.4e6),
        ("cifar_resnext", {"cardinality": 16}, 68.1e6),
        ("cifar_vgg", {"depth": 8, "classes": 100}, 3_965_028),
        ("cifar_vgg", {"depth": 11}, 9_231_114),
        ("cifar_vgg", {"depth": 13, "classes": 100}, 9_462_180),
        ("cifar_vgg", {"depth": 16}, 14_728_266),
        ("cifar_vgg", {"depth": 19}, 20_040_522),
    ],
)
def test_networks_have_the_published_number_of_parameters(name: str, settings: dict[str, object], count: float) -> None:
    """Numbers in millions are published with one digit, cut or rounded."""
    with torch.device("meta"):
        found = size(create(name, **settings))
    assert found == count if isinstance(count, int) else abs(found - count) < 1e5


@pytest.mark.parametrize(
    ("name", "settings", "message"),
    [
        ("cifar_vgg", {"depth": 12}, "12 does not fit, the nearest is 11"),
        ("cifar_vgg", {"width": 0}, "above 0"),
        ("cifar_densenet", {"depth": 101}, "with bottlenecks has depth 6n \\+ 4; 101 does not fit, the nearest is 100"),
        ("cifar_densenet", {"depth": 41, "bottleneck": False}, "3n \\+ 4; 41 does not fit, the nearest is 40"),
        ("cifar_densenet", {"blocks": [2, 0]}, "each at least 1"),
        ("cifar_densenet", {"reduction": 1.5}, "at most 1, not 1.5"),
        ("cifar_densenet", {"growth": 0}, "growth is at least 1"),
        ("cifar_resnext", {"depth": 30}, "the nearest is 29"),
        ("cifar_resnext", {"cardinality": 0}, "at least 1"),
        ("cifar_densenet", {"blocks": [1500, 501]}, "at most 2000 layers, not 2001"),
        ("mlp", {"inputs": 4, "hidden": [1] * 2001}, "at most 2000 layers, not 2001"),
    ],
)
def test_impossible_networks_are_told(name: str, settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create(name, **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"depth": 18}, "18 does not fit, the nearest is 20"),
        ({"depth": 2}, "the nearest is 8"),
        ({"depth": 112, "block": "bottleneck"}, "9n \\+ 2; 112 does not fit, the nearest is 110"),
        ({"block": "basc"}, "`basic` or `bottleneck`, not `basc`"),
        ({"shortcut": "A"}, "`projection` or `pad`"),
        ({"width": [16, 16]}, "four channel counts"),
        ({"width": 0}, "above 0"),
        ({"dept": 20}, "no setting `dept`; did you mean `depth`"),
    ],
)
def test_impossible_settings_are_told(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        create("cifar_resnet", **settings)


SMALL: dict[str, dict[str, object]] = {
    "cifar_resnet": {"depth": 11, "block": "bottleneck", "shortcut": "pad", "width": 0.5, "channels": 1},
    "cifar_wide_resnet": {"depth": 10, "width": 1, "channels": 1, "dropout": 0.3},
    "cifar_densenet": {"depth": 22, "growth": 4, "channels": 1, "dropout": 0.2},
    "cifar_resnext": {"depth": 11, "cardinality": 2, "width": 4, "channels": 1},
    "bn_inception": {"base": "mixed3b", "channels": 1},
    "cifar_vgg": {"depth": 11, "width": 0.1, "channels": 1},
    "digits_net": {"width": 4, "blocks": 2},
    "mlp": {"inputs": 64, "hidden": []},
    "torchvision": {"name": "squeezenet1_1", "classes": 10, "channels": 1},
    "timm": {"name": "resnet10t", "classes": 10, "channels": 1},
}


@pytest.mark.parametrize("name", SMALL)
def test_networks_learn_on_one_channel(name: str) -> None:
    net = initialise(lambda: create(name, **SMALL[name]), 0)
    side = 8 if name in ("mlp", "digits_net") else 32
    x = torch.randn(4, 1, side, side)
    y = net(x)
    assert y.shape == (4, 10)
    y.square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in net.parameters())


@pytest.mark.parametrize("name", [n for n in SMALL if n.startswith("cifar")])
def test_traced_networks_are_what_they_were(name: str) -> None:
    """With its layers as taps, and the same outputs and gradients at another batch size; a block's inner layers too."""
    settings = {k: v for k, v in SMALL[name].items() if k != "dropout"}
    net = initialise(lambda: create(name, **settings), 0)
    traced = trace(net, torch.randn(2, 1, 32, 32))
    layers = [n for n, _ in net.named_modules() if n.startswith("layer")]
    assert {"layer1", "layer2", "layer3", "fc"} <= set(traced.taps) and set(layers) <= set(traced.taps)
    assert not traced.leaves and traced.holds_for(torch.zeros(3, 1, 32, 32))
    x = torch.randn(3, 1, 32, 32)
    outputs, gradients = [], []
    for call in (net, traced.graph_module):
        net.zero_grad()
        y = call(x)
        y.square().mean().backward()
        outputs.append(y.detach())
        gradients.append([p.grad.clone() for p in net.parameters() if p.grad is not None])
    assert torch.equal(*outputs)
    assert all(torch.equal(a, b) for a, b in zip(*gradients, strict=True)) and len(gradients[0]) > 10


@pytest.mark.parametrize("name", [n for n in SMALL if n.startswith("cifar")] + ["digits_net"])
def test_taps_have_the_expected_names_and_sizes(name: str) -> None:
    net = create(name, **{k: v for k, v in SMALL[name].items() if k != "channels"})
    x = torch.zeros(1, 1 if name == "digits_net" else 3, 32, 32)
    seen: dict[str, torch.Size] = {}
    for path, module in net.named_children():
        module.register_forward_hook(lambda m, i, o, path=path: seen.__setitem__(path, o.shape))
    net.eval()(x)
    sides = {"layer1": 16, "layer2": 8} if name == "digits_net" else {"layer1": 32, "layer2": 16, "layer3": 8}
    assert {k: seen[k][-1] for k in sides} == sides
    assert seen["fc"] == (1, 10)


def test_bottleneck_and_pad_shortcut_forward() -> None:
    """The padded shortcut of a fresh block without its convolutions is the subsampled input in the middle channels."""
    net = create("cifar_resnet", depth=8, shortcut="pad")
    x = torch.randn(2, 16, 8, 8)
    out = net.get_submodule("layer2.0.shortcut")(x)
    assert out.shape == (2, 32, 4, 4)
    assert torch.equal(out[:, 8:24], x[:, :, ::2, ::2]) and out.count_nonzero() == out[:, 8:24].count_nonzero()


def test_initial_weights_depend_on_architecture_and_seed_only() -> None:
    def build() -> nn.Module:
        return create("cifar_resnet", depth=8)

    torch.manual_seed(1)
    before = torch.get_rng_state()
    a = initialise(build, 5)
    assert torch.equal(before, torch.get_rng_state())
    torch.rand(7)
    b, c = initialise(build, 5), initialise(build, 6)
    assert all(torch.equal(p, q) for p, q in zip(a.state_dict().values(), b.state_dict().values(), strict=True))
    assert not torch.equal(a.get_parameter("conv1.weight"), c.get_parameter("conv1.weight"))


def test_a_failing_build_leaves_the_generator_alone() -> None:
    before = torch.get_rng_state()

    def build() -> nn.Module:
        torch.rand(3)
        raise ValueError("no")

    with pytest.raises(ValueError, match="no"):
        initialise(build, 5)
    assert torch.equal(before, torch.get_rng_state())


def test_other_generators_are_seeded_and_given_back_too() -> None:
    """A user's factory may draw from Python's or NumPy's generator."""
    drawn: list[tuple[float, float]] = []

    def build() -> nn.Module:
        drawn.append((random.random(), float(np.random.rand())))
        return nn.Identity()

    random.seed(0)
    np.random.seed(0)
    expected = random.random(), np.random.rand()
    random.seed(0)
    np.random.seed(0)
    for seed in (5, 5, 6, 2**63 - 1):
        initialise(build, seed)
    assert (random.random(), np.random.rand()) == expected
    assert drawn[0] == drawn[1] != drawn[2]


def test_convolutions_start_kaiming_fan_out() -> None:
    net = initialise(lambda: create("cifar_resnet", depth=8, width=4), 0)
    weight = net.get_parameter("layer3.0.conv1.weight")  # 128 channels in, 256 out
    assert weight.std().item() == pytest.approx((2 / (256 * 9)) ** 0.5, rel=0.01)
    assert net.get_parameter("bn1.weight").eq(1).all() and net.get_parameter("bn1.bias").eq(0).all()


def test_catalog_is_the_signatures() -> None:
    for name, spec in MODELS.items():
        parameters = inspect.signature(find(name)).parameters
        passed_on = {n for n, p in parameters.items() if p.kind is p.VAR_KEYWORD}
        assert spec.more == bool(passed_on), name
        assert [p.name for p in spec.params] == [n for n in parameters if n not in passed_on], name
        for setting in spec.params:
            default = parameters[setting.name].default
            assert setting.required == (default is inspect.Parameter.empty), (name, setting.name)
            assert setting.required or setting.default == default, (name, setting.name)
        assert find(name).__doc__, name


def test_users_own_networks(tmp_path: Path) -> None:
    file = tmp_path / "nets.py"
    file.write_text(
        "from torch import nn\ndef tiny(classes=3):\n    return nn.Linear(2, classes)\n"
        "def wrong():\n    return 7\ndef bad():\n    assert False, 'never'\n"
    )
    assert create(f"{file}:tiny", classes=4).out_features == 4
    assert isinstance(create("torch.nn:Linear", in_features=2, out_features=3), nn.Linear)
    for factory, message in [
        (f"{file}:tinny", "did you mean `tiny`"),
        (f"{file}:bad", "failed with these settings: AssertionError: never"),
        (f"{file}:wrong", "returned a int, not a torch module"),
        ("no.such.module:net", "cannot be imported: ModuleNotFoundError"),
        ("resnet20", "there is no network `resnet20`"),
        ("cifar_resnt", "did you mean `cifar_resnet`"),
    ]:
        with trusting(["no"]), pytest.raises(ValueError, match=message):
            create(factory)
    with pytest.raises(ValueError, match="needs `in_features`"):
        create("torch.nn:Linear", out_features=3)
    with pytest.raises(FileNotFoundError, match=r"absent\.py"):
        create(f"{tmp_path}/absent.py:net")
    file.write_text("1 / 0")
    user_code.begin()
    with pytest.raises(ValueError, match="ZeroDivisionError"):
        create(f"{file}:tiny")


def test_unknown_zoo_names_and_missing_weights() -> None:
    with pytest.raises(ValueError, match="did you mean `resnet18`"):
        create("torchvision", name="resnet-18")
    with pytest.raises(ValueError, match="timm has no network"):
        create("timm", name="no_such_net")
    with pytest.raises(ValueError, match=r"no weights `IMAGENET`.*IMAGENET1K_V1"):
        create("torchvision", name="resnet18", weights="IMAGENET")
    with pytest.raises(FileNotFoundError, match="no file with weights at"):
        create("timm", name="resnet10t", checkpoint="absent.safetensors")
    with pytest.raises(ValueError, match="refuses"):
        create("torchvision", name="resnet18", no_such_setting=1)


def test_named_weights_are_read_from_the_hub_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    with pytest.raises(FileNotFoundError, match=f"looked for {tmp_path}.*squeezenet1_1"):
        create("torchvision", name="squeezenet1_1", weights="DEFAULT")
    from torchvision.models import SqueezeNet1_1_Weights  # type: ignore[import-untyped]

    source = initialise(lambda: create("torchvision", name="squeezenet1_1"), 3)
    file = tmp_path / "hub" / "checkpoints" / SqueezeNet1_1_Weights.DEFAULT.url.rsplit("/", 1)[-1]
    file.parent.mkdir(parents=True)
    torch.save(source.state_dict(), file)
    same = create("torchvision", name="squeezenet1_1", weights="IMAGENET1K_V1")
    assert all(torch.equal(same.state_dict()[k], v) for k, v in source.state_dict().items())
    with pytest.raises(MisfitError, match=r"`classifier.1.weight` is \[1000, 512, 1, 1\], where \[10, 512, 1, 1\]"):
        create("torchvision", name="squeezenet1_1", weights="IMAGENET1K_V1", classes=10)
    but_the_head = {"from": "IMAGENET1K_V1", "except": ["classifier"]}
    grey = create("torchvision", name="squeezenet1_1", weights=but_the_head, classes=10, channels=1).eval()
    x = torch.rand(2, 1, 64, 64)
    features = grey.get_submodule("features"), source.eval().get_submodule("features")
    assert torch.allclose(features[0](x), features[1](x.expand(-1, 3, -1, -1)), atol=1e-5)
    assert grey(x).shape == (2, 10)


def test_weights_of_another_network_are_refused() -> None:
    net = create("mlp", inputs=4, hidden=[8], classes=3)
    other = create("mlp", inputs=4, hidden=[8], classes=5)
    file = WeightsFile(dict(other.state_dict()))
    with pytest.raises(MisfitError, match=r"`fc.weight` is \[5, 8\]"):
        load_fitted(net, file, "w.pth")
    load_fitted(net, file, {"from": "w.pth", "except": ["fc"]})
    assert torch.equal(net.get_parameter("layer1.linear.weight"), other.get_parameter("layer1.linear.weight"))


def test_inception_has_the_published_number_of_variables() -> None:
    """10,173,112 in the slim version without its logits. Its first convolution is separable, with a bias and no batch
    norm; its batch norms have an offset and two statistics, but no factor."""
    with torch.device("meta"):
        net = create("bn_inception")
    convolutions = [m.weight.numel() for m in net.modules() if isinstance(m, nn.Conv2d)]
    separable = 7 * 7 * 3 * 8 + 24 * 64 + 64
    channels = [m.num_features for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    assert sum(convolutions[1:]) + separable + 3 * sum(channels[1:]) == 10_173_112


def test_inception_has_the_two_bases() -> None:
    with torch.device("meta"):
        whole, early = create("bn_inception", pool=3), create("bn_inception", base="mixed3b")
        x = torch.zeros(1, 3, 224, 224)
        assert whole[:-3](x).shape == (1, 1024, 7, 7) and whole[:-1](x).shape == (1, 9216)
        assert early[:-3](x).shape == (1, 256, 28, 28) and early[:-1](x).shape == (1, 256)
    maps = torch.rand(2, 5, 7, 7)
    torch.testing.assert_close(nn.AdaptiveAvgPool2d(3)(maps), nn.AvgPool2d(3, stride=2)(maps))
    with pytest.raises(ValueError, match="no block `mixed6a`"):
        create("bn_inception", base="mixed6a")
