"""Optimizers that update all weights in one call, where that gives what their formulas say.

Torch's fused kernels read weights, gradients and state as rows of numbers in memory. They do not look whether the
three lie there in one order, and give other numbers without a word where they do not. So the rule is here:

- an optimizer is fused if torch has a kernel for it and every parameter is real, of a usual floating type, on a CPU or
  CUDA device, and without gaps in memory. This follows from the networks alone;
- before each step, a gradient in another order is copied into its weight's order;
- a step with sparse gradients, or in which a weight gets its first momentum after others have theirs, is computed
  weight by weight. This follows from the gradients and the state of that step alone, so also after a resume.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from kdplan.ir.optimizers import CAPTURABLE, FUSED

KERNELS = {"cpu": FUSED | {"adagrad"}, "cuda": FUSED}
"""Optimizers with fused kernels on a device."""
TYPES = frozenset({torch.float64, torch.float32, torch.bfloat16, torch.float16})
HOW = frozenset({"foreach", "fused", "capturable", "differentiable"})
"""Settings of an optimizer that say how it computes, not what: they follow from the device and are not resumed."""


def fastest(name: str, parameters: Sequence[Tensor], graphs: bool = False) -> dict[str, bool | None]:
    """How an optimizer computes these parameters best, for `build_optimizer`.

    Parameters
    ----------
    name
        As in `kdplan.ir.optimizers.OPTIMIZERS`.
    parameters
    graphs
        Whether its steps are to be recorded in a graph.

    Examples
    --------
    >>> fastest("adam", [torch.zeros(2)]), fastest("adam", [torch.zeros(2, dtype=torch.complex64)]), fastest("asgd", [])
    ({'fused': True}, {}, {})
    >>> fastest("sgd", [torch.zeros(2)], graphs=True), fastest("adam", [torch.zeros(2)], graphs=True)
    ({'fused': True}, {'fused': True, 'capturable': True})
    """
    if not parameters:
        return {}
    device = parameters[0].device.type
    how: dict[str, bool | None] = {}
    if name in KERNELS.get(device, ()) and all(map(_fits, parameters)):
        how["fused"] = True
    # ASGD reads its averages' weights on the CPU unless it is capturable.
    if (graphs and name in CAPTURABLE) or (device == "cuda" and name == "asgd"):
        how["capturable"] = True
    return how


def _fits(parameter: Tensor) -> bool:
    usual = parameter.dtype in TYPES and parameter.layout is torch.strided
    # Torch copies an order in memory only where it has no gaps; state is made so.
    return usual and torch.empty_like(parameter, device="meta").stride() == parameter.stride()


def skips_whole_steps(optimizer: Optimizer) -> None:
    """Let `GradScaler` leave out a step that is not finite where the kernel does not do it right.

    The kernel of SGD leaves a first momentum as it finds the memory, and the next step adds to that. Those of Adam on a
    GPU leave all as it was, and the CPU need not wait for them.
    """
    adam = isinstance(optimizer, torch.optim.Adam)  # AdamW is one, too
    if adam and all(p.device.type != "cpu" for group in optimizer.param_groups for p in group["params"]):
        return
    optimizer._step_supports_amp_scaling = False  # type: ignore[attr-defined]


def rates_on_device(optimizer: Optimizer) -> None:
    """Let the learning rates be tensors: a graph reads them anew, while it repeats a number for ever.

    >>> parameter = torch.nn.Parameter(torch.ones(1))
    >>> optimizer = torch.optim.SGD([parameter], lr=0.5, fused=True)
    >>> rates_on_device(optimizer)
    >>> optimizer.param_groups[0]["lr"]
    tensor(0.5000)
    """
    for group in optimizer.param_groups:
        if group["params"] and not isinstance(group["lr"], Tensor):
            group["lr"] = torch.full((), group["lr"], dtype=torch.float32, device=group["params"][0].device)


@torch.no_grad()
def prepare(optimizer: Optimizer) -> None:
    """Choose how the next step of a fused optimizer is computed, and bring gradients into the order of their weights.

    Examples
    --------
    >>> weight = torch.nn.Parameter(torch.zeros(2, 3))
    >>> sgd = torch.optim.SGD([weight], lr=1.0, fused=True)
    >>> weight.grad = torch.arange(6.0).reshape(3, 2).t()
    >>> prepare(sgd)
    >>> sgd.step()
    >>> weight.tolist()
    [[0.0, -2.0, -4.0], [-1.0, -3.0, -5.0]]
    """
    if not optimizer.defaults.get("fused"):
        return
    for group in optimizer.param_groups:
        trained = [p for p in group["params"] if p.grad is not None]
        dense = True
        for p in trained:
            if p.grad.layout is not torch.strided:
                dense = False
            elif p.grad.stride() != p.stride():
                p.grad = torch.empty_like(p, dtype=p.grad.dtype).copy_(p.grad)
        group["fused"] = dense and (not group.get("momentum") or _alike(optimizer, trained))


def _alike(optimizer: Optimizer, parameters: list[Tensor]) -> bool:
    """Whether all of these parameters have a momentum, or none."""
    buffers = [optimizer.state.get(p, {}).get("momentum_buffer") for p in parameters]
    there = [b for b in buffers if b is not None]
    return not there or (len(there) == len(buffers) and all(b.layout is torch.strided for b in there))
