"""Memory that a device does not have: how it is recognised, and what is said."""

from __future__ import annotations

import os

import torch

from kdplan.diagnostics.report import PlanError, error
from kdplan.ir.dag import Cost
from kdplan.ir.plan import Phase

_SAYS = ("out of memory", "can't allocate memory", "not enough memory")


def is_out_of_memory(problem: BaseException) -> bool:
    """Whether an exception of torch or Python is about memory.

    >>> is_out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate 8 bytes."))
    True
    """
    if isinstance(problem, torch.OutOfMemoryError | MemoryError):
        return True
    return isinstance(problem, RuntimeError) and any(words in str(problem) for words in _SAYS)


def out_of_memory(phase: Phase, device: torch.device, cost: Cost | None, ranks: int = 1) -> PlanError:
    """KD0813, with the device's memory and what was predicted, in as far as they are known."""
    size = _memory(device)
    predicted, help = "", None
    if cost is not None:
        batch, shards = phase.recipes[0].batch, phase.recipes[0].shards
        activations = cost.activations_on(ranks, shards)
        cut = f", shards = {shards}" if shards > 1 else ""
        predicted = (
            f"; predicted for a step were {_gigabytes(activations)} of activations at `batch = {batch}{cut}` and "
            f"{_gigabytes(cost.weight_bytes)} of weights, gradients and optimizer state"
        )
        help = None if activations > cost.weight_bytes else _WEIGHTS
        if cost.copy_bytes and device.type == "cpu":
            predicted += f", and {_gigabytes(cost.copy_bytes)} of copies for checkpoints"
    return error(
        "KD0813",
        phase.recipes[0].spans.get("batch") or phase.span,
        phase=phase.name,
        device=device,
        size=f", which has {_gigabytes(size)}" if size else "",
        predicted=predicted,
        help=help,
    )


_WEIGHTS = (
    "Choose a smaller network or an optimizer with less state, such as `sgd`: the batch is not what takes memory."
)


def _memory(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.get_device_properties(device).total_memory)
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return 0


def _gigabytes(number: int) -> str:
    """
    >>> _gigabytes(51_200_000_000), _gigabytes(3_000_000)
    ('51.2 GB', '0.003 GB')
    """
    return f"{number / 1e9:.3g} GB"
