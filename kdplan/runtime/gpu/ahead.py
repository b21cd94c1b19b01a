"""Batches that are on their way to the device while it computes the step before."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager
from typing import Protocol

import torch

from kdplan.runtime.frozen_values import StoredValues
from kdplan.runtime.streams import Batch


class Side(Protocol):
    """Where batches are made ready beside the steps."""

    def preparing(self) -> AbstractContextManager[object]:
        """Within it, work goes to this side."""

    def ready(self, batch: Batch) -> None:
        """Let the steps wait for a batch, and its memory stay until they are done with it."""


class CudaSide:
    """A stream of a GPU: copies and augmentation on it run beside the kernels of a step."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call, unused-ignore]
        self.stream.wait_stream(torch.cuda.current_stream(device))  # which has put the data set there

    def preparing(self) -> AbstractContextManager[object]:
        """Within it, work goes to this stream."""
        stream: AbstractContextManager[object] = torch.cuda.stream(self.stream)
        return stream

    def ready(self, batch: Batch) -> None:
        """Let the current stream wait for a batch."""
        main = torch.cuda.current_stream(self.device)
        main.wait_stream(self.stream)
        for tensor in batch.values():
            if tensor.device.type == "cuda":
                tensor.record_stream(main)


def ahead(
    batches: Iterator[Batch], device: torch.device, stored: StoredValues | None = None, side: Side | None = None
) -> Iterator[Batch]:
    """The same batches, made ready beside the steps where the device is a GPU; with the stored values that are read.

    The CPU orders the work on a batch when it has ordered the step before. On the GPU both then run at once, as the
    CPU waits for neither.

    Examples
    --------
    >>> [b["x"] for b in ahead(iter([{"x": 1}, {"x": 2}]), torch.device("cpu"))]
    [1, 2]
    """
    if side is None and device.type == "cuda":
        side = CudaSide(device)

    def prepared() -> Batch | None:
        batch = next(batches, None)
        return batch if batch is None or stored is None else stored.ahead(batch)

    if side is None:
        while (batch := prepared()) is not None:
            yield batch
        return
    while True:
        with side.preparing():
            batch = prepared()
        if batch is None:
            return
        side.ready(batch)
        yield batch
