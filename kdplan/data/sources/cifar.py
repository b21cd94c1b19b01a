"""CIFAR-10 and CIFAR-100, in the pickled and in the binary layout."""

from __future__ import annotations

import io
import pickle
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdplan.data.files import Where, fingerprint
from kdplan.data.names import CIFAR10, CIFAR100_SUPERCLASSES
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Array, Opened, Part, SourceSpec
from kdplan.diagnostics.report import error
from kdplan.diagnostics.text import read_text

_PIXELS = 3 * 32 * 32
_ALLOWED = {
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy._core.multiarray", "_reconstruct"),
    ("numpy.core.multiarray", "scalar"),
    ("numpy._core.multiarray", "scalar"),
}


class _ArraysOnly(pickle.Unpickler):
    """Builds lists, strings and numpy arrays, and refuses every other class: a data file may not run code."""

    def find_class(self, module: str, name: str) -> Any:
        """The class that a pickle asks for, if it is one that arrays need."""
        if (module, name) not in _ALLOWED:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}, which a data file may not")
        return super().find_class(module.replace("numpy.core", "numpy._core"), name)


def read_pickle(path: Path, where: Where) -> dict[str, Any]:
    """The dictionary in a pickled batch, with text keys."""
    try:
        content = _ArraysOnly(io.BytesIO(path.read_bytes()), encoding="bytes").load()
    except (
        pickle.UnpicklingError,
        EOFError,
        ValueError,
        TypeError,
        KeyError,
        IndexError,
        AttributeError,
        ImportError,
    ) as e:
        raise error(
            "KD0726", where.span, path=str(path), format="pickled CIFAR batch", why=str(e) or type(e).__name__
        ) from e
    if not isinstance(content, dict):
        raise error("KD0726", where.span, path=str(path), format="pickled CIFAR batch", why="it holds no dictionary")
    return {k.decode() if isinstance(k, bytes) else str(k): v for k, v in content.items()}


def pickled_part(paths: tuple[Path, ...], label: str, where: Where, size: int) -> Part:
    """`size` samples in pickled batches, whose labels stand under `label`."""

    @lru_cache(1)
    def batches() -> list[dict[str, Any]]:
        return [read_pickle(p, where) for p in paths]

    def joined(key: str) -> Array:
        missing = [p for p, b in zip(paths, batches(), strict=True) if key not in b]
        if missing:
            raise error(
                "KD0726", where.span, path=str(missing[0]), format="pickled CIFAR batch", why=f"it has no `{key}`"
            )
        return np.concatenate([np.asarray(b[key]) for b in batches()])

    return Part(
        size, lambda: joined("data").astype(np.uint8).reshape(-1, 3, 32, 32), lambda: joined(label).astype(np.int64)
    )


def _binary(paths: tuple[Path, ...], head: int, size: int) -> Part:
    """Records of `head` label bytes (the last is the class) and 3,072 bytes of pixels."""

    def records() -> Array:
        return np.concatenate([np.memmap(p, np.uint8, "r").reshape(-1, head + _PIXELS) for p in paths])

    def labels() -> Array:
        each = [np.memmap(p, np.uint8, "r").reshape(-1, head + _PIXELS)[:, head - 1] for p in paths]
        return np.concatenate(each).astype(np.int64)

    return Part(size, lambda: np.ascontiguousarray(records()[:, head:]).reshape(-1, 3, 32, 32), labels)


def _names(path: Path, count: int, where: Where) -> tuple[str, ...]:
    names = tuple(line.strip() for line in read_text(path).splitlines() if line.strip())
    if len(names) != count:
        raise error(
            "KD0726",
            where.span,
            path=str(path),
            format="list of class names",
            why=f"it has {len(names)} names, not {count}",
        )
    return names


