"""Batch norms folded into frozen convolutions, against the same in float64; and what is left as it is."""

from __future__ import annotations

import copy
import itertools
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdplan.cli import main
from kdplan.compile import check_text, compile_source
from kdplan.diagnostics.span import Source
from kdplan.graph.build import Builder
from kdplan.graph.folding import Foldings, fold, folded_module, foldings
from kdplan.graph.freeze import split
from kdplan.graph.prune import prune

CONVS: list[tuple[type[nn.Module], type[nn.Module], int]] = [
    (nn.Conv1d, nn.BatchNorm1d, 1), (nn.Conv2d, nn.BatchNorm2d, 2), (nn.Conv3d, nn.BatchNorm3d, 3),
    (nn.ConvTranspose1d, nn.BatchNorm1d, 1), (nn.ConvTranspose2d, nn.BatchNorm2d, 2),
    (nn.ConvTranspose3d, nn.BatchNorm3d, 3),
]  # fmt: skip


def drawn(norm: nn.Module) -> nn.Module:
    """A batch norm with numbers that are far from the initial ones."""
    for name, tensor in (*norm.named_parameters(), *norm.named_buffers()):
        if tensor.is_floating_point():
            nn.init.uniform_(tensor, 0.2, 3.0) if name == "running_var" else nn.init.normal_(tensor)
    return norm.eval()


@pytest.mark.parametrize(("conv", "norm", "dims"), CONVS, ids=lambda v: getattr(v, "__name__", str(v)))
@pytest.mark.parametrize("groups", [1, 2])
def test_module(conv: Any, norm: Any, dims: int, groups: int) -> None:
    torch.manual_seed(0)
    x = torch.randn(3, 4, *[6] * dims, dtype=torch.float64)
    for bias, affine, eps, dilation in itertools.product((False, True), (False, True), (1e-5, 0.3), (1, 2)):
        one = conv(4, 6, 3, stride=2, padding=1, groups=groups, bias=bias, dilation=dilation).eval()
        other = drawn(norm(6, eps=eps, affine=affine))
        exact = copy.deepcopy(other).double()(copy.deepcopy(one).double()(x))
        before = [t.clone() for m in (one, other) for t in m.state_dict().values()]
        merged = folded_module(one, other)
        torch.testing.assert_close(copy.deepcopy(merged).double()(x), exact, rtol=1e-5, atol=2e-5)
        error = (merged(x.float()) - exact).abs().max()
        plain = (other(one(x.float())) - exact).abs().max()
        assert error <= 4 * plain + 1e-6, "rounded no worse than the two modules"
        assert all(map(torch.equal, before, (t for m in (one, other) for t in m.state_dict().values())))


