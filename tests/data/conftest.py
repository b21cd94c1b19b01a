"""Small data sets on disk, for tests: fixtures that give the functions which write them."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def write_images(folder: Path, splits=("train", "val"), classes=("ant", "bee", "cat"), each=4, seed=0) -> Path:
    """Image files of differing sizes, one folder a class."""
    random = np.random.default_rng(seed)
    for split in splits:
        for c in classes:
            at = folder / split / c if split else folder / c
            at.mkdir(parents=True)
            for i in range(each):
                height, width = random.integers(20, 40, 2)
                pixels = random.integers(0, 256, (height, width, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(at / f"{i}.png")
    return folder


def write_idx(path: Path, array: np.ndarray, zipped: bool = False) -> Path:
    """An array of bytes in the IDX layout."""
    content = b"\0\0\x08" + bytes([array.ndim]) + np.array(array.shape, ">u4").tobytes() + array.tobytes()
    path.parent.mkdir(parents=True, exist_ok=True)
    if zipped:
        path = path.with_name(path.name + ".gz")
        content = gzip.compress(content)
    path.write_bytes(content)
    return path


def write_mnist(root: Path, zipped: bool = False, n: int = 6) -> Path:
    """A tiny set in MNIST's layout."""
    folder = root / "MNIST" / "raw"
    for prefix, size in (("train", n), ("t10k", 3)):
        pixels = np.arange(size * 28 * 28, dtype=np.int64).reshape(size, 28, 28).astype(np.uint8)
        write_idx(folder / f"{prefix}-images-idx3-ubyte", pixels, zipped)
        write_idx(folder / f"{prefix}-labels-idx1-ubyte", np.arange(size, dtype=np.uint8) % 10, zipped)
    return folder


@pytest.fixture
def images():
    return write_images


@pytest.fixture
def mnist():
    return write_mnist
