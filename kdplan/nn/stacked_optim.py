"""Optimizers over stacks: k optimizers of torch whose members' parameters, rates and settings are rows of tensors.

Only optimizers that treat each number by itself are here. What couples a member's numbers, such as a clipped norm, is
computed row by row. A member's row depends on no other row, so it is the same whoever else is in the stack.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

Setting = Mapping[str, Any]
"""A parameter group of a member's own optimizer: `lr`, `momentum` and so on."""


class StackedOptimizer:
    """The step of k optimizers of one kind.

    Parameters
    ----------
    tensors
        Name -> parameter [k, ...]; gradients are read from them.

    Attributes
    ----------
    state
        Key -> name -> tensor [k, ...], by the keys that torch's own optimizer has.

    Examples
    --------
    >>> w = torch.ones(2, 3)
    >>> w.grad = torch.full((2, 3), 2.0)
    >>> stack = StackedSGD({"w": w})
    >>> stack.step([{"lr": 0.5, "momentum": 0, "weight_decay": 0, "nesterov": False}, {"lr": 0.25, "momentum": 0,
    ...             "weight_decay": 0, "nesterov": False}])
    >>> w.tolist()
    [[0.0, 0.0, 0.0], [0.5, 0.5, 0.5]]
    """

    keys: tuple[str, ...] = ()

    def __init__(self, tensors: Mapping[str, Tensor]) -> None:
        self.tensors = dict(tensors)
        self.rows = len(next(iter(self.tensors.values()))) if self.tensors else 0
        self.device = next(iter(self.tensors.values())).device if self.tensors else torch.device("cpu")
        self.state: dict[str, dict[str, Tensor]] = {key: self._start(key) for key in self.keys}

    def _start(self, key: str) -> dict[str, Tensor]:
        return {n: torch.zeros_like(t, requires_grad=False) for n, t in self.tensors.items()}

    def step(self, settings: Sequence[Setting]) -> None:
        """Update all rows; `settings` has those of each.

        Tensors without a gradient stay as they are.
        """
        raise NotImplementedError

    def _columns(self, settings: Sequence[Setting], value: Callable[[Setting], float]) -> Callable[[Tensor], Tensor]:
        """A number of each row, in a shape that goes with a tensor [k, ...]."""
        column = torch.tensor([value(s) for s in settings], dtype=torch.float32, device=self.device)
        shaped: dict[int, Tensor] = {}

        def of(tensor: Tensor) -> Tensor:
            if tensor.dim() not in shaped:
                shaped[tensor.dim()] = column.view(-1, *[1] * (tensor.dim() - 1))
            return shaped[tensor.dim()]

        return of

    def _updated(self) -> list[tuple[str, Tensor, Tensor]]:
        return [(n, t.detach(), t.grad) for n, t in self.tensors.items() if t.grad is not None]


class StackedSGD(StackedOptimizer):
    """`torch.optim.SGD` without dampening: with momentum, Nesterov's or not, and weight decay.

    A momentum that is zero at first gives the first step of torch's, whose momentum is then the gradient.
    """

    keys = ("momentum_buffer",)

    @torch.no_grad()
    def step(self, settings: Sequence[Setting]) -> None:
        """Update all rows."""
        rate = self._columns(settings, lambda s: -s["lr"])
        decay = self._columns(settings, lambda s: s["weight_decay"])
        momentum = self._columns(settings, lambda s: s["momentum"])
        decays = any(s["weight_decay"] for s in settings)
        has_momentum = any(s["momentum"] for s in settings)
        nesterov = settings[0]["nesterov"]
        for name, p, g in self._updated():
            if decays:
                g = torch.addcmul(g, p, decay(p))
            if has_momentum:
                buffer = self.state["momentum_buffer"][name].mul_(momentum(p)).add_(g)
                g = torch.addcmul(g, buffer, momentum(p)) if nesterov else buffer
            p.addcmul_(g, rate(p))