def test_float64_is_exact_and_padding_modes() -> None:
    torch.manual_seed(0)
    for padding in ("zeros", "reflect", "circular", "replicate"):
        conv = nn.Conv2d(2, 3, 3, padding=1, padding_mode=padding).double()
        norm = drawn(nn.BatchNorm2d(3)).double()
        x = torch.randn(2, 2, 5, 5, dtype=torch.float64)
        torch.testing.assert_close(folded_module(conv, norm)(x), norm(conv(x)), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half(dtype: torch.dtype) -> None:
    """Under autocast the folded weights are rounded once, and what comes out is as near to float64 as before."""
    torch.manual_seed(0)
    conv, norm, x = nn.Conv2d(8, 8, 3), drawn(nn.BatchNorm2d(8)), torch.randn(4, 8, 9, 9)
    exact = copy.deepcopy(norm).double()(copy.deepcopy(conv).double()(x.double()))
    with torch.autocast("cpu", dtype):
        errors = [
            (f(x).double() - exact).abs().max().item() for f in (folded_module(conv, norm), lambda x: norm(conv(x)))
        ]
    assert errors[0] <= 2 * errors[1]


def test_channels_last_stays() -> None:
    conv = nn.Conv2d(4, 8, 3).to(memory_format=torch.channels_last)
    assert folded_module(conv, drawn(nn.BatchNorm2d(8))).weight.stride() == conv.weight.stride()


class Net(nn.Module):
    """One convolution with its norm, as `forward` says."""

    def __init__(self, how: str) -> None:
        super().__init__()
        self.how = how
        self.conv, self.norm, self.fc = nn.Conv2d(1, 4, 3, bias=False), drawn(nn.BatchNorm2d(4)), nn.Linear(4, 2)
        if how == "subclass":
            self.conv = type("Own", (nn.Conv2d,), {})(1, 4, 3)
        if how == "statistics":
            self.norm = nn.BatchNorm2d(4, track_running_stats=False)
        if how == "hook":
            self.norm.register_forward_hook(lambda m, i, o: o * 2)

    def forward(self, x: Tensor) -> Tensor:
        mapped = self.conv(x)
        if self.how == "relu":
            mapped = torch.relu(mapped)
        y = self.norm(mapped)
        if self.how == "users":
            y = y + mapped
        if self.how == "twice":
            y = y + self.norm(self.conv(x * 2))
        return self.fc(y.mean((2, 3)))


def phase(how: str = "", tap: str = "", training: bool = False) -> tuple[Any, Any, Any]:
    torch.manual_seed(0)
    b = Builder()
    x = b.input("x", torch.zeros(3, 1, 6, 6))
    big = Net(how).train(training).requires_grad_(False)
    b.network("big", big)
    b.network("small", nn.Sequential(nn.Flatten(), nn.Linear(36, 2)))
    loss = b.call(nn.functional.mse_loss, b.apply("small", (x,)), b.apply("big", (x,)))
    if tap:
        loss = b.call(torch.add, loss, b.call(torch.sum, b.apply("big", (x,), tap)))
    joined = b.finish({"loss": loss})
    gm = prune(joined.graph_module).graph_module
    return gm, split(gm, {n for n, _ in gm.named_parameters() if "small" in n}), joined.training


def found(how: str = "", tap: str = "", training: bool = False, changing: set[int] = frozenset()) -> Foldings:  # type: ignore[assignment]
    gm, cut, modes = phase(how, tap, training)
    return foldings(gm, cut.frozen, modes, changing)


@pytest.mark.parametrize(("how", "tap"), [("", ""), ("twice", ""), ("", "norm")])
def test_a_graph_gives_the_same(how: str, tap: str) -> None:
    gm, cut, modes = phase(how, tap)
    pairs = foldings(gm, cut.frozen, modes, set()).pairs
    assert len(pairs) == (2 if how == "twice" else 1)
    names = [n.name for n in cut.frozen.graph.nodes]
    folded = fold(gm, cut.frozen, pairs)
    x = torch.randn(3, 1, 6, 6)
    with torch.no_grad():
        one, other = folded(x=x), cut.frozen(x=x)
    assert one.keys() == other.keys()
    for name in one:
        torch.testing.assert_close(one[name], other[name], rtol=1e-5, atol=1e-5)
    kept = [n.name for n in folded.graph.nodes]
    assert kept == [n for n in names if n not in pairs.values()]
    assert {id(m) for m in gm.modules()} >= {id(folded.get_submodule(f"folded.{n}")) for n in pairs}


@pytest.mark.parametrize(
    ("how", "tap", "why"),
    [
        ("relu", "", "no convolution"),
        ("subclass", "", "no convolution"),
        ("users", "", "read elsewhere"),
        ("", "conv", "read elsewhere"),
        ("statistics", "", "statistics of each batch"),
    ],
)
def test_what_is_left_as_it_is(how: str, tap: str, why: str) -> None:
    given = found(how, tap)
    assert not given.pairs and [w for w in given.why if why in w], given


def test_training_mode_and_changing_numbers() -> None:
    assert "statistics of each batch" in str(found(training=True).why)
    gm, cut, modes = phase()
    changing = {id(gm.get_submodule("nets.big.conv").weight)}
    assert not foldings(gm, cut.frozen, modes, changing).pairs


PLAN = """
data digits = digits {{ limit = 60 }}
recipe first {{ optimizer = sgd(lr = 0.05)  epochs = 1  batch = 30 }}
recipe quick = first {{ epochs = 2  {setting} }}
teacher big = digits_net(width = 4) {{
  phase train on digits with first {{ loss = cross_entropy(self.logits, labels) }}
}}
student small = digits_net(width = 2)
{more}
phase kd of small on digits with quick {{ loss = {loss} }}
measure table of small@kd on digits.test {{ cross_entropy }}
"""
KD = "kd(small.logits, big.logits, temperature = 4)"


def text(setting: str, loss: str = KD, more: str = "") -> str:
    return PLAN.format(setting=setting, loss=loss, more=more)


@pytest.mark.parametrize(
    ("setting", "loss", "more", "refused"),
    [
        ("fold = true", KD, "", False),
        (
            "fold = true",
            KD + " + mse(fit(small.layer2.0.conv, like = big.layer2.0.conv), big.layer2.0.conv)",
            "",
            False,
        ),  # two of three norms
        ("fold = true  frozen = auto", KD, "", False),
        ("fold = true  frozen = stored", KD, "", True),
        (
            "fold = true",
            "kd(small.logits, slow.logits, temperature = 4)",
            "network slow = ema(small, decay = 0.9)",
            True,
        ),
        ("fold = true", "cross_entropy(small.logits, labels)", "", True),
    ],
)
def test_check(setting: str, loss: str, more: str, refused: bool) -> None:
    codes = {d.code for d in check_text(text(setting, loss, more)) if d.severity == "error"}
    assert codes == ({"KD1008"} if refused else set())


def test_the_key_has_it() -> None:
    keys = [
        {n: k.key for n, k in compile_source(Source("a.kd", text(s)), Path(".")).keys.items()}
        for s in ("", "fold = false", "fold = true")
    ]
    assert keys[0] == keys[1] and keys[0]["kd"] != keys[2]["kd"] and keys[0]["big@train"] == keys[2]["big@train"]


@pytest.mark.parametrize("more", ["", "precision = bf16", "layout = channels_last", "shards = 2", "threads = 1"])
def test_a_run(more: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A phase trained with and without folding ends nearly alike."""
    ends = []
    for setting in ("", "fold = true"):
        file = tmp_path / "a.kd"
        file.write_text(text(f"{setting}  {more}"))
        assert (
            main(["run", str(file), "--store", str(tmp_path / "s"), "--csv", str(tmp_path / f"csv{setting[:4]}")]) == 0
        )
        (table,) = (tmp_path / f"csv{setting[:4]}").rglob("*.csv")
        ends.append(float(table.read_text().splitlines()[-1].split(",")[-1]))
    assert ends[0] == pytest.approx(ends[1], rel=2e-2 if "bf16" in more else 1e-3)
