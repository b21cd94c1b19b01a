"""A stand-in for CUDA graphs on a CPU: it records a step's operations with their tensors and numbers, and repeats them.

As with a graph, recording changes nothing, a repetition works on the same memory, and whatever Python decided or
computed while it was recorded stays as it was: a number that should have been a tensor gives wrong results here too.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


def _tensors(values: Any) -> list[Tensor]:
    return [v for v in tree_leaves(values) if isinstance(v, Tensor)]


class _Recording(TorchDispatchMode):
    def __init__(self) -> None:
        super().__init__()
        self.done: list[Callable[[], None]] = []
        self.before: list[tuple[Tensor, Tensor]] = []

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = str(func)
        if "_local_scalar_dense" in name or "nonzero" in name:
            raise RuntimeError("operation not permitted when stream is capturing")
        written = []
        for spec, value in zip(func._schema.arguments, args, strict=False):
            if spec.alias_info is not None and spec.alias_info.is_write:
                written += _tensors(value)
        for spec in func._schema.arguments:
            if spec.name in kwargs and spec.alias_info is not None and spec.alias_info.is_write:
                written += _tensors(kwargs[spec.name])
        if "batch_norm" in name and "backward" not in name:  # its schema does not say that it writes statistics
            written += _tensors(args[3:5])
        self.before += [(t, t.detach().clone()) for t in written]
        out = func(*args, **kwargs)
        views = any(r.alias_info is not None and not r.alias_info.is_write for r in func._schema.returns)
        if views:
            return out  # it shares memory that stays
        mine = {id(t) for t in written}
        fresh = [t for t in _tensors(out) if id(t) not in mine]

        def again() -> None:
            new = func(*args, **kwargs)
            for kept, value in zip(fresh, [t for t in _tensors(new) if id(t) not in mine], strict=True):
                if kept.data_ptr() != value.data_ptr():
                    kept.copy_(value)

        self.done.append(again)
        return out


class Tape:
    """A recorder for the CPU."""

    def __init__(self) -> None:
        self.log: list[str] = []

    def aside(self, work: Callable[[], None]) -> None:
        """Do some work."""
        self.log.append("aside")
        work()

    def record(self, work: Callable[[], None]) -> Callable[[], None]:
        """Record some work, and put back what it wrote."""
        self.log.append("record")
        generator = torch.default_generator.get_state()  # a GPU's generator stays as it is
        with _Recording() as recording:
            work()
        for tensor, value in reversed(recording.before):
            with torch.no_grad():
                tensor.data.copy_(value)
        torch.default_generator.set_state(generator)

        def replay() -> None:
            self.log.append("replay")
            with torch.no_grad():
                for again in recording.done:
                    again()

        return replay
