"""What training keeps besides a step's tensors, in bytes: copies of the whole state."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor

from kdplan.ir.dag import AT_ONCE
from kdplan.ir.plan import Phase


def copy_bytes(phase: Phase, state: int) -> int:
    """Bytes of the copies of a phase's state, of so many bytes, that training keeps in the host's memory.

    They are the one from which a thread writes checkpoints, if they are large enough, and the one to which
    `on_nan = rollback` goes back, which checkpoints hold as well.
    """
    back = state if phase.recipes[0].on_nan.name == "rollback" else 0
    return back + (state + back if state + back > AT_ONCE else 0)


def size_of(tensors: Iterable[Tensor]) -> int:
    """Bytes of all numbers of some tensors.

    >>> import torch
    >>> size_of([torch.zeros(3), torch.zeros(2, dtype=torch.int64)])
    28
    """
    return sum(t.numel() * t.element_size() for t in tensors)
