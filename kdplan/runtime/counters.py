"""The step counters that a loss may read."""

from __future__ import annotations


def counters(step: int, per_epoch: int, total: int | None) -> dict[str, float]:
    """The value of each counter before step `step`: `epoch` and `step` from 0, `progress` from 0 up to 1.

    Parameters
    ----------
    step
        Steps that are done.
    per_epoch
        Steps in an epoch.
    total
        Steps in all; None where a plateau decides, and `progress` stays 0.

    Examples
    --------
    >>> counters(15, per_epoch=10, total=20)
    {'epoch': 1.0, 'step': 15.0, 'progress': 0.75}
    """
    return {"epoch": float(step // per_epoch), "step": float(step), "progress": float(step / total if total else 0.0)}
