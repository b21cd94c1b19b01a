"""Sums of the loss and its terms, kept on the device, and the first step at which each was not finite.

Nothing here waits for the device until a number is read.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from kdplan.ir.plan import Plain

NEVER = 2**62


@dataclass(frozen=True, slots=True)
class Broken:
    """From step `step` on `names` were not finite; `value` is the loss: `NaN` or `infinite`."""

    step: int
    names: list[str]
    value: str


class Watch:
    """Running sums over one epoch.

    Examples
    --------
    >>> watch = Watch(torch.device("cpu"))
    >>> watch.add({"loss": torch.tensor(2.0)}, samples=3, step=0)
    >>> watch.add({"loss": torch.tensor(1.0)}, samples=1, step=1)
    >>> watch.means()
    {'loss': 1.75}
    """

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.wide = torch.float32 if device.type == "mps" else torch.float64
        self.names: list[str] = []
        self.samples = 0
        self.sums = torch.zeros(0, dtype=self.wide, device=device)
        self.bad = torch.zeros(0, dtype=torch.int64, device=device)

    def add(self, values: Mapping[str, Tensor], samples: int, step: int) -> None:
        """Adds one batch: `values` are scalars, or anything else whose mean is taken; `samples` is their weight."""
        self.take(values, samples, step)
        self.samples += samples

    def take(self, values: Mapping[str, Tensor], samples: int, step: int | Tensor) -> None:
        """What `add` does on the device; `step` may be a tensor without dimensions."""
        self.begin(list(values))
        row = torch.stack([values[n].detach().to(self.device, self.wide).mean() for n in self.names])
        self.take_row(row, samples, step)

    def begin(self, names: Sequence[str]) -> None:
        """Sums of these names, where nothing is known yet."""
        if not self.names:
            self.names = list(names)
            self.sums = torch.zeros(len(names), dtype=self.wide, device=self.device)
            self.bad = torch.full((len(names),), NEVER, dtype=torch.int64, device=self.device)

    def add_row(self, row: Tensor, samples: int, step: int) -> None:
        """Adds one batch whose means are known: [names], in the order of `names`."""
        self.take_row(row, samples, step)
        self.samples += samples

    def take_row(self, row: Tensor, samples: int, step: int | Tensor) -> None:
        """What `add_row` does on the device."""
        self.sums += row * samples
        self.bad.copy_(torch.where(torch.isfinite(row), self.bad, self.bad.clamp(max=step)))

    def means(self) -> dict[str, float]:
        """Means over the samples so far; {} before the first."""
        means = (self.sums / max(self.samples, 1)).tolist() if self.samples else []
        return dict(zip(self.names, means, strict=False))

    def broken(self) -> Broken | None:
        """Which value was the first that was not finite, if any; waits for the device."""
        steps = self.bad.tolist()
        first = min(steps, default=NEVER)
        if first == NEVER:
            return None
        names = [n for n, step in zip(self.names, steps, strict=True) if step == first]
        sums = dict(zip(self.names, self.sums.tolist(), strict=True))
        value = sums.get("loss", float("nan"))
        return Broken(first, names, "NaN" if value != value else "infinite")

    def start_epoch(self) -> None:
        """Sums from zero again."""
        self.sums.zero_()
        self.samples = 0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Plain]]:
        """Tensors and plain values for a checkpoint."""
        return {"sums": self.sums}, {"names": self.names, "samples": self.samples}

    def load_state(self, tensors: Mapping[str, Tensor], plain: Mapping[str, Plain]) -> None:
        """The inverse of `state`."""
        self.names, self.samples = list(plain["names"]), int(plain["samples"])
        self.sums = tensors["sums"].to(self.device, self.wide)
        self.bad = torch.full((len(self.names),), NEVER, dtype=torch.int64, device=self.device)