class StackedAdam(StackedOptimizer):
    """`torch.optim.Adam` and `torch.optim.AdamW`, without AMSGrad."""

    keys = ("exp_avg", "exp_avg_sq", "step")

    def _start(self, key: str) -> dict[str, Tensor]:
        if key == "step":  # on the CPU, as torch has it
            return {n: torch.zeros(self.rows) for n in self.tensors}
        return super()._start(key)

    @torch.no_grad()
    def step(self, settings: Sequence[Setting]) -> None:
        """Update all rows."""
        decay = self._columns(settings, lambda s: s["weight_decay"])
        kept = self._columns(settings, lambda s: 1 - s["lr"] * s["weight_decay"])
        first = self._columns(settings, lambda s: 1 - s["betas"][0])
        second = self._columns(settings, lambda s: s["betas"][1])
        rest = self._columns(settings, lambda s: 1 - s["betas"][1])
        eps = self._columns(settings, lambda s: s["eps"])
        decays = any(s["weight_decay"] for s in settings)
        decoupled = settings[0]["decoupled_weight_decay"]
        corrected: dict[tuple[float, ...], tuple[Any, Any]] = {}
        for name, p, g in self._updated():
            steps = tuple(self.state["step"][name].add_(1).tolist())
            if steps not in corrected:  # the same for all parameters that every step updates
                at = dict(zip(map(id, settings), steps, strict=True))
                corrected[steps] = (
                    self._columns(settings, lambda s, at=at: -s["lr"] / (1 - s["betas"][0] ** at[id(s)])),  # type: ignore[misc]
                    self._columns(settings, lambda s, at=at: math.sqrt(1 - s["betas"][1] ** at[id(s)])),  # type: ignore[misc]
                )
            rate, root = corrected[steps]
            if decays and decoupled:
                p.mul_(kept(p))
            elif decays:
                g = torch.addcmul(g, p, decay(p))
            average = self.state["exp_avg"][name]
            average.lerp_(g, first(p).expand_as(g))
            squares = self.state["exp_avg_sq"][name].mul_(second(p)).addcmul_(g * rest(p), g)
            p.addcdiv_(average * rate(p), squares.sqrt().div_(root(p)).add_(eps(p)))


def stacked_kind(optimizers: Sequence[torch.optim.Optimizer]) -> type[StackedOptimizer] | None:
    """What steps optimizers of several members as one; None where each member keeps its own.

    >>> w = [torch.zeros(1)]
    >>> stacked_kind([torch.optim.SGD(w, lr=0.1), torch.optim.SGD(w, lr=1)]).__name__
    'StackedSGD'
    >>> stacked_kind([torch.optim.Adagrad(w)]) is None
    True
    """
    kinds, groups = {type(o) for o in optimizers}, [o.param_groups for o in optimizers]
    if len(kinds) != 1 or any(len(group) != 1 for group in groups):
        return None
    kind = next(iter(kinds))
    first = groups[0][0]
    if any(g[0].get("maximize") or g[0].get("amsgrad") or g[0].get("dampening") for g in groups):
        return None
    for flag in ("nesterov", "decoupled_weight_decay"):
        if any(g[0].get(flag) != first.get(flag) for g in groups):
            return None
    if kind is torch.optim.SGD:
        return StackedSGD
    return StackedAdam if kind in (torch.optim.Adam, torch.optim.AdamW) else None


@torch.no_grad()
def clip_rows(tensors: Sequence[Tensor], largest: Sequence[float]) -> None:
    """Scale the gradients of each row to a norm, over all tensors [k, ...], of at most `largest` of the row.

    >>> w = torch.zeros(2, 2)
    >>> w.grad = torch.tensor([[3.0, 4.0], [0.3, 0.4]])
    >>> clip_rows([w], [1.0, 1.0])
    >>> w.grad.tolist()[1], round(float(w.grad[0].norm()), 4)
    ([0.30000001192092896, 0.4000000059604645], 1.0)
    """
    gradients = [t.grad for t in tensors if t.grad is not None]
    if not gradients:
        return
    norms = torch.stack([torch.linalg.vector_norm(g.flatten(1), dim=1) for g in gradients])
    norm = torch.linalg.vector_norm(norms, dim=0)
    scale = (torch.tensor(largest, dtype=norm.dtype, device=norm.device) / (norm + 1e-6)).clamp(max=1)
    for g in gradients:
        g.mul_(scale.view(-1, *[1] * (g.dim() - 1)))
