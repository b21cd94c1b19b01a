"""SVHN: house numbers in colour, in MATLAB files."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdplan.data.files import Where, fingerprint
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Array, Opened, Part, SourceSpec
from kdplan.diagnostics.report import error


def _guarded(path: Path, where: Where, read: Callable[[], Any]) -> Any:
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped, unused-ignore]

    try:
        return read()
    except (MatReadError, OSError, EOFError, ValueError, TypeError, KeyError, NotImplementedError, zlib.error) as e:
        why = str(e) or type(e).__name__
        raise error("KD0726", where.span, path=str(path), format="MATLAB file with `X` and `y`", why=why) from e


def _size(path: Path, where: Where) -> int:
    from scipy.io import whosmat  # type: ignore[import-untyped, unused-ignore]

    shapes = {name: shape for name, shape, _ in _guarded(path, where, lambda: whosmat(str(path)))}
    x, y = shapes.get("X", ()), shapes.get("y", ())
    if len(x) != 4 or x[:3] != (32, 32, 3) or y != (x[3], 1):
        why = f"it has X {list(x)} and y {list(y)}"
        raise error("KD0726", where.span, path=str(path), format="MATLAB file with `X` and `y`", why=why)
    return int(x[3])


def _read(path: Path, key: str, where: Where) -> Array:
    from scipy.io import loadmat  # type: ignore[import-untyped, unused-ignore]

    array: Array = _guarded(path, where, lambda: loadmat(str(path), variable_names=[key])[key])
    return array


def open_svhn(args: Arguments, where: Where) -> Opened:
    """73,257 and 26,032 colour images of 32 by 32; 531,131 easier ones in `extra`, if its file is there."""
    folder = where.first("svhn", ["svhn", "SVHN", "train_32x32.mat"])
    folder = folder.parent if folder.suffix == ".mat" else folder
    files = {s: folder / f"{s}_32x32.mat" for s in ("train", "test", "extra")}
    if not files["extra"].is_file():
        del files["extra"]
    parts = {}
    for split, path in files.items():
        where.file("svhn", path)
        parts[split] = Part(
            _size(path, where),
            lambda p=path: np.ascontiguousarray(_read(p, "X", where).transpose(3, 2, 0, 1)),  # type: ignore[misc]
            # The digit zero is written as 10.
            lambda p=path: _read(p, "y", where)[:, 0].astype(np.int64) % 10,  # type: ignore[misc]
        )
    return Opened(
        parts,
        lambda: fingerprint(where, files.values()),
        classes=tuple("0123456789"),
        shape=(3, 32, 32),
        mean=(0.4377, 0.4438, 0.4728),
        std=(0.1980, 0.2010, 0.1970),
    )


SVHN = SourceSpec(
    "svhn",
    (),
    "SVHN, cropped digits: 73,257 + 26,032 colour images, 32 by 32, and 531,131 in `extra`.",
    open=open_svhn,
    layout="svhn/{train,test,extra}_32x32.mat",
)
