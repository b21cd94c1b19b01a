"""The statistics of claims, against numerical integration and simulated experiments."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import integrate, stats

from kdplan.runtime.claims.paired import cleaned, half_width, holm, log_e_value, needed, paired

Array = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def bayes_factor(x: Array, g: float = 1.0) -> float:
    """The ratio of the two marginal likelihoods, by integration over the deviation and, above, the effect."""
    n, mean, square = len(x), float(x.mean()), float((x * x).sum())

    def null(sigma: float) -> float:
        return sigma ** -(n + 1) * math.exp(-square / (2 * sigma**2))

    def effect(delta: float, sigma: float) -> float:
        rest = square - 2 * n * mean * delta * sigma + n * (delta * sigma) ** 2
        return sigma ** -(n + 1) * math.exp(-rest / (2 * sigma**2)) * stats.norm.pdf(delta, scale=math.sqrt(g))

    above, _ = integrate.dblquad(effect, 1e-3, 60, -12, 12)
    below, _ = integrate.quad(null, 1e-3, 60)
    return above / below


@pytest.mark.parametrize("shift", [0.0, 0.8])
def test_the_e_value_is_the_bayes_factor(shift: float) -> None:
    """Of a normal mean with the right Haar prior on the deviation."""
    x = np.random.default_rng(1).normal(0.7, 1.0, 5)
    assert math.exp(log_e_value(list(x), shift)) == pytest.approx(bayes_factor(x - shift), rel=1e-5)


def looked_at(x: Array, g: float = 1.0) -> Array:
    """Logarithms of the e-values of experiments (rows) after each of their runs, independently written."""
    n = np.arange(1, x.shape[1] + 1)
    mean = x.cumsum(1) / n
    variance = np.maximum((x * x).cumsum(1) - n * mean**2, 1e-300) / np.maximum(n - 1, 1)
    t2, nu = n * mean**2 / variance, np.maximum(n - 1, 1)
    e = -0.5 * np.log(1 + n * g) + n / 2 * (np.log1p(t2 / nu) - np.log1p(t2 / (nu * (1 + n * g))))
    return np.where(n == 1, 0.0, e)


def test_null_experiments_are_rarely_declared() -> None:
    """However often one looks, of 10,000 experiments without a difference at most 5 % are ever declared."""
    x = np.random.default_rng(0).standard_normal((10_000, 100))
    e = looked_at(x)
    assert e[3, 9] == pytest.approx(log_e_value(list(x[3, :10])))
    share = float((e.max(1) >= math.log(20)).mean())
    assert 0.01 < share <= 0.05
    t = np.abs(stats.ttest_1samp(x[:, :10], 0, axis=1).statistic) > stats.t.ppf(0.975, 9)
    assert t.mean() == pytest.approx(0.05, abs=0.01)  # the fixed interval, looked at once
    peeked = np.zeros(len(x), bool)
    for n in range(3, 31):
        peeked |= stats.ttest_1samp(x[:, :n], 0, axis=1).pvalue < 0.05
    assert peeked.mean() > 0.2  # looked at again and again, it declares far more


@pytest.mark.parametrize(
    ("size", "seeds", "share"), [(1, 10, 0.38), (1, 30, 0.98), (2, 10, 0.98), (3, 5, 0.36), (0.5, 30, 0.42)]
)
def test_power(size: float, seeds: int, share: float) -> None:
    """How often so many seeds declare a difference of so many deviations."""
    x = np.random.default_rng(2).normal(size, 1.0, (4_000, seeds))
    assert (looked_at(x).max(1) >= math.log(20)).mean() == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("n", [4, 5, 12, 60])
def test_the_interval_is_where_the_e_value_stays_small(n: int) -> None:
    """At its ends the e-value is 1/α."""
    x = list(np.random.default_rng(n).normal(1.0, 2.0, n))
    shown = paired(x, 0.2)
    for end in (shown.low, shown.high):
        assert log_e_value(x, end) == pytest.approx(math.log(5))
    assert log_e_value(x, shown.mean) < 0


def test_students_interval() -> None:
    """As scipy has it."""
    x = np.random.default_rng(3).normal(1.0, 2.0, 7)
    wanted = stats.ttest_1samp(x, 0).confidence_interval(0.95)
    shown = paired(list(x))
    assert (shown.fixed_low, shown.fixed_high) == pytest.approx(tuple(wanted))


def test_few_and_equal_runs() -> None:
    """One run shows nothing; equal ones have no width; rounding is no difference."""
    assert log_e_value([3.0]) == 0.0 and paired([3.0]).high == math.inf
    assert log_e_value([1.0] * 5) == pytest.approx(2 * math.log(6))
    assert log_e_value([0.0] * 5) < 0
    assert cleaned([1e-13, -1e-13, 0.2], 90.0) == [0.0, 0.0, 0.2]
    assert half_width(2, 1.0, 0.05) == math.inf


def test_needed_runs_decide() -> None:
    """With so many the interval leaves out the bound, with one less it does not."""
    n = needed(0.8, 1.0, 0.05)
    assert n is not None and half_width(n, 1.0, 0.05) < 0.8 <= half_width(n - 1, 1.0, 0.05)
    assert needed(1e-6, 1.0, 0.05) is None


def test_holm_keeps_the_family_wise_level() -> None:
    """Of 2,000 plans of five true nulls, at most 5 % declare any."""
    rng = np.random.default_rng(5)
    declared = sum(any(holm(list(rng.uniform(size=5)), 0.05)) for _ in range(2_000))
    assert declared / 2_000 == pytest.approx(0.05, abs=0.015)
