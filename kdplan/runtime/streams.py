"""The batches of a phase: the fields of all its streams, named as the graphs' placeholders."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from kdplan.data.loader import Loader
from kdplan.data.loader import Streams as Loaders

Batch = dict[str, Tensor]
HOST = "host_"
"""Before the names of fields that are on the CPU, too."""


class Streams:
    """Several loaders read side by side; which batch a step sees is a function of the step alone.

    Each loader's batch is what one step of the optimizer sees; `split` cuts it into parts that fit the device.
    """

    def __init__(self, loaders: Sequence[Loader]) -> None:
        self._loaders = Loaders({str(number): loader for number, loader in enumerate(loaders)})

    @property
    def steps(self) -> int:
        """Steps in an epoch: the batches of the first stream."""
        return self._loaders.steps_per_epoch

    @property
    def whole(self) -> list[int]:
        """Samples of each stream in a step that is not the last of an epoch."""
        return [min(loader.batch, len(loader.dataset)) for loader in self._loaders.loaders.values()]

    def reseed(self, seed: int) -> None:
        """Take other orders and augmentation from now on."""
        self._loaders.reseed(seed)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of `epoch` from its step `start` on: `inputs_0`, `labels_0`, `indices_0`, `inputs_1` …"""
        for batches in self._loaders.epoch(epoch, start):
            yield {f"{field}_{number}": tensor for number, batch in batches.items() for field, tensor in batch.items()}


def samples(batch: Batch) -> int:
    """Samples of the first stream in a batch."""
    return len(next(t for name, t in batch.items() if name.endswith("_0")))


def host_pairs(batch: Batch) -> list[tuple[Tensor, Tensor]]:
    """Fields of a batch on the device, each with the same numbers on the CPU, where the batch has both.

    >>> host_pairs({"labels_0": torch.ones(1), "host_labels_0": torch.ones(1), "inputs_0": torch.zeros(1)})
    [(tensor([1.]), tensor([1.]))]
    """
    return [(batch[name.removeprefix(HOST)], here) for name, here in batch.items() if name.startswith(HOST)]


def split(batch: Batch, size: int, channels_last: bool = False) -> Iterator[Batch]:
    """A batch in parts of `size` samples of the first stream, of the others as much as goes with them.

    >>> parts = split({"inputs_0": torch.arange(5), "inputs_1": torch.arange(3)}, size=2)
    >>> [(len(p["inputs_0"]), len(p["inputs_1"])) for p in parts]
    [(2, 1), (2, 1), (1, 1)]
    """
    if channels_last:
        batch = {n: t.contiguous(memory_format=torch.channels_last) if t.dim() == 4 else t for n, t in batch.items()}
    if samples(batch) <= size:
        yield batch
        return
    count = -(-samples(batch) // size)
    pieces = {n: torch.split(t, size) if n.endswith("_0") else t.tensor_split(count) for n, t in batch.items()}
    for number in range(count):
        yield {name: piece[number] for name, piece in pieces.items()}
