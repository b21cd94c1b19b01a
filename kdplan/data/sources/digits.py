"""The handwritten digits that come with scikit-learn: real data on every machine, without a download."""

from __future__ import annotations

import gzip
from functools import cache
from importlib.util import find_spec
from pathlib import Path

import numpy as np

from kdplan.data.files import Where, fingerprint
from kdplan.data.params import Arguments
from kdplan.data.philox import SPLIT, order
from kdplan.data.sources.base import Array, Opened, Part, SourceSpec
from kdplan.diagnostics.report import error

TRAIN, TEST = 1437, 360


def _path(where: Where) -> Path:
    # `find_spec` finds the package without importing it, which would take a second.
    spec = find_spec("sklearn")
    folders = spec.submodule_search_locations if spec else None
    for folder in folders or []:
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return path
    raise error("KD0713", where.span, name="digits", looked="scikit-learn's datasets/data/digits.csv.gz")


@cache
def _read(path: Path) -> tuple[Array, Array]:
    """Images uint8 [1797, 1, 8, 8] on the scale 0..255 (the file has 0..16), labels int64 [1797]."""
    with gzip.open(path, "rt", encoding="ascii") as text:
        table = np.loadtxt(text, delimiter=",", dtype=np.int64)
    images = (table[:, :64] * 255 + 8) // 16
    return images.astype(np.uint8).reshape(-1, 1, 8, 8), table[:, 64].copy()


def split_rows(labels: Array) -> tuple[Array, Array]:
    """The rows of `train` and of `test`, both in the file's order.

    Each class gives its share of the 360 test samples, by largest remainders (ties: lower class first); which samples
    is decided by a fixed permutation of the class.
    """
    counts = np.bincount(labels, minlength=10)
    exact = counts * TEST / len(labels)
    take = np.floor(exact).astype(int)
    for c in np.argsort(take - exact, kind="stable")[: TEST - int(take.sum())]:
        take[c] += 1
    test = np.zeros(len(labels), bool)
    for c in range(10):
        rows = np.flatnonzero(labels == c)
        test[rows[order(len(rows), seed=c, epoch=0, purpose=SPLIT)[: take[c]]]] = True
    return np.flatnonzero(~test), np.flatnonzero(test)


def open_digits(args: Arguments, where: Where) -> Opened:
    """1,797 grey images of 8 by 8: 1,437 to train, 360 to test."""
    path = _path(where)

    def part(which: int, size: int) -> Part:
        def rows() -> Array:
            return split_rows(_read(path)[1])[which]

        return Part(size, lambda: _read(path)[0][rows()], lambda: _read(path)[1][rows()])

    return Opened(
        parts={"train": part(0, TRAIN), "test": part(1, TEST)},
        fingerprint=lambda: fingerprint(where, [path]),
        classes=tuple("0123456789"),
        shape=(1, 8, 8),
        mean=(0.305,),
        std=(0.376,),
    )


DIGITS = SourceSpec(
    "digits",
    (),
    "Handwritten digits, 8 by 8, grey; embedded in scikit-learn. 1,437 to train and 360 to test, a fixed split "
    "balanced over classes.",
    open=open_digits,
    layout="nothing to fetch",
)
