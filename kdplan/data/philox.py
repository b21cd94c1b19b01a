"""Random numbers without state: pure functions of (seed, stream, epoch, index).

The generator is the counter-based Philox4x32-10. It uses operators only, so the same lines serve numpy and torch
`int64` arrays, on any device, with the same bits: what a sample is augmented with never depends on its batch, its
worker or the steps before it.
"""

from __future__ import annotations

from typing import Any

import numpy as np

MASK = 0xFFFFFFFF
_M0, _M1 = 0xD2511F53, 0xCD9E8D57
_W0, _W1 = 0x9E3779B9, 0xBB67AE85

# What the numbers are for: equal seeds never give the same numbers to two purposes.
ORDER, AUGMENT, SPLIT = 1, 2, 3


def philox4x32(counter: tuple[Any, Any, Any, Any], key: int, rounds: int = 10) -> tuple[Any, Any, Any, Any]:
    """Four 32-bit words for each counter.

    Parameters
    ----------
    counter : tuple of four
        Words below 2**32: arrays of `int64` (numpy or torch) that broadcast together, or ints; the first is an array.
    key : int
        64 bits.

    Returns
    -------
    tuple of four arrays
        Words below 2**32 in `int64`.

    Examples
    --------
    >>> words = philox4x32((np.zeros(1, np.int64), 0, 0, 0), 0)
    >>> [hex(int(w[0])) for w in words]
    ['0x6627e8d5', '0xe169c58d', '0xbc57ac4c', '0x9b00dbd8']
    """
    c0, c1, c2, c3 = counter
    # `+ 0 * c0` gives every word the array's shape, so that no step works on numpy scalars (which warn on wrapping).
    zero = c0 * 0
    c1, c2, c3 = c1 + zero, c2 + zero, c3 + zero
    k0, k1 = key & MASK, (key >> 32) & MASK
    for _ in range(rounds):
        # The signed product wraps, but its 64 bits are those of the unsigned one.
        p0, p1 = c0 * _M0, c2 * _M1
        c0, c1, c2, c3 = ((p1 >> 32) & MASK) ^ c1 ^ k0, p1 & MASK, ((p0 >> 32) & MASK) ^ c3 ^ k1, p0 & MASK
        k0, k1 = (k0 + _W0) & MASK, (k1 + _W1) & MASK
    return c0, c1, c2, c3


def words(
    index: Any, *, seed: int, epoch: int, purpose: int, slot: int = 0, stream: int = 0
) -> tuple[Any, Any, Any, Any]:
    """Four words for each sample.

    Parameters
    ----------
    index : array of int64, any shape
        Sample numbers, below 2**32.
    seed : int
        64 bits of it count.
    epoch : int
    purpose : int
        `ORDER`, `AUGMENT` or `SPLIT`.
    slot : int
        The number of the drawer among others of its purpose, as a transform's position in its list.
    stream : int
        The stream's number where a phase reads several.
    """
    assert epoch >= 0 and slot >= 0 and 0 <= stream < 1 << 24
    return philox4x32((index, epoch & MASK, slot & MASK, purpose << 24 | stream), seed & (1 << 64) - 1)


def below(word: Any, limit: Any) -> Any:
    """Whole numbers from 0 to `limit - 1`, shape as `word`.

    >>> below(np.array([0, 1 << 31, MASK]), 10)
    array([0, 5, 9])
    """
    return (word * limit) >> 32


def order(
    n: int, *, seed: int, epoch: int, stream: int = 0, purpose: int = ORDER
) -> np.ndarray[Any, np.dtype[np.int64]]:
    """The order of epoch `epoch`: a permutation of 0..n-1.

    All permutations are equally likely: samples are sorted by a 63-bit random number each, ties by index.

    Examples
    --------
    >>> sorted(order(5, seed=0, epoch=0).tolist())
    [0, 1, 2, 3, 4]
    """
    if n == 0:
        return np.zeros(0, np.int64)
    a, b, _, _ = words(np.arange(n, dtype=np.int64), seed=seed, epoch=epoch, purpose=purpose, stream=stream)
    permutation: np.ndarray[Any, np.dtype[np.int64]] = np.argsort(a << 31 | b >> 1, kind="stable")
    return permutation
