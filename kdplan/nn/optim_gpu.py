"""How optimizers compute on a GPU: in few kernels, without a number that the CPU has to read."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.optim import Optimizer

from kdplan.ir.optimizers import CAPTURABLE, FUSED

HOW = frozenset({"capturable", "differentiable", "foreach", "fused"})
"""Settings of an optimizer's groups that say how it computes, not what: they follow from the device."""


def on_gpu(name: str, graphs: bool) -> dict[str, bool | None]:
    """How an optimizer computes on a GPU, for `build_optimizer`.

    A fused one also looks itself at whether gradients of fp16 are finite. ASGD reads its averages' weights on the CPU
    unless it is capturable.

    Parameters
    ----------
    name
        As in `kdplan.ir.optimizers.OPTIMIZERS`.
    graphs
        Whether its steps are to be captured in a graph.

    Examples
    --------
    >>> on_gpu("sgd", graphs=True), on_gpu("adam", graphs=True), on_gpu("rprop", graphs=False)
    ({'fused': True}, {'fused': True, 'capturable': True}, {})
    """
    how: dict[str, bool | None] = {"fused": True} if name in FUSED else {}
    if (graphs and name in CAPTURABLE) or name == "asgd":
        how["capturable"] = True
    return how


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
