"""Fused optimizers against the same ones weight by weight, also where torch's kernels alone would be wrong."""

from __future__ import annotations

import inspect
import itertools
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdplan.ir.optimizers import OPTIMIZERS
from kdplan.nn.fused import KERNELS, TYPES, fastest, prepare, skips_whole_steps
from kdplan.nn.optim import build_optimizer

Layout = Callable[[Tensor], Tensor]


def test_the_set_is_what_torch_has() -> None:
    classes = {n: getattr(torch.optim, s.implementation.partition(":")[2]) for n, s in OPTIMIZERS.items()}
    assert {n for n, c in classes.items() if "fused" in inspect.signature(c).parameters} == KERNELS["cpu"]


def settings() -> list[tuple[str, dict[str, Any]]]:
    cases: list[tuple[str, dict[str, Any]]] = []
    for decay, maximize in itertools.product((0, 0.01), (False, True)):
        both = {"lr": 0.05, "weight_decay": decay, "maximize": maximize}
        cases += [("sgd", both), ("sgd", both | {"momentum": 0.9}), ("sgd", both | {"momentum": 0.9, "nesterov": True})]
        cases += [("sgd", both | {"momentum": 0.8, "dampening": 0.2}), ("adagrad", both | {"lr_decay": 0.1})]
        cases += [(name, both | {"amsgrad": a}) for name in ("adam", "adamw") for a in (False, True)]
    return cases


def weights(shapes: tuple[tuple[int, ...], ...], dtype: torch.dtype, layout: Layout) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    return [nn.Parameter(layout(torch.randn(s, generator=generator, dtype=torch.float64).to(dtype))) for s in shapes]


def last(images: Tensor) -> Tensor:
    return images.contiguous(memory_format=torch.channels_last) if images.dim() == 4 else images


def gaps(tensor: Tensor) -> Tensor:
    return torch.stack([tensor, tensor], -1)[..., 0]


SHAPES = ((3, 4, 3, 3), (4, 3, 1, 1), (7,), (), (0, 2))


def trained(
    name: str, given: dict[str, Any], fused: bool, dtype: torch.dtype, of: Layout = last, gradient: Layout = last
) -> list[Tensor]:
    own = weights(SHAPES, dtype, of)
    optimizer = build_optimizer(name, given, own, **(fastest(name, own) if fused else {}))
    generator = torch.Generator().manual_seed(2)
    for _ in range(6):
        for p in own:
            p.grad = gradient(torch.randn(p.shape, generator=generator, dtype=torch.float64).to(dtype))
        prepare(optimizer)
        optimizer.step()
    return [p.detach() for p in own]


@pytest.mark.parametrize(("name", "given"), settings(), ids=str)
def test_agrees_to_rounding(name: str, given: dict[str, Any]) -> None:
    exact = trained(name, given, False, torch.float64)
    for dtype, bound in ((torch.float64, 1e-12), (torch.float32, 3e-6)):
        for one, other in zip(trained(name, given, True, dtype), exact, strict=True):
            torch.testing.assert_close(one.double(), other, rtol=bound, atol=bound)


@pytest.mark.parametrize("name", sorted(KERNELS["cpu"]))
@pytest.mark.parametrize("of", [Tensor.contiguous, last, gaps], ids=["contiguous", "last", "gaps"])
@pytest.mark.parametrize("gradient", [Tensor.contiguous, last, gaps], ids=["contiguous", "last", "gaps"])
def test_orders_in_memory(name: str, of: Layout, gradient: Layout) -> None:
    given = {"lr": 0.05} | ({"momentum": 0.9} if name == "sgd" else {})
    exact = trained(name, given, False, torch.float64)
    for one, other in zip(trained(name, given, True, torch.float64, of, gradient), exact, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("dtype", sorted(TYPES, key=str), ids=str)
@pytest.mark.parametrize("name", sorted(KERNELS["cpu"]))
def test_types(name: str, dtype: torch.dtype) -> None:
    given, eps = {"lr": 0.05}, torch.finfo(dtype).eps
    for one, other in zip(trained(name, given, True, dtype), trained(name, given, False, torch.float64), strict=True):
        torch.testing.assert_close(one.double(), other, rtol=40 * eps, atol=40 * eps)


def test_what_cannot_be_fused() -> None:
    usual = torch.zeros(2, 2)
    assert fastest("sgd", [usual]) == {"fused": True}
    for other in (usual.to(torch.complex64), usual.to(torch.float8_e4m3fn), gaps(usual), usual.to_sparse()):
        assert fastest("sgd", [usual, other]) == {}
    assert fastest("rmsprop", [usual]) == {} and fastest("sgd", []) == {}


@pytest.mark.parametrize("name", ["sgd", "adagrad"])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_sparse_gradients(name: str, momentum: float) -> None:
    """An embedding with sparse gradients in every other step."""
    if name == "adagrad" and momentum:
        pytest.skip("has none")
    given = {"lr": 0.1} | ({"momentum": momentum} if momentum else {})

    def run(fused: bool) -> Tensor:
        weight = nn.Parameter(torch.ones(5, 2, dtype=torch.float64))
        optimizer = build_optimizer(name, given, [weight], **(fastest(name, [weight]) if fused else {}))
        for step in range(4):
            rows = torch.zeros(5, 2, dtype=torch.float64)
            rows[step] = step + 1.0
            weight.grad = rows.to_sparse(1) if step % 2 else rows
            prepare(optimizer)
            optimizer.step()
        return weight.detach()

    torch.testing.assert_close(run(True), run(False), rtol=1e-12, atol=1e-12)


def test_a_weight_that_joins_later() -> None:
    """The kernel alone fails where only some weights have a momentum."""

    def run(fused: bool) -> list[Tensor]:
        own = [nn.Parameter(torch.ones(3, dtype=torch.float64)) for _ in range(2)]
        optimizer = build_optimizer("sgd", {"lr": 0.1, "momentum": 0.9}, own, **(fastest("sgd", own) if fused else {}))
        for step in range(4):
            own[0].grad, own[1].grad = torch.ones_like(own[0]), torch.ones_like(own[1]) if step != 0 else None
            prepare(optimizer)
            optimizer.step()
            assert optimizer.param_groups[0]["fused"] == (step != 1 if fused else None)
        return [p.detach() for p in own]

    for one, other in zip(run(True), run(False), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("name", sorted(KERNELS["cpu"]))
def test_a_step_of_fp16_that_is_left_out(name: str) -> None:
    """The first gradients are not finite, as with a scale of 65536: nothing of that step stays."""
    given = {"lr": 0.1} | ({"momentum": 0.9} if name == "sgd" else {})

    def run(first: float) -> Tensor:
        weight = nn.Parameter(torch.ones(9))
        optimizer = build_optimizer(name, given, [weight], **fastest(name, [weight]))
        skips_whole_steps(optimizer)
        scaler = torch.amp.GradScaler("cpu", init_scale=4.0, growth_interval=1000)
        scaler.scale(torch.zeros(()))
        for value in ([first] if first else []) + [1.0, 2.0]:
            weight.grad = torch.full((9,), value * scaler.get_scale())
            prepare(optimizer)
            scaler.step(optimizer)
            scaler.update()
        return weight.detach()

    assert torch.equal(run(float("inf")), run(0.0))
