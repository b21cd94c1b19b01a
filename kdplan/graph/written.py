"""Weights that code writes into while a graph is made of it: that is no step of training, and is undone."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
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


def memory(tensor: Tensor) -> int | None:
    """The identity of a tensor's memory, equal for views of one another; None where there is no one memory.

    >>> x = torch.zeros(2, 3)
    >>> memory(x) == memory(x[0].detach()), memory(x) == memory(x.clone())
    (True, False)
    """
    return tensor.untyped_storage()._cdata if tensor.layout is torch.strided else None


def _is_real(tensor: Tensor) -> bool:
    return not tensor.is_meta and not isinstance(tensor, FakeTensor) and tensor.layout is torch.strided


class Writing(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Notes the memory that operations write into, by `memory`; also where no version counter does, as behind `.data`.

    Examples
    --------
    >>> x, y = torch.zeros(2), torch.zeros(2)
    >>> with Writing() as watch:
    ...     _ = x.data[0].add_(y[0])
    >>> watch.wrote_into(x), watch.wrote_into(y)
    (True, False)
    >>> with Writing([x]) as watch:
    ...     x.data = torch.ones(2)
    >>> watch.wrote_into(x)
    True
    """

    def __init__(self, watched: Iterable[Tensor] = ()) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.written: set[int] = set()
        self._memory = {id(v): memory(v) for v in watched}

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func._schema.is_mutable:
            given = dict(zip((a.name for a in func._schema.arguments), args, strict=False)) | kwargs
            for argument in func._schema.arguments:
                if argument.alias_info is not None and argument.alias_info.is_write:
                    for value in tree_leaves(given.get(argument.name)):
                        if isinstance(value, Tensor) and (identity := memory(value)) is not None:
                            self.written.add(identity)
                            self.before_write(identity)
        return func(*args, **kwargs)

    def before_write(self, identity: int) -> None:
        """What else is to be done before such memory is written into."""

    def wrote_into(self, *values: Tensor) -> bool:
        """Whether one of the tensors lives in memory that was written into, or got other memory if it is watched."""
        now = {id(v): memory(v) for v in values}
        return any(m in self.written or m != self._memory.get(i, m) for i, m in now.items())


class _Copies(Writing):  # type: ignore[no-untyped-call]
    """Copies tensors before an operation writes into their memory."""

    def __init__(self, tensors: list[Tensor]) -> None:
        super().__init__()
        self.by_memory: dict[int | None, list[Tensor]] = {}
        for tensor in tensors:
            self.by_memory.setdefault(memory(tensor), []).append(tensor.detach())
        self.saved: dict[int, tuple[Tensor, Tensor]] = {}

    def before_write(self, identity: int) -> None:
        """Copy what lives there, once."""
        for tensor in self.by_memory.pop(identity, ()):
            self.saved[id(tensor)] = (tensor, tensor.clone())
