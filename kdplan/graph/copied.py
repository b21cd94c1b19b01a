"""Copies of networks that keep the hooks on their parameters, which `copy.deepcopy` drops."""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping
from typing import Any

from torch import Tensor, nn


def copied(module: nn.Module) -> nn.Module:
    """A deep copy whose parameters have the hooks of the original's.

    A hook that is a method of one of the modules becomes that of its copy. Functions that hold modules or tensors of
    the original are left out: a copy that ran them would write into these.

    Examples
    --------
    >>> import torch
    >>> net = nn.Linear(1, 1, bias=False)
    >>> _ = net.weight.register_hook(lambda gradient: gradient * 2)
    >>> net = copied(net)
    >>> net(torch.ones(1, 1)).backward()
    >>> net.weight.grad
    tensor([[2.]])
    """
    memo: dict[int, Any] = {}
    new = copy.deepcopy(module, memo)
    for old, its_copy in zip(module.parameters(), new.parameters(), strict=True):
        if not its_copy.requires_grad:  # it has no gradient, and takes no hooks any more
            continue
        for hooks, register in (
            (old._backward_hooks, its_copy.register_hook),
            (getattr(old, "_post_accumulate_grad_hooks", None), its_copy.register_post_accumulate_grad_hook),
        ):
            for hook in (hooks or {}).values():
                if (own := _rebound(hook, memo)) is not None:
                    register(own)  # type: ignore[no-untyped-call]
    return new


def _rebound(hook: Callable[..., Any], memo: Mapping[int, Any]) -> Callable[..., Any] | None:
    owner = getattr(hook, "__self__", None)
    if owner is not None:
        method = getattr(hook, "__func__", None)
        return method.__get__(memo[id(owner)]) if method is not None and id(owner) in memo else None
    try:
        cells = [c.cell_contents for c in getattr(hook, "__closure__", None) or ()]
    except ValueError:  # of a name that has no value yet
        return None
    defaults = getattr(hook, "__defaults__", None) or ()
    held = any(isinstance(v, nn.Module | Tensor) or id(v) in memo for v in (*cells, *defaults))
    return hook if hasattr(hook, "__code__") and not held else None