def _check_pickles(name: str, folder: Path, sizes: dict[str, int], where: Where) -> None:
    for file, n in sizes.items():
        path = where.file(name, folder / file, at_least=n * _PIXELS)
        with path.open("rb") as f:
            f.seek(-1, io.SEEK_END)
            if f.read(1) != b".":  # a pickle ends with its stop mark; a cut one does not
                size = path.stat().st_size
                raise error("KD0715", where.span, path=str(path), found=f"{size:,}", expected=f"more than {size:,}")


def _open(
    name: str,
    folders: dict[str, tuple[dict[str, int], dict[str, int]]],
    label: str,
    head: int,
    where: Where,
    **facts: Any,
) -> Opened:
    """The set in the first of `folders` (layout -> files of train, files of test, with their numbers of samples)."""
    folder = where.first(name, list(folders))
    train, test = folders[folder.name]
    binary = folder.name in ("cifar-100-binary", "cifar-10-batches-bin")
    parts = {}
    for split, sizes in (("train", train), ("test", test)):
        paths = tuple(folder / f for f in sizes)
        total = sum(sizes.values())
        if binary:
            for path, n in zip(paths, sizes.values(), strict=True):
                where.file(name, path, size=n * (head + _PIXELS))
            parts[split] = _binary(paths, head, total)
        else:
            _check_pickles(name, folder, sizes, where)
            parts[split] = pickled_part(paths, label, where, total)
    files = [folder / f for f in (*train, *test)]
    if name == "cifar100" and binary:
        for file, known in (
            ("fine_label_names.txt", facts["classes"]),
            ("coarse_label_names.txt", tuple(facts["superclasses"])),
        ):
            path = where.file(name, folder / file)
            if _names(path, len(known), where) != known:
                raise error(
                    "KD0726",
                    where.span,
                    path=str(path),
                    format="list of CIFAR-100's class names",
                    why="the names differ",
                )
    layout = "/binary" if binary else "/pickled"
    return Opened(parts, lambda: fingerprint(where, files, layout), shape=(3, 32, 32), **facts)


def open_cifar100(args: Arguments, where: Where) -> Opened:
    """50,000 and 10,000 colour images of 32 by 32 in 100 classes and 20 superclasses."""
    folders = {
        "cifar-100-binary": ({"train.bin": 50000}, {"test.bin": 10000}),
        "cifar-100-python": ({"train": 50000}, {"test": 10000}),
    }
    return _open(
        "cifar100",
        folders,
        "fine_labels",
        2,
        where,
        classes=tuple(sorted(c for members in CIFAR100_SUPERCLASSES.values() for c in members)),
        superclasses=dict(CIFAR100_SUPERCLASSES),
        mean=(0.5071, 0.4866, 0.4409),
        std=(0.2673, 0.2564, 0.2762),
    )


def open_cifar10(args: Arguments, where: Where) -> Opened:
    """50,000 and 10,000 colour images of 32 by 32 in 10 classes."""
    folders = {
        "cifar-10-batches-bin": ({f"data_batch_{i}.bin": 10000 for i in range(1, 6)}, {"test_batch.bin": 10000}),
        "cifar-10-batches-py": ({f"data_batch_{i}": 10000 for i in range(1, 6)}, {"test_batch": 10000}),
    }
    return _open(
        "cifar10",
        folders,
        "labels",
        1,
        where,
        classes=CIFAR10,
        mean=(0.4914, 0.4822, 0.4465),
        std=(0.2470, 0.2435, 0.2616),
    )


CIFAR = (
    SourceSpec(
        "cifar10",
        (),
        "CIFAR-10: 50,000 + 10,000 colour images, 32 by 32.",
        open=open_cifar10,
        layout="cifar-10-batches-bin/ or cifar-10-batches-py/",
    ),
    SourceSpec(
        "cifar100",
        (),
        "CIFAR-100: 50,000 + 10,000 colour images, 32 by 32; 20 superclasses of 5 classes.",
        open=open_cifar100,
        layout="cifar-100-binary/ or cifar-100-python/",
    ),
)
