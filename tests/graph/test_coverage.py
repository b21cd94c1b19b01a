"""How many library networks can be traced, tapped, and run exactly like the original.

Slow, so not part of a plain test run: `pytest -m slow tests/graph/test_coverage.py -s` prints the table.
"""

from __future__ import annotations

import copy
import time
import warnings
from dataclasses import dataclass
from typing import Any

import pytest
import timm
import torch
import torchvision
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from kdplan.graph.trace import Traced, trace

TORCHVISION = torchvision.models.list_models(module=torchvision.models)
# Networks with more parameters than this are traced on the meta device and not run.
LARGEST = 30_000_000


def timm_sample() -> list[str]:
    """One network of each family that timm has, the smallest by name, without pretrained tags."""
    families: dict[str, str] = {}
    for module in sorted(timm.list_modules()):
        names = timm.list_models(module=module)
        small = [n for n in names if any(t in n for t in ("nano", "atto", "pico", "tiny", "small", "_s", "18", "xx"))]
        if names:
            families[module] = sorted(small or names, key=lambda n: (len(n), n))[0]
    extra = ["efficientnet_b0", "tf_efficientnetv2_b0", "resnet26d", "seresnet18", "vit_base_patch32_224"]
    return sorted({*families.values(), *extra})


@dataclass
class Row:
    """What was found for one network in one mode."""

    name: str
    mode: str
    seconds: float
    nodes: int
    taps: int
    modules: int
    leaves: tuple[str, ...]
    guards: int
    any_batch: bool
    equal: str


def examine(name: str, net: nn.Module, size: int, mode: str, run: bool) -> Row:
    net.train(mode == "train")
    x = torch.randn(2, 3, size, size, device="cpu", generator=torch.Generator().manual_seed(0))
    start = time.perf_counter()
    traced = trace(net, x)
    seconds = time.perf_counter() - start
    named = [n for n, m in net.named_modules() if n and not isinstance(m, nn.ModuleList | nn.ModuleDict)]
    equal = _compare(net, traced, torch.cat([x, x[:1]]), mode == "train") if run else "not run"
    return Row(
        name,
        mode,
        seconds,
        len(traced.graph.nodes),
        len(set(named) & set(traced.taps)),
        len(named),
        traced.leaves,
        len(traced.guards),
        traced.holds_for(torch.zeros(3, 3, size, size)),
        equal,
    )


def _compare(net: nn.Module, traced: Traced, x: Tensor, gradients: bool) -> str:
    """Outputs, gradients and buffers of the graph and of the original, at another batch size than it was traced at."""
    start = copy.deepcopy(net.state_dict())
    results: list[list[Tensor]] = []
    for call in (net, traced.graph_module):
        net.load_state_dict(start)
        net.zero_grad()
        torch.manual_seed(0)
        with torch.set_grad_enabled(gradients):
            outputs = [v for v in tree_leaves(call(x)) if isinstance(v, Tensor)]
        if gradients:
            sum(v.float().square().mean() for v in outputs).backward()  # type: ignore[union-attr]
        grads = [p.grad.clone() if p.grad is not None else torch.zeros(()) for p in net.parameters()]
        results.append([*(v.detach() for v in outputs), *grads, *(b.clone() for b in net.buffers())])
    a, b = results
    if len(a) != len(b):
        return "other outputs"
    if all(torch.equal(u, v) for u, v in zip(a, b, strict=True)):
        return "equal"
    worst = max(float((u - v).abs().max() / (u.abs().max() + 1e-9)) for u, v in zip(a, b, strict=True) if u.numel())
    return f"{worst:.1e}"


def table(rows: list[Row], failed: dict[str, str]) -> str:
    lines = [
        f"{r.name:36} {r.mode:5} {r.seconds:6.2f}s {r.nodes:5} nodes {r.taps:4}/{r.modules:<4} taps "
        f"{r.guards:3} guards "
        f"{'any batch' if r.any_batch else 'this batch'} {r.equal} {' '.join(r.leaves)}"
        for r in rows
    ]
    return "\n".join([*lines, *(f"FAILED {n}: {why[:150]}" for n, why in failed.items())])


def examine_all(makers: dict[str, Any]) -> tuple[list[Row], dict[str, str]]:
    rows: list[Row] = []
    failed: dict[str, str] = {}
    for name, (make, size) in makers.items():
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            try:
                with torch.device("meta"):
                    outline = make()
            except (NotImplementedError, RuntimeError):  # its constructor reads numbers
                outline = make()
            run = sum(p.numel() for p in outline.parameters()) < LARGEST
            net = make() if run else outline
            for mode in ("train", "eval"):
                try:
                    rows.append(examine(name, net, size, mode, run))
                except Exception as problem:
                    failed[f"{name} ({mode})"] = f"{type(problem).__name__}: {problem}"
                else:
                    print(table(rows[-1:], {}), flush=True)
    return rows, failed


@pytest.mark.slow
def test_all_torchvision_classifiers() -> None:
    makers = {n: (lambda n=n: torchvision.models.get_model(n, weights=None), _size(n)) for n in TORCHVISION}
    rows, failed = examine_all(makers)
    print(table([], failed))
    assert not failed
    assert all(r.any_batch for r in rows)
    assert sum(r.equal in ("equal", "not run") for r in rows) >= 0.98 * len(rows)


def _size(name: str) -> int:
    if name.startswith(("vit", "maxvit")):
        return 224
    return {"inception_v3": 299, "alexnet": 96}.get(name, 64)


def _timm_size(own: int) -> int:
    """Large networks at 224, which the usual patch sizes divide."""
    return own if own <= 256 else 224


@pytest.mark.slow
def test_a_wide_sample_of_timm() -> None:
    makers = {}
    for n in timm_sample():
        known = timm.get_pretrained_cfg(n) if timm.is_model_pretrained(n) else None
        makers[n] = (lambda n=n: timm.create_model(n), _timm_size(known.input_size[-1] if known else 224))
    rows, failed = examine_all(makers)
    print(table([], failed))
    total = len(makers)
    bad = {n.rpartition(" ")[0] for n in failed}
    print(f"{total - len(bad)} of {total}")
    assert total >= 95 and len(bad) <= 0.05 * total
    assert sum(r.equal in ("equal", "not run") for r in rows) >= 0.97 * len(rows)
