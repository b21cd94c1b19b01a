"""Paired differences: their mean, how sure it is, and whether it is on one side of a bound.

All that decides is valid at any time: whoever looks after every run, and stops when the answer pleases, is wrong as
rarely as the level says. The fixed interval beside it is Student's, for a number of runs that was chosen beforehand.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass

SPREAD = 1.0
"""g of the prior N(0, g σ²) on the mean: which sizes of a difference are found soonest."""
ROUNDING = 1e-9
"""Differences smaller than this share of what was compared are 0: they come from rounding."""
MOST_RUNS = 1000
"""A prediction of more runs than this is not made."""


@dataclass(frozen=True, slots=True)
class Paired:
    """What paired differences show.

    Attributes
    ----------
    n
        Number of pairs.
    mean, std
        Of the differences; the deviation is over n - 1, and None for one pair.
    low, high
        The interval that is valid at any time; infinite for few pairs.
    fixed_low, fixed_high
        Student's interval; infinite for one pair.
    """

    n: int
    mean: float
    std: float | None
    low: float
    high: float
    fixed_low: float
    fixed_high: float


def log_e_value(differences: Sequence[float], shift: float = 0.0, spread: float = SPREAD) -> float:
    """The logarithm of the evidence against a mean difference of `shift`.

    The Bayes factor of a normal mean with the right Haar prior on the scale and N(0, g σ²) on the mean, which is a
    function of Student's t alone, and an e-process: under a true mean of `shift` it ever exceeds 1/α with a probability
    of at most α, however often one looks (Hendriksen, de Heide and Grünwald 2021; Wang and Ramdas 2024).

    Parameters
    ----------
    differences
        One for each pair.
    shift
        The mean to speak against.
    spread
        g.

    Examples
    --------
    >>> round(math.exp(log_e_value([3.1, 3.9, 3.4, 4.2, 3.3])), 1)
    30.8
    >>> log_e_value([3.1])
    0.0
    """
    n = len(differences)
    if n < 2:
        return 0.0
    wide = 1 + n * spread
    distance, deviation = statistics.fmean(differences) - shift, statistics.stdev(differences)
    if deviation == 0:
        return 0.5 * (n - 1) * math.log(wide) if distance else -0.5 * math.log(wide)
    ratio = n * (distance / deviation) ** 2 / (n - 1)
    return 0.5 * (n * (math.log1p(ratio) - math.log1p(ratio / wide)) - math.log(wide))


def half_width(n: int, deviation: float, alpha: float, spread: float = SPREAD) -> float:
    """Half the interval around the mean that is valid at any time: shifts whose e-value stays below 1/α.

    >>> half_width(3, 1.0, 0.05), round(half_width(10, 1.0, 0.05), 3)
    (inf, 1.224)
    """
    if n < 2:
        return math.inf
    wide = 1 + n * spread
    factor = math.exp(2 / n * (math.log(1 / alpha) + 0.5 * math.log(wide)))
    if factor >= wide:
        return math.inf
    return deviation * math.sqrt((factor - 1) / (1 - factor / wide) * (n - 1) / n)


def student(n: int, deviation: float, alpha: float) -> float:
    """Half of Student's interval.

    >>> round(student(10, 1.0, 0.05), 3)
    0.715
    """
    if n < 2:
        return math.inf
    from scipy.special import stdtrit

    return float(stdtrit(n - 1, 1 - alpha / 2)) * deviation / math.sqrt(n)


def cleaned(differences: Sequence[float], scale: float) -> list[float]:
    """The differences, with 0 for those that are rounding of numbers as large as `scale`.

    >>> cleaned([1e-14, 0.5], 90.0)
    [0.0, 0.5]
    """
    return [0.0 if abs(d) <= ROUNDING * scale else d for d in differences]


def paired(differences: Sequence[float], alpha: float = 0.05) -> Paired:
    """What differences show, with intervals of the level 1 - α.

    Examples
    --------
    >>> shown = paired([3.1, 3.9, 3.4, 4.2, 3.3])
    >>> shown.n, round(shown.mean, 2), round(shown.low, 2), round(shown.high, 2)
    (5, 3.58, 1.86, 5.3)
    """
    n, mean = len(differences), statistics.fmean(differences)
    if n < 2:
        return Paired(n, mean, None, -math.inf, math.inf, -math.inf, math.inf)
    deviation = statistics.stdev(differences)
    half, fixed = half_width(n, deviation, alpha), student(n, deviation, alpha)
    return Paired(n, mean, deviation, mean - half, mean + half, mean - fixed, mean + fixed)


def needed(distance: float, deviation: float, alpha: float) -> int | None:
    """How many pairs show a difference that stays at this distance from its bound, with this deviation.

    None for a distance of 0, and for more than `MOST_RUNS`.

    Examples
    --------
    >>> needed(1.0, 1.0, 0.05), needed(0.5, 1.0, 0.05), needed(0.0, 1.0, 0.05)
    (14, 45, None)
    """
    if not distance:
        return None
    return next((n for n in range(2, MOST_RUNS + 1) if half_width(n, deviation, alpha) < abs(distance)), None)


def holm(p_values: Sequence[float], alpha: float) -> list[float]:
    """The α that Holm's step-down procedure has for each of several p-values; 0 for those that it keeps.

    Rejected are those below their α, and with them no true hypothesis with a probability of 1 - α.

    Examples
    --------
    >>> holm([0.04, 0.001, 0.03], 0.05)
    [0.0, 0.016666666666666666, 0.0]
    >>> holm([0.02, 0.001], 0.05)
    [0.05, 0.025]
    """
    order = sorted(range(len(p_values)), key=lambda i: p_values[i])
    levels = [0.0] * len(p_values)
    for rank, i in enumerate(order):
        level = alpha / (len(p_values) - rank)
        if p_values[i] > level:
            break
        levels[i] = level
    return levels
