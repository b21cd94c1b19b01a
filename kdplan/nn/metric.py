"""What every metric is: something that sees a data set batch by batch, and a number at the end.

How the data set is cut into batches does not change the result. Counts are integers and sums are float64, held on the
outputs' device, so that no batch waits for a copy to the CPU.
"""

from __future__ import annotations

from abc import ABC, abstractmethod

import torch
from torch import Tensor

from kdplan.nn.losses import wide


class Metric(ABC):
    """A number about a data set: `update` with each batch, then `compute`.

    Parameters
    ----------
    probabilities : bool
        The outputs are probabilities, not logits (those of an ensemble, for example).
    """

    passes = 1
    """How often the data is read; `again` stands between two passes."""

    def __init__(self, probabilities: bool = False) -> None:
        self.probabilities = probabilities
        self.total: Tensor | None = None
        self.count = 0

    def update(self, outputs: Tensor, labels: Tensor) -> None:
        """Takes one batch: outputs ``[B, C]`` and labels ``[B]``."""
        with torch.no_grad():
            added = self.measure(wide(outputs.detach()), labels)
        self.total = added if self.total is None else self.total + added
        self.count += len(outputs)

    def again(self) -> None:  # noqa: B027 - most have nothing to do
        """All of the data has been seen, and will be seen once more if there are passes left."""

    def merge(self, other: Metric) -> None:
        """Adds what another metric of the same kind has seen."""
        assert type(other) is type(self), (type(self), type(other))
        if other.total is not None:
            self.total = other.total if self.total is None else self.total + other.total.to(self.total.device)
            self.count += other.count

    def compute(self) -> float:
        """The metric over everything seen so far.

        Raises
        ------
        ValueError
            If nothing has been seen.
        """
        if self.total is None or self.count == 0:
            raise ValueError("a metric of no samples has no value")
        return self.result(self.total)

    @abstractmethod
    def measure(self, outputs: Tensor, labels: Tensor) -> Tensor:
        """What one batch adds to the total; ``[B, C], [B] -> []`` (or a fixed shape)."""

    def result(self, total: Tensor) -> float:
        """The metric, from the total; by default the mean over samples, in percent."""
        return 100.0 * total.item() / self.count


def spatial_mean(features: Tensor) -> Tensor:
    """Features as vectors: maps are averaged over positions; ``[B, D, ...] -> [B, D]``.

    Raises
    ------
    ValueError
        If they are no floating-point numbers of samples.

    Examples
    --------
    >>> spatial_mean(torch.arange(8.0).reshape(1, 2, 2, 2))
    tensor([[1.5000, 5.5000]])
    """
    if features.dim() < 2 or not features.is_floating_point():
        raise ValueError(f"values of shape {list(features.shape)} ({features.dtype}) are no features of samples")
    return features.flatten(2).mean(dim=2) if features.dim() > 2 else features
