"""What a `forward` does that no graph holds: noticed while it is traced, so that its module is called whole."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, fx, nn

from kdplan.diagnostics.boundary import is_users

_GENERATOR = ("manual_seed", "seed", "set_rng_state", "get_rng_state", "initial_seed")
_MODES = ("is_grad_enabled", "is_inference_mode_enabled", "is_autocast_enabled")
"""What a frozen network is answered otherwise than a traced one."""
HOOKS = {
    "register_hook": "it registers a hook on a tensor",
    "retain_grad": "it keeps the gradient of a tensor",
    "backward": "it computes gradients of its own",
}
"""Methods of tensors that speak to autograd, and what a module does that calls one."""
_missing = object()


class Watcher(Protocol):
    """A tracer that hears of such things."""

    @property
    def watching(self) -> bool:
        """Whether a user's code runs on traced values now."""
        ...

    def mark(self, reason: str) -> None:
        """Note that the module whose `forward` runs now must be called whole, and why."""
        ...

    def assign(self, module: nn.Module, name: str, value: fx.Proxy) -> bool:
        """Record that a buffer is bound to a traced value; False where a graph cannot."""
        ...


@contextmanager
def watched(watcher: Watcher) -> Iterator[None]:
    """Inside, `watcher` hears of changed attributes and buffers, of autocast and other modes, of a set generator."""
    patched: list[tuple[Any, str, Callable[..., Any]]] = [(torch, n, getattr(torch, n)) for n in (*_GENERATOR, *_MODES)]
    patched.append((torch.random, "fork_rng", torch.random.fork_rng))
    patched += [(torch.autograd, name, getattr(torch.autograd, name)) for name in ("grad", "backward")]
    patched += [(mode, "__enter__", mode.__enter__) for mode in (torch.autocast, torch.inference_mode)]
    setter = nn.Module.__setattr__

    def reported(owner: Any, name: str, fn: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            users = name not in _MODES or is_users(sys._getframe(1).f_code.co_filename)
            if users and watcher.watching:
                own = owner is torch.autograd
                how = f"it uses `{owner.__name__}`" if name == "__enter__" else f"it calls `torch.{name}`"
                watcher.mark(HOOKS["backward"] if own else how)
            return fn(*args, **kwargs)

        return call

    def set_attribute(module: nn.Module, name: str, value: Any) -> None:
        if watcher.watching:
            _note(watcher, module, name, value)
        setter(module, name, value)

    try:
        for owner, name, fn in patched:
            setattr(owner, name, reported(owner, name, fn))
        nn.Module.__setattr__ = set_attribute  # type: ignore[method-assign, assignment]
        yield
    finally:
        nn.Module.__setattr__ = setter  # type: ignore[method-assign]
        for owner, name, fn in patched:
            setattr(owner, name, fn)


def _note(watcher: Watcher, module: nn.Module, name: str, value: Any) -> None:
    if name in module._buffers:
        if value is module._buffers[name]:
            return
        if not isinstance(value, fx.Proxy) or not watcher.assign(module, name, value):
            watcher.mark(f"it gives the buffer `{name}` a tensor of another shape or type")
        return
    old = module.__dict__.get(name, _missing)
    plain = (bool, int, float, complex, str)
    if isinstance(old, Tensor) and value is not old:
        watcher.mark(f"it changes the Python attribute `{name}`")
    if type(value) in plain and old is not _missing and not (type(old) is type(value) and old == value):
        watcher.mark(f"it changes the Python attribute `{name}`")
