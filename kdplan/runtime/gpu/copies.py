"""Copies of a state that reach the CPU's memory while the device goes on."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Protocol

import torch
from torch import Tensor

State = dict[str, Tensor]
Copied = tuple[State, Callable[[], None]]
"""Tensors on the CPU, and a function that waits until their numbers are there."""


class Copies(Protocol):
    """Makes copies; the next ones may use the memory of the last ones again."""

    def of(self, tensors: Mapping[str, Tensor]) -> Copied:
        """Copies of some tensors as they are now."""

    def forget(self) -> None:
        """Give the memory back."""


class HostCopies:
    """Copies of tensors of the CPU, in memory that is kept: to get new memory takes longer than to copy.

    >>> held, wait = HostCopies().of({"w": torch.ones(2)})
    >>> wait()
    >>> held
    {'w': tensor([1., 1.])}
    """

    def __init__(self) -> None:
        self._kept: State = {}

    def of(self, tensors: Mapping[str, Tensor]) -> Copied:
        """Copies of some tensors; nothing is to be waited for."""
        self._kept = {name: buffer(t, self._kept.get(name)).copy_(t.detach()) for name, t in tensors.items()}
        return self._kept, lambda: None

    def forget(self) -> None:
        """Give the memory back."""
        self._kept = {}


class CudaCopies:
    """Copies of tensors of a GPU: first on the GPU itself, from there by a stream into memory that stays.

    Steps wait for the first part only, which is as fast as the GPU's memory. Where there is no room for it they wait
    for the second part too, but the CPU does not.
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]
        self._kept: State = {}

    def of(self, tensors: Mapping[str, Tensor]) -> Copied:
        """Copies of some tensors; the CPU waits for none of those on the GPU."""
        here = {n: t.detach() for n, t in tensors.items() if t.device.type == "cuda"}
        size = sum(t.numel() * t.element_size() for t in here.values())
        twice = torch.cuda.mem_get_info(self.device)[0] > 2 * size
        main = torch.cuda.current_stream(self.device)
        self.stream.wait_stream(main)
        held: State = {}
        with torch.cuda.stream(self.stream):
            if twice:
                here = {name: t.clone() for name, t in here.items()}
                main.wait_stream(self.stream)
            for name, tensor in tensors.items():
                held[name] = buffer(tensor, self._kept.get(name), pinned=name in here)
                held[name].copy_(here.get(name, tensor.detach()), non_blocking=True)
            done = torch.cuda.Event()  # type: ignore[no-untyped-call, unused-ignore]
            done.record(self.stream)
        if not twice:
            main.wait_stream(self.stream)
        self._kept = held
        wait: Callable[[], None] = done.synchronize
        return held, wait

    def forget(self) -> None:
        """Give the memory back."""
        self._kept = {}


def buffer(tensor: Tensor, before: Tensor | None, pinned: bool = False) -> Tensor:
    """Memory on the CPU for a copy of a tensor: that of the copy before, where it fits.

    >>> before = torch.zeros(2)
    >>> buffer(torch.ones(2), before) is before, buffer(torch.ones(3), before) is before
    (True, False)
    """
    if before is not None and (before.shape, before.dtype) == (tensor.shape, tensor.dtype):
        return before
    return torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=pinned)
