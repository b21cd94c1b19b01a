"""Views: splits, fractions, limits, classes."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.data.catalog import open_source
from kdplan.data.select import choose, split_names, split_sizes, view_size
from kdplan.data.sources.base import Opened, Part
from kdplan.data.view import SplitRule, ViewSpec

DIGITS = open_source("digits", {}, None)
TRAIN = DIGITS.parts["train"].labels()


def _rows(**settings):
    return choose(ViewSpec("digits", **settings), DIGITS)[1]


def test_a_plain_view_is_everything_in_order():
    assert np.array_equal(_rows(), np.arange(1437))
    assert view_size(ViewSpec("digits"), None) == 1437


@pytest.mark.parametrize("share", [0.1, 0.35, 0.9])
def test_fractions_are_balanced_and_nested(share):
    rows = _rows(fraction=share)
    expected = np.rint(np.bincount(TRAIN) * share)
    assert np.array_equal(np.bincount(TRAIN[rows]), expected)
    assert set(rows) <= set(_rows(fraction=min(1.0, share + 0.05)))
    assert not np.array_equal(rows, _rows(fraction=share, seed=1))


@given(st.integers(1, 1437), st.integers(0, 99))
@settings(max_examples=30, deadline=None)
def test_limits_are_balanced_and_nested(limit, seed):
    rows = _rows(limit=limit, seed=seed)
    counts = np.bincount(TRAIN[rows], minlength=10)
    assert len(rows) == len(set(rows)) == limit
    if limit <= 10 * np.bincount(TRAIN).min():
        assert counts.max() - counts.min() <= 1
    assert set(rows) <= set(_rows(limit=limit + 1, seed=seed))


def test_classes_choose_samples():
    rows = _rows(classes=(8, 3))
    assert set(TRAIN[rows]) == {3, 8}
    assert len(rows) == (TRAIN == 3).sum() + (TRAIN == 8).sum()


def test_classes_of_a_limited_set_are_a_part_of_it():
    rows = _rows(classes=(8, 3), limit=200)
    assert np.bincount(TRAIN[rows])[[3, 8]].tolist() == [20, 20]
    assert set(rows) <= set(_rows(limit=200))


def test_per_class_splits():
    rule = SplitRule("per_class", (("train", 60),), seed=4)
    assert split_names(DIGITS, rule) == ("train", "val", "test")
    train, val = _rows(rule=rule), _rows(rule=rule, split="val")
    assert np.bincount(TRAIN[train]).tolist() == [60] * 10
    assert sorted([*train, *val]) == list(range(1437))
    assert len(_rows(rule=rule, split="test")) == 360  # the set's own test is left alone
    assert not np.array_equal(train, _rows(rule=SplitRule("per_class", (("train", 60),), seed=5)))


@given(st.floats(0.05, 0.6), st.floats(0.05, 0.39), st.integers(0, 5))
@settings(max_examples=20, deadline=None)
def test_fraction_splits_share_everything_out(a, b, seed):
    rule = SplitRule("fraction", (("train", a), ("mine", b)), seed=seed)
    found = [_rows(rule=rule, split=s) for s in ("train", "mine", "val")]
    assert sorted(np.concatenate(found)) == list(range(1437))
    counts = np.bincount(TRAIN)
    assert np.abs(np.bincount(TRAIN[found[0]], minlength=10) - a * counts).max() <= 0.5
    assert np.abs(np.bincount(TRAIN[found[1]], minlength=10) - b * counts).max() <= 1


def test_a_set_of_one_part_is_divided_into_train_and_test(tmp_path):
    np.savez(tmp_path / "a.npz", x=np.zeros((40, 4)), y=np.arange(40) % 4)
    spec = ViewSpec("arrays", (("path", "a.npz"),), rule=SplitRule("per_class", (("train", 7),)))
    assert view_size(spec, tmp_path) == 28
    assert view_size(spec.with_(split="test"), tmp_path) == 12


@pytest.mark.parametrize("amounts", [("per_class", 60), ("fraction", 0.1)])
@pytest.mark.parametrize("parts", [{"train": 1437, "test": 360}, {"train": 1437}, {"all": 1437, "val": 9}])
def test_sizes_of_splits(parts, amounts):
    kind, amount = amounts
    labels = {name: np.arange(size) % 10 for name, size in parts.items()}
    opened = Opened(
        {n: Part(size, labels=lambda y=labels[n]: y) for n, size in parts.items()}, str, tuple(map(str, range(10)))
    )
    rule = SplitRule(kind, (("train", amount),))
    sizes = split_sizes("mine", opened, rule)
    assert sum(sizes.values()) == sum(parts.values())
    assert sizes == {n: len(choose(ViewSpec("mine", split=n, rule=rule), opened)[1]) for n in sizes}
    assert list(sizes) == ["train", "val", "test"] if "test" in parts else ["train", "test", *list(parts)[1:]]


def test_sets_without_labels_can_be_thinned(tmp_path):
    np.save(tmp_path / "a.npy", np.zeros((50, 4)))
    assert view_size(ViewSpec("arrays", (("path", "a.npy"),), fraction=0.3), tmp_path) == 15
