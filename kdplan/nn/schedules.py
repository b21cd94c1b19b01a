"""Learning rates over time, as factors on the optimizer's own rate. No torch here.

A schedule is a function of the epoch (a float: half-way through the third epoch is 2.5) and, for `plateau`, of the
losses seen so far. The function has no memory of calls, so that a resumed run needs `state_dict` and nothing else.
"""

from __future__ import annotations

import math
from typing import Any

from kdplan.ir.implementation import load, row
from kdplan.ir.optimizers import SCHEDULES

WARMUP_START = 0.01
"""Share of the learning rate with which a warm-up begins; 0 would waste the first step."""


class Schedule:
    """The constant schedule, and the base of the others.

    Parameters
    ----------
    warmup : float
        Epochs over which the rate rises along a line from `WARMUP_START` to what the schedule says. Epochs are
        always counted from the start of the phase.

    Examples
    --------
    >>> s = Schedule(warmup=2)
    >>> s.lr_factor(0), s.lr_factor(1), s.lr_factor(2), s.finished
    (0.01, 0.505, 1.0, False)
    """

    def __init__(self, warmup: float = 0.0) -> None:
        if warmup < 0:
            raise ValueError(f"a warm-up lasts 0 epochs or more, not {warmup}")
        self.warmup = warmup

    def lr_factor(self, epoch: float) -> float:
        """What the learning rate is multiplied by at `epoch` (from 0; fractions are steps within an epoch)."""
        factor = self.factor(epoch)
        if epoch < self.warmup:
            factor *= WARMUP_START + (1 - WARMUP_START) * epoch / self.warmup
        return factor

    def factor(self, epoch: float) -> float:
        """The same without warm-up."""
        return 1.0

    def epoch_end(self, loss: float) -> None:
        """Takes the mean training loss of an epoch; most schedules do not read it."""

    @property
    def finished(self) -> bool:
        """Whether the schedule ends the phase now, before its last epoch."""
        return False

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs, as JSON holds it."""
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        assert not state, state


class Steps(Schedule):
    """Multiplies the rate by `factor` at each of the epochs `at`.

    Examples
    --------
    >>> s = Steps(at=[2, 4])
    >>> [round(s.lr_factor(e), 6) for e in (0, 1.99, 2, 4)]
    [1.0, 1.0, 0.1, 0.01]
    """

    def __init__(self, at: list[float], factor: float = 0.1, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        self.at = sorted(at)
        self.by = factor

    def factor(self, epoch: float) -> float:
        """`factor` to the power of how many of the epochs `at` have passed."""
        return self.by ** sum(epoch >= a for a in self.at)


class Cosine(Schedule):
    """Falls along half a cosine from 1 to `final`, `cycles` times over `total` epochs.

    Examples
    --------
    >>> s = Cosine(total=10)
    >>> [round(s.lr_factor(e), 4) for e in (0, 5, 10)]
    [1.0, 0.5, 0.0]
    """

    def __init__(self, total: float, cycles: int = 1, final: float = 0.0, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        if cycles < 1:
            raise ValueError(f"a cosine has one cycle or more, not {cycles}")
        self.total, self.cycles, self.final = _length(total), cycles, final

    def factor(self, epoch: float) -> float:
        """From 1 to `final` along half a cosine in each cycle; `final` after the end."""
        if epoch >= self.total:
            return self.final
        part = (epoch * self.cycles / self.total) % 1.0
        return self.final + (1 - self.final) * 0.5 * (1 + math.cos(math.pi * part))


class Polynomial(Schedule):
    """Falls as ``final + (1 - final) (1 - epoch / total) ** power``; `power = 1` is a straight line.

    Examples
    --------
    >>> s = Polynomial(total=10, power=2.0)
    >>> [s.lr_factor(e) for e in (0, 5, 10)]
    [1.0, 0.25, 0.0]
    """

    def __init__(self, total: float, power: float = 1.0, final: float = 0.0, warmup: float = 0.0) -> None:
        super().__init__(warmup)
        if power <= 0:
            raise ValueError(f"the power of a polynomial schedule is above 0, not {power}")
        self.total, self.power, self.final = _length(total), power, final

    def factor(self, epoch: float) -> float:
        """From 1 to `final`; `final` after the end."""
        left: float = max(0.0, 1.0 - epoch / self.total) ** self.power
        return self.final + (1 - self.final) * left


class Plateau(Schedule):
    """Multiplies the rate by `factor` whenever the loss has not fallen for `patience` epochs.

    Parameters
    ----------
    lr : float
        The optimizer's learning rate, which `until` is compared with.
    factor, patience
        See above.
    until : float, optional
        The phase is finished once the rate is this or less (up to rounding, so that three times 0.1 takes 0.01 to
        1e-5).
    min_delta : float
        The loss has fallen when it is below the best so far by this share of it.
    smoothing : float
        From 0 to below 1: compares a moving average ``m = smoothing m + (1 - smoothing) loss`` instead of the loss.

    Examples
    --------
    >>> s = Plateau(lr=0.01, patience=2, until=0.001)
    >>> for loss in (1.0, 0.5, 0.5, 0.5):
    ...     s.epoch_end(loss)
    >>> s.lr_factor(4), s.finished
    (0.1, True)
    """

    def __init__(
        self,
        lr: float,
        factor: float = 0.1,
        patience: int = 5,
        until: float | None = None,
        min_delta: float = 1e-4,
        smoothing: float = 0.0,
        warmup: float = 0.0,
    ) -> None:
        super().__init__(warmup)
        if not 0 < factor < 1:
            raise ValueError(f"a plateau multiplies the rate by something between 0 and 1, not {factor}")
        if patience < 1:
            raise ValueError(f"a plateau waits at least one epoch, not {patience}")
        if not 0 <= smoothing < 1:
            raise ValueError(f"smoothing is from 0 to below 1, not {smoothing}")
        self.lr, self.by, self.patience, self.until = lr, factor, patience, until
        self.min_delta, self.smoothing = min_delta, smoothing
        self.reductions = 0
        self.waited = 0
        self.best: float | None = None
        self.mean: float | None = None

    def factor(self, epoch: float) -> float:
        """`factor` to the power of the reductions so far, whatever the epoch."""
        return self.by**self.reductions

    def epoch_end(self, loss: float) -> None:
        """Compares the epoch's mean loss with the best so far, and reduces the rate after `patience` epochs."""
        if self.mean is None or not math.isfinite(self.mean):  # a moving average would never recover
            self.mean = loss
        else:
            self.mean = self.smoothing * self.mean + (1 - self.smoothing) * loss
        # A loss that is not a number compares as false, and so counts as no progress.
        if self.mean < math.inf and (self.best is None or self.mean < self.best - self.min_delta * abs(self.best)):
            self.best, self.waited = self.mean, 0
            return
        self.waited += 1
        if self.waited >= self.patience:
            self.reductions += 1
            self.waited = 0

    @property
    def finished(self) -> bool:
        """Whether the rate is `until` or less."""
        return self.until is not None and self.lr * self.factor(0) <= self.until * (1 + 1e-9)

    def state_dict(self) -> dict[str, Any]:
        """Reductions, epochs without progress, the best loss and its moving average."""
        mean = self.mean if self.mean is not None and math.isfinite(self.mean) else None  # JSON has no NaN
        return {"reductions": self.reductions, "waited": self.waited, "best": self.best, "mean": mean}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on from `state_dict`."""
        self.reductions, self.waited = state["reductions"], state["waited"]
        self.best, self.mean = state["best"], state["mean"]


def build_schedule(name: str, settings: dict[str, Any], *, total: float, lr: float, warmup: float = 0.0) -> Schedule:
    """A fresh schedule by its name in `kdplan.ir.optimizers.SCHEDULES`.

    Parameters
    ----------
    name : str
    settings : dict
        As in the table.
    total : float
        Length of the phase in epochs.
    lr : float
        The optimizer's learning rate.
    warmup : float
        Epochs of warm-up.

    Raises
    ------
    ValueError
        If there is no such schedule or setting, or a value is impossible.

    Examples
    --------
    >>> build_schedule("steps", {"at": [3]}, total=5, lr=0.1).lr_factor(4)
    0.1
    """
    spec = row(SCHEDULES, "schedule", name, settings)
    read = {"total": total} if spec.reads_length else {"lr": lr} if spec.reads_loss else {}
    schedule: Schedule = load(spec.implementation)(**settings, **read, warmup=warmup)
    return schedule


def _length(total: float) -> float:
    if not total > 0:
        raise ValueError(f"a phase of {total} epochs has no schedule")
    return total
