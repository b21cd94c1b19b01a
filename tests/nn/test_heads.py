"""Heads: against float64 references that go class by class, and the formulas of their sizes."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdplan.nn import heads
from kdplan.nn.heads import Head, PartLogits, SelfPaced, headed

PARTS = [[4, 0, 2], [1], [3, 5, 6, 7, 8]]
"""Of very unequal sizes, and not in the order of the classes."""


def array(t: torch.Tensor | None) -> np.ndarray:
    assert t is not None
    return t.detach().double().numpy()


def logits_by_class(layer: PartLogits, x: np.ndarray) -> np.ndarray:
    """Class by class: its own row of weights times its own part's units."""
    out = np.zeros((len(x), sum(map(len, PARTS))))
    row = 0
    for i, part in enumerate(PARTS):
        for c in part:
            out[:, c] = x[:, i] @ array(layer.weight)[row] + array(layer.bias)[row]
            row += 1
    return out


@pytest.mark.parametrize("small", [0, 1 << 20], ids=["a product a part", "padded"])
def test_logits_and_their_gradients(small: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SMALL", small)
    layer, x = PartLogits(4, PARTS), torch.randn(6, 3, 4, requires_grad=True)
    assert layer.padded == bool(small)
    g = torch.randn(6, 9)
    out = layer(x)
    np.testing.assert_allclose(array(out), logits_by_class(layer, array(x)), rtol=1e-5, atol=1e-6)
    out.backward(g)
    of_x, of_w = np.zeros(x.shape), np.zeros(layer.weight.shape)
    row = 0
    for i, part in enumerate(PARTS):
        for c in part:
            of_x[:, i] += np.outer(array(g)[:, c], array(layer.weight)[row])
            of_w[row] = array(g)[:, c] @ array(x)[:, i]
            row += 1
    np.testing.assert_allclose(array(x.grad), of_x, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(array(layer.weight.grad), of_w, rtol=1e-4, atol=1e-5)
    order = [c for part in PARTS for c in part]
    np.testing.assert_allclose(array(layer.bias.grad), array(g).sum(axis=0)[order], rtol=1e-4, atol=1e-5)


def test_gradients_in_float64(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heads, "SMALL", 0)
    layer, x = PartLogits(3, PARTS).double(), torch.randn(2, 3, 3, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(layer, (x,))
    assert torch.autograd.gradcheck(lambda w: torch.func.functional_call(layer, {"weight": w}, (x,)), (layer.weight,))


@settings(max_examples=30, deadline=None)
@given(st.integers(1, 9), st.integers(1, 6), st.integers(2, 6), st.data())
def test_the_four_formulas(base: int, s1: int, s2: int, data: st.DataObject) -> None:
    n, m = 9, len(PARTS)
    g = data.draw(st.integers(0, s2))

    def weights(*layers: tuple[str, int, int]) -> int:
        return sum(p.numel() for name, p in Head(base, n, layers, PARTS).named_parameters() if "weight" in name)

    assert weights(("fc", s1, 0), ("fc", s2, 0)) == s2 * n + s2 * s1 + s1 * base
    assert weights(("fc", s1, 0), ("sc", s2, 0)) == s2 * n + m * s2 * s1 + s1 * base
    assert weights(("sc", s1, 0), ("sc", s2, 0)) == s2 * n + m * s2 * s1 + m * s1 * base
    assert weights(("fc", s1, 0), ("sc", s2, g)) == s2 * n + m * (s2 - g) * s1 + g * s1 + s1 * base


LAYERS = {
    "FC-FC": [("fc", 5, 0), ("fc", 4, 0)],
    "FC-SC": [("fc", 5, 0), ("sc", 4, 0)],
    "SC-SC": [("sc", 5, 0), ("sc", 4, 0)],
    "FC-SC with a generic part": [("fc", 5, 0), ("sc", 4, 3)],
    "all of it generic": [("fc", 5, 0), ("sc", 4, 4)],
}


@pytest.mark.parametrize("layers", LAYERS.values(), ids=LAYERS.keys())
def test_a_head_is_a_small_network_for_each_part(layers: list[tuple[str, int, int]]) -> None:
    """Every part's classes by a plain network of the weights that they may read, in float64."""
    head, x = Head(7, 9, layers, PARTS), torch.randn(6, 7)
    p = {n: array(t) for n, t in head.named_parameters()}
    out = array(head(x))
    for i, part in enumerate(PARTS):
        h = array(x)
        for k, (kind, size, shared) in enumerate(layers, 1):
            at = f"top{k}.0"
            if kind == "fc" or shared == size:
                w, b = p[f"{at}.weight"], p[f"{at}.bias"]
            elif f"{at}.own.weight" in p:
                own = slice(i * (size - shared), (i + 1) * (size - shared))
                w, b = p[f"{at}.own.weight"][own], p[f"{at}.own.bias"][own]
                if shared:
                    w = np.concatenate([w, p[f"{at}.shared.weight"]])
                    b = np.concatenate([b, p[f"{at}.shared.bias"]])
            else:
                w, b = p[f"{at}.weight"][i], p[f"{at}.bias"][i, 0]
            h = np.maximum(h @ w.T + b, 0)
        first = sum(len(q) for q in PARTS[:i])
        rows = part if isinstance(head.logits, nn.Linear) else range(first, first + len(part))
        np.testing.assert_allclose(out[:, part], h @ p["logits.weight"][rows].T + p["logits.bias"][rows], atol=1e-6)


@pytest.mark.parametrize("each", ["part", "class"])
def test_self_paced(each: str) -> None:
    torch.manual_seed(0)
    logit_scale, x = SelfPaced(PARTS, each), torch.randn(5, 9, requires_grad=True)
    gamma = array(logit_scale.gamma)
    wanted = np.zeros((5, 9))
    for i, part in enumerate(PARTS):
        rows = array(x)[:, part]
        wanted[:, part] = (
            rows / np.sqrt((rows**2).sum(axis=1, keepdims=True)) * (gamma[i] if each == "part" else gamma[part])
        )
        starts = gamma[i] if each == "part" else gamma[part]
        assert np.abs(starts - np.sqrt(len(part))).max() < 0.01 and np.abs(starts - np.sqrt(len(part))).max() > 0
    np.testing.assert_allclose(array(logit_scale(x)), wanted, rtol=1e-5, atol=1e-6)
    double = SelfPaced(PARTS, each).double()
    assert torch.autograd.gradcheck(double, (torch.randn(2, 9, dtype=torch.float64, requires_grad=True),))


def test_self_paced_starts() -> None:
    assert SelfPaced(PARTS, start=10, noise=0).gamma.tolist() == [10, 10, 10]
    fixed = SelfPaced(PARTS, train=False)
    assert not list(fixed.parameters()) and "gamma" in fixed.state_dict()
    assert fixed.gamma.tolist() == pytest.approx([3**0.5, 1, 5**0.5])
    x = torch.zeros(2, 9, requires_grad=True)
    fixed(x).sum().backward()
    assert x.grad is not None and bool(x.grad.isfinite().all())


def test_bases_of_several_libraries() -> None:
    for base, path, inputs in (("cifar_resnet", "fc", 64), ("torchvision", "fc", 512), ("timm", "fc", 512)):
        given = {"cifar_resnet": {"depth": 8}, "torchvision": {"name": "resnet18"}, "timm": {"name": "resnet10t"}}[base]
        with torch.device("meta"):
            net = headed(base, {**given, "classes": 9}, LAYERS["FC-SC"], 9, PARTS)
        head = net.get_submodule(path)
        assert isinstance(head, Head) and head.get_submodule("top1.0").in_features == inputs
    with pytest.raises(ValueError, match="does not end in a linear layer"):
        headed("torchvision", {"name": "squeezenet1_0", "classes": 9}, LAYERS["FC-FC"], 9)
