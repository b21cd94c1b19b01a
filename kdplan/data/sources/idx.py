"""MNIST and Fashion-MNIST: files in the IDX layout, plain or gzipped."""

from __future__ import annotations

import gzip
import math
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdplan.data.files import Where, fingerprint
from kdplan.data.names import FASHION
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Array, Opened, Part, SourceSpec
from kdplan.diagnostics.report import error

_FORMAT = "file in the IDX layout"
_FILES = {"train": "train", "test": "t10k"}


def read_header(path: Path, where: Where) -> tuple[tuple[int, ...], int]:
    """The array's shape, and the header's length in bytes; checks the file's size against them."""
    try:
        with _opened(path) as file:
            head = file.read(4)
            if len(head) < 4 or head[:3] != b"\0\0\x08" or not 1 <= head[3] <= 4:
                raise error(
                    "KD0726",
                    where.span,
                    path=str(path),
                    format=_FORMAT,
                    why="its header is not that of an array of bytes",
                )
            shape = tuple(np.frombuffer(file.read(4 * head[3]), ">u4").tolist())
    except (OSError, EOFError, zlib.error) as e:
        raise error("KD0726", where.span, path=str(path), format=_FORMAT, why=str(e)) from e
    start = 4 + 4 * head[3]
    expected = start + math.prod(shape)
    actual = path.stat().st_size
    if path.suffix == ".gz":
        # A gzip file ends with the size of what it holds.
        with path.open("rb") as raw:
            raw.seek(-4, 2)
            actual = int.from_bytes(raw.read(4), "little")
    if len(shape) != head[3] or actual != expected:
        raise error("KD0715", where.span, path=str(path), found=f"{actual:,}", expected=f"{expected:,}")
    return shape, start


def _opened(path: Path) -> Any:
    return gzip.open(path, "rb") if path.suffix == ".gz" else path.open("rb")


def _read(path: Path, where: Where) -> Array:
    shape, start = read_header(path, where)
    try:
        with _opened(path) as file:
            content = file.read()
    except (OSError, EOFError, zlib.error) as e:
        raise error("KD0726", where.span, path=str(path), format=_FORMAT, why=str(e)) from e
    return np.frombuffer(content, np.uint8, offset=start).reshape(shape)


def _idx(name: str, folders: list[str], **facts: Any) -> Callable[[Arguments, Where], Opened]:
    def open_idx(args: Arguments, where: Where) -> Opened:
        folder = where.first(name, folders)
        parts, files = {}, []
        shape: tuple[int, ...] = ()
        for split, prefix in _FILES.items():
            paths = []
            for kind in ("images-idx3-ubyte", "labels-idx1-ubyte"):
                plain = folder / f"{prefix}-{kind}"
                zipped = plain.with_name(plain.name + ".gz")
                paths.append(where.file(name, zipped if zipped.is_file() and not plain.is_file() else plain))
            (shape, _), (counts, _) = read_header(paths[0], where), read_header(paths[1], where)
            if len(shape) != 3 or counts != shape[:1]:
                why = f"it has labels {list(counts)} for images {list(shape)}"
                raise error("KD0726", where.span, path=str(paths[1]), format=_FORMAT, why=why)
            images, labels = paths
            parts[split] = Part(
                shape[0],
                lambda p=images: _read(p, where)[:, None],  # type: ignore[misc]
                lambda p=labels: _read(p, where).astype(np.int64),  # type: ignore[misc]
            )
            files += paths
        return Opened(parts, lambda: fingerprint(where, files), shape=(1, *shape[1:]), **facts)

    return open_idx


IDX = (
    SourceSpec(
        "mnist",
        (),
        "MNIST: 60,000 + 10,000 grey images of handwritten digits, 28 by 28.",
        open=_idx("mnist", ["MNIST/raw", "mnist", "MNIST"], classes=tuple("0123456789"), mean=(0.1307,), std=(0.3081,)),
        layout="MNIST/raw/*-idx?-ubyte, also .gz",
    ),
    SourceSpec(
        "fashion_mnist",
        (),
        "Fashion-MNIST: 60,000 + 10,000 grey images of clothing, 28 by 28.",
        open=_idx(
            "fashion_mnist",
            ["FashionMNIST/raw", "fashion_mnist", "FashionMNIST"],
            classes=FASHION,
            mean=(0.2860,),
            std=(0.3530,),
        ),
        layout="FashionMNIST/raw/*-idx?-ubyte, also .gz",
    ),
)
