"""What a module's `forward` leaves behind: buffers that it binds anew, Python attributes, draws of Python and NumPy."""

from __future__ import annotations

import random
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx, nn
from torch.utils._python_dispatch import _disable_current_modes

from kdplan.graph.structure import writes
from kdplan.nn.extra_state import extra_of, set_extra

_PLAIN = (bool, int, float, complex, str, type(None), tuple)
_CONTAINERS = (list, dict, set, deque)
MODULE_ATTRIBUTES = frozenset(nn.Module().__dict__)


def assign_buffer(owner: nn.Module, name: str, value: Tensor) -> None:
    """Bind a buffer of `owner` to another tensor, as `self.name = value` in a `forward` does."""
    owner._buffers[name] = value


def written(value: Tensor) -> Tensor:
    """The tensor itself: as a node, its value once earlier nodes have written into it."""
    return value


def bind_buffer(root: nn.Module, path: str, value: Tensor | None) -> None:
    """Give the buffer at `path` below `root` another value; it is registered where it is new.

    >>> net = nn.Sequential(nn.BatchNorm1d(2))
    >>> bind_buffer(net, "0.center", net[0].running_mean)
    >>> "0.center" in net.state_dict()
    True
    """
    owner, _, name = path.rpartition(".")
    module = root.get_submodule(owner)
    if name not in module._buffers:
        module.register_buffer(name, value)
    module._buffers[name] = value


def carry(one: nn.Module, other: nn.Module) -> None:
    """Give another copy of a module the weights and buffers of this one, as a checkpoint does."""
    with torch.no_grad():
        for mine, theirs in zip(one.parameters(), other.parameters(), strict=True):
            theirs.copy_(mine)
    for path, value in one.named_buffers():
        bind_buffer(other, path, value.detach().clone())
    set_extra(other, extra_of(one))


class Attributes:
    """The attributes and buffers of a module and its sub-modules, to see what a call changed and to put it back.

    Examples
    --------
    >>> net = nn.Linear(2, 2)
    >>> net.calls, net.keys = 0, "a"
    >>> before = Attributes(net)
    >>> net.calls, net.rate = 3, 0.5
    >>> before.changed()
    ['calls']
    >>> before.restore()
    >>> net.calls, net.keys, hasattr(net, "rate")
    (0, 'a', False)
    """

    def __init__(self, module: nn.Module) -> None:
        self._held = [
            (path, m, dict(m.__dict__), dict(m._buffers), _containers(m)) for path, m in module.named_modules()
        ]
        self._versions = {id(v): writes(v) for _, m, *_ in self._held for v in vars(m).values() if _is_tensor(v)}
        self._numbers = [_Written(t) for _, m in module.named_modules() for t in _tensors(m)]

    def changed(self) -> list[str]:
        """Paths of attributes that hold other plain values or tensors than before; new attributes are none."""
        names: list[str] = []
        for path, m, attributes, _, containers in self._held:
            for name, old in attributes.items():
                if name in MODULE_ATTRIBUTES or name.startswith("_forward") or name == "training":
                    continue
                new = m.__dict__.get(name)
                if name in containers:
                    differs = new is not old or not same(new, containers[name])
                elif _is_tensor(old):
                    differs = new is not old or writes(old) != self._versions[id(old)]
                else:
                    plain = isinstance(old, _PLAIN) and type(new) in _PLAIN
                    differs = new is not old and plain and not same(new, old)
                if differs:
                    names.append(f"{path}.{name}".lstrip("."))
        return names

    def rebound(self) -> list[str]:
        """Paths of buffers that are other tensors than before."""
        return [
            f"{path}.{name}".lstrip(".")
            for path, m, _, buffers, _ in self._held
            for name, old in buffers.items()
            if m._buffers.get(name) is not old
        ]

    def restore(self) -> None:
        """Give the modules back the attributes and buffers of before; what was written into buffers stays."""
        for numbers in self._numbers:
            numbers.restore()
        for _, m, attributes, buffers, containers in self._held:
            m.__dict__.clear()
            m.__dict__.update(attributes)
            m._buffers.clear()
            m._buffers.update(buffers)
            for name, old in containers.items():
                _refill(m.__dict__[name], old)


def _is_tensor(value: object) -> bool:
    return isinstance(value, Tensor)


class _Written:
    """A tensor, with its numbers of before."""

    def __init__(self, tensor: Tensor) -> None:
        self.tensor, self.version = tensor, writes(tensor)
        with _disable_current_modes():  # it is real
            self.before = tensor.detach().clone()

    def restore(self) -> None:
        if writes(self.tensor) != self.version:
            with torch.no_grad(), _disable_current_modes():
                self.tensor.copy_(self.before)
            self.version = writes(self.tensor)


LARGEST = 1 << 24
"""Bytes: a larger tensor or array is data, and is not looked at."""


def _tensors(module: nn.Module) -> Iterator[Tensor]:
    """The tensors among the attributes of a user's module, which are neither parameters nor buffers."""
    for value in module.__dict__.values():
        if isinstance(value, Tensor) and type(value) is Tensor and not value.is_meta and value.nbytes <= LARGEST:
            yield value


def _containers(module: nn.Module) -> dict[str, Any]:
    """Copies of the attributes that a `forward` may change without binding them anew."""
    if type(module).__module__.startswith("torch.nn."):
        return {}
    return {n: v.copy() for n, v in module.__dict__.items() if type(v) in _CONTAINERS and n not in MODULE_ATTRIBUTES}


def same(a: Any, b: Any) -> bool:
    """Whether two values are one object, or equal plain values, also in containers."""
    if isinstance(a, list | tuple | deque):
        return type(a) is type(b) and len(a) == len(b) and all(map(same, a, b))
    if isinstance(a, dict):
        return isinstance(b, dict) and a.keys() == b.keys() and all(same(v, b[k]) for k, v in a.items())
    return a is b or (isinstance(a, (*_PLAIN, set)) and type(a) is type(b) and bool(a == b))


def _refill(container: Any, old: Any) -> None:
    if same(container, old):
        return
    container.clear()
    if isinstance(container, list | deque):
        container.extend(old)
    else:
        container.update(old)


class PythonDraws:
    """Whether Python's, NumPy's or torch's global generator was used since; on fake tensors torch's is not."""

    def __init__(self) -> None:
        self._python = random.getstate()
        self._numpy: Any = np.random.get_state()
        self._torch = torch.default_generator.get_state()

    @property
    def used(self) -> bool:
        """Whether one of the generators is in another state than at first."""
        numpy: Any = np.random.get_state()
        same = numpy[2:] == self._numpy[2:] and bool((numpy[1] == self._numpy[1]).all())
        same &= bool(torch.equal(torch.default_generator.get_state(), self._torch))
        return not same or random.getstate() != self._python

    def restore(self) -> None:
        """Put the generators back."""
        if self.used:
            random.setstate(self._python)
            np.random.set_state(self._numpy)
            torch.default_generator.set_state(self._torch)


@contextmanager
def draws_undone() -> Iterator[PythonDraws]:
    """Inside, Python's and NumPy's generators may be used; afterwards they are as before."""
    draws = PythonDraws()
    try:
        yield draws
    finally:
        draws.restore()


def is_write(node: fx.Node) -> bool:
    """Whether a node binds a buffer anew."""
    return node.target is assign_buffer


def written_buffer(node: fx.Node) -> str:
    """The path of the buffer that a node binds anew."""
    owner = node.args[0]
    assert isinstance(owner, fx.Node)
    return f"{owner.target}.{node.args[1]}"
