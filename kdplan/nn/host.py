"""Tensors whose numbers the CPU knows already: reading them there does not wait for the device."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor

_known: list[tuple[Tensor, Tensor]] = []


@contextmanager
def known_on_host(pairs: Iterable[tuple[Tensor, Tensor]]) -> Iterator[None]:
    """Within it, `on_host` knows the numbers of some tensors: pairs of a tensor and its copy on the CPU.

    Examples
    --------
    >>> there, here = torch.zeros(2, device="meta"), torch.ones(2)
    >>> with known_on_host([(there, here)]):
    ...     on_host(there)
    tensor([1., 1.])
    """
    before = len(_known)
    _known.extend(pairs)
    try:
        yield
    finally:
        del _known[before:]


def on_host(tensor: Tensor) -> Tensor:
    """The tensor on the CPU; waits for the device unless its numbers are known there."""
    if tensor.device.type == "cpu":
        return tensor
    for there, here in reversed(_known):
        if there is tensor:
            return here
    return tensor.cpu()


def counts(labels: Tensor, parts: Tensor, part_of: Tensor, number: int) -> list[int]:
    """How many samples each of some parts gets; waits for the device unless the CPU knows the labels.

    Parameters
    ----------
    labels
        int64 [B].
    parts
        The part of each sample, int64 [B], on their device.
    part_of
        The part of each label, on the CPU.
    number
        Of parts.

    Examples
    --------
    >>> labels, part_of = torch.tensor([0, 2, 1]), torch.tensor([0, 1, 1])
    >>> counts(labels, part_of[labels], part_of, 2)
    [1, 2]
    """
    return _count(labels, parts, part_of, number)


def _counts(labels: Tensor, parts: Tensor, part_of: Tensor, number: int) -> list[int]:
    if parts.device.type != "cpu":
        parts = part_of[on_host(labels)]
    numbers: list[int] = torch.bincount(parts, minlength=number).tolist()
    return numbers


_count: Callable[[Tensor, Tensor, Tensor, int], list[int]] = _counts


def leave_out_of_compiled_code() -> None:
    """Let torch.compile call `counts` and not look into it: to say so imports the compiler."""
    global _count
    _count = torch.compiler.disable(_counts)  # type: ignore[no-untyped-call, unused-ignore]
