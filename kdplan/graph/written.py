"""Weights that code writes into while a graph is made of it: that is no step of training, and is undone."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves


@contextmanager
def writes_undone(module: nn.Module) -> Iterator[None]:
    """Inside, code may write into a module's parameters and buffers or replace them; then all is as before.

    Only what is written into is copied.

    Examples
    --------
    >>> net = nn.Linear(1, 1, bias=False)
    >>> before = net.weight.item()
    >>> with writes_undone(net):
    ...     net.weight.data.mul_(2)
    ...     net.weight.data = torch.ones(1, 1)
    tensor([[...]])
    >>> net.weight.item() == before
    True
    """
    parts: list[tuple[dict[str, Any], dict[str, Any]]] = [
        (held, dict(held)) for m in module.modules() for held in (m._parameters, m._buffers)
    ]
    held = [t for t in (*module.parameters(), *module.buffers()) if _is_real(t)]
    memory = [(t, t.data) for t in held]
    watch = _Copies(held)
    try:
        with watch:
            yield
    finally:
        for now, before in parts:
            if now.keys() != before.keys() or any(now[name] is not value for name, value in before.items()):
                now.clear()
                now.update(before)
        for tensor, data in memory:
            if tensor.data_ptr() != data.data_ptr():
                tensor.data = data
        with torch.no_grad():
            for data, value in watch.saved.values():
                data.copy_(value)


def _is_real(tensor: Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, FakeTensor) and tensor.layout is torch.strided


class _Copies(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Copies tensors before an operation writes into their memory."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.by_memory: dict[int, list[Tensor]] = {}
        for tensor in tensors:
            self.by_memory.setdefault(tensor.untyped_storage()._cdata, []).append(tensor.detach())
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if self.by_memory and func._schema.is_mutable:
            for argument, value in zip(func._schema.arguments, args, strict=False):
                if argument.alias_info is not None and argument.alias_info.is_write:
                    self._save(value)
            for value in kwargs.values():
                self._save(value)
        return func(*args, **kwargs)

    def _save(self, written: Any) -> None:
        for value in tree_leaves(written):
            if isinstance(value, Tensor) and _is_real(value):
                for tensor in self.by_memory.pop(value.untyped_storage()._cdata, ()):
                    self.saved[id(tensor)] = (tensor, tensor.clone())
