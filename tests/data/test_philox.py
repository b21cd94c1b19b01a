"""The generator: known answers, equal bits everywhere, and clean statistics."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.data.philox import AUGMENT, ORDER, below, order, philox4x32, words

KNOWN = [
    ((0, 0, 0, 0), 0, (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (1 << 64) - 1, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        0x299F31D0A4093822,
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


@pytest.mark.parametrize(("counter", "key", "expected"), KNOWN)
def test_known_answers(counter, key, expected):
    assert tuple(int(w[0]) for w in philox4x32(tuple(np.array([c]) for c in counter), key)) == expected
    assert tuple(int(w[0]) for w in philox4x32(tuple(torch.tensor([c]) for c in counter), key)) == expected


@given(st.integers(0, 2**64 - 1), st.integers(0, 10**6), st.integers(0, 2**31))
@settings(max_examples=25, deadline=None)
def test_numpy_and_torch_give_the_same_bits(seed, epoch, first):
    index = np.arange(first, first + 7)
    a = words(index, seed=seed, epoch=epoch, purpose=AUGMENT, slot=3, stream=2)
    b = words(torch.from_numpy(index), seed=seed, epoch=epoch, purpose=AUGMENT, slot=3, stream=2)
    assert all(np.array_equal(x, y.numpy()) for x, y in zip(a, b, strict=True))


def _uniform(**kwargs):
    setting = {"seed": 5, "epoch": 0, "purpose": AUGMENT, **kwargs}
    return np.stack(words(np.arange(20_000), **setting)) / 2**32


def test_words_are_uniform():
    for row in _uniform():
        counts = np.histogram(row, 64, (0, 1))[0]
        chi2 = ((counts - 20_000 / 64) ** 2 / (20_000 / 64)).sum()
        assert 30 < chi2 < 110  # 63 degrees of freedom: both bounds are beyond four sigmas


def test_bits_are_balanced():
    bits = np.unpackbits(
        np.stack(words(np.arange(20_000), seed=1, epoch=2, purpose=AUGMENT)).astype(">u4").view(np.uint8)
    )
    share = bits.reshape(-1, 32).mean(0)
    assert np.abs(share - 0.5).max() < 5 * 0.5 / np.sqrt(80_000)


@pytest.mark.parametrize(
    "change", [{"epoch": 1}, {"seed": 6}, {"seed": 5 + 2**32}, {"slot": 1}, {"stream": 1}, {"purpose": ORDER}]
)
def test_neighbours_are_independent(change):
    a, b = _uniform(), _uniform(**change)
    r = np.corrcoef(np.concatenate([a, b]))
    assert np.abs(r - np.eye(8)).max() < 5 / np.sqrt(20_000)


def test_samples_are_independent():
    a = _uniform()[0]
    for lag in (1, 2, 64):
        assert abs(np.corrcoef(a[lag:], a[:-lag])[0, 1]) < 5 / np.sqrt(20_000)


@given(st.integers(0, 300), st.integers(-(2**70), 2**70), st.integers(0, 10**9), st.integers(0, 9))
@settings(max_examples=60, deadline=None)
def test_an_epoch_is_a_permutation(n, seed, epoch, stream):
    found = order(n, seed=seed, epoch=epoch, stream=stream)
    assert np.array_equal(np.sort(found), np.arange(n))
    assert np.array_equal(found, order(n, seed=seed, epoch=epoch, stream=stream))


def test_all_orders_of_four_are_equally_likely():
    counts: dict[bytes, int] = {}
    for epoch in range(4800):
        key = order(4, seed=0, epoch=epoch).tobytes()
        counts[key] = counts.get(key, 0) + 1
    assert len(counts) == 24
    assert sum((c - 200) ** 2 / 200 for c in counts.values()) < 60  # 23 degrees of freedom


def test_orders_of_epochs_and_streams_are_unrelated():
    base = order(5000, seed=0, epoch=0)
    for other in (order(5000, seed=0, epoch=1), order(5000, seed=1, epoch=0), order(5000, seed=0, epoch=0, stream=1)):
        assert (base == other).sum() < 12  # one is expected
        assert abs(np.corrcoef(base, other)[0, 1]) < 5 / np.sqrt(5000)


def test_below_stays_below():
    word = torch.tensor([0, 1, 2**31, 2**32 - 1])
    assert below(word, 9).tolist() == [0, 0, 4, 8]
