"""Arrays from `.npz` and `.npy` files."""

from __future__ import annotations

import math
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from kdplan.data.files import Where, fingerprint
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Array, Opened, Part, SourceSpec, check_labels
from kdplan.data.view import SPLIT_NAMES
from kdplan.diagnostics.report import error
from kdplan.ir.spec import REQUIRED, Param

_INPUTS, _LABELS = ("x", "inputs", "images"), ("y", "labels")


def arrange(x: Array, layout: str = "auto") -> Array:
    """Inputs as they are held: images [N, C, H, W], features [N, F]; uint8, float32 or int64.

    [N, H, W] are grey images. Of four dimensions, the last is taken for channels if it is 1, 3 or 4 and the second
    is not, unless `layout` says `chw` or `hwc`.

    Raises
    ------
    ValueError
        For other dtypes or dimensions, or if a number is not finite.

    Examples
    --------
    >>> arrange(np.zeros((5, 32, 32, 3), np.uint8)).shape
    (5, 3, 32, 32)
    """
    shape = arranged_shape(x.shape, layout)
    if layout != "chw" and len(x.shape) == 4 and shape != x.shape:
        x = x.transpose(0, 3, 1, 2)
    elif len(x.shape) == 3:
        x = x[:, None]
    if x.dtype == np.uint8:
        return np.ascontiguousarray(x)
    if np.issubdtype(x.dtype, np.integer):
        return np.ascontiguousarray(x, dtype=np.int64)
    check_type(x.dtype)
    if not np.isfinite(x).all():
        raise ValueError("inputs that are not finite")
    return np.ascontiguousarray(x, dtype=np.float32)


def check_type(dtype: np.dtype[Any]) -> None:
    """ValueError unless inputs may have this type."""
    if not np.issubdtype(dtype, np.floating) and not np.issubdtype(dtype, np.integer):
        raise ValueError(f"inputs of type {dtype}; expected uint8, float or integers")


def arranged_shape(shape: tuple[int, ...], layout: str = "auto") -> tuple[int, ...]:
    """The shape that `arrange` gives.

    >>> arranged_shape((5, 28, 28))
    (5, 1, 28, 28)
    """
    if len(shape) == 3:
        return (shape[0], 1, *shape[1:])
    if len(shape) == 4:
        last = layout == "hwc" or (layout == "auto" and shape[3] in (1, 3, 4) and shape[1] not in (1, 3, 4))
        return (shape[0], shape[3], shape[1], shape[2]) if last else shape
    if len(shape) != 2:
        raise ValueError(f"inputs of shape {list(shape)}; expected [N, C, H, W], [N, H, W, C], [N, H, W] or [N, F]")
    return shape


def whole(labels: Array, n: int) -> Array:
    """Labels as int64 [N].

    Raises
    ------
    ValueError
        If they are not `n` whole numbers.
    """
    if labels.shape != (n,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"labels {labels.dtype} {list(labels.shape)} for {n} samples; expected integers [{n}]")
    return labels.astype(np.int64)


class _File:
    """Named arrays in a `.npz`, or the one array of a `.npy`; headers are read without the content."""

    def __init__(self, path: Path, where: Where) -> None:
        self.path, self.where = path, where

    def guarded(self, work: Callable[[], Any]) -> Any:
        """The result of `work`; KD0726 where the file cannot be read."""
        try:
            return work()
        except (OSError, EOFError, ValueError, KeyError, zipfile.BadZipFile) as e:
            raise self.damaged(str(e) or type(e).__name__) from e

    def damaged(self, why: str) -> Exception:
        """KD0726 for this file."""
        return error("KD0726", self.where.span, path=str(self.path), format=f"usable {self.path.suffix} file", why=why)

    def names(self) -> list[str]:
        """The names of its arrays; `x` for the one of a `.npy`."""
        if self.path.suffix == ".npy":
            return ["x"]
        with self.guarded(lambda: zipfile.ZipFile(self.path)) as z:
            return [n.removesuffix(".npy") for n in z.namelist()]

    def shape(self, name: str) -> tuple[int, ...]:
        """The shape of an array, from its header; KD0715 where the file has another size."""
        return self._head(name)[0]

    def is_whole(self, name: str) -> bool:
        """Whether inputs are whole numbers that are no bytes of images; KD0726 where they are no numbers."""
        dtype = self._head(name)[1]
        self.guarded(lambda: check_type(dtype))
        return bool(np.issubdtype(dtype, np.integer)) and dtype != np.uint8

    def _head(self, name: str) -> tuple[tuple[int, ...], Any]:
        def header() -> tuple[tuple[int, ...], Any]:
            if self.path.suffix == ".npy":
                with self.path.open("rb") as file:
                    return self._header(file, self.path.stat().st_size)
            with zipfile.ZipFile(self.path) as z, z.open(f"{name}.npy") as file:
                return self._header(file, None)

        head: tuple[tuple[int, ...], Any] = self.guarded(header)
        return head

    def _header(self, file: Any, size: int | None) -> tuple[tuple[int, ...], Any]:
        version = np.lib.format.read_magic(file)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(file)
        check_type(dtype)
        expected = file.tell() + math.prod(shape) * dtype.itemsize
        if size is not None and size != expected:
            raise error("KD0715", self.where.span, path=str(self.path), found=f"{size:,}", expected=f"{expected:,}")
        return tuple(shape), dtype

    def array(self, name: str) -> Array:
        """An array's content."""

        def read() -> Array:
            content = np.load(self.path, allow_pickle=False)
            return content if isinstance(content, np.ndarray) else np.asarray(content[name])

        got: Array = self.guarded(read)
        return got


def open_arrays(args: Arguments, where: Where) -> Opened:
    """One file, with `train_x` and `train_y` (and `val_…`, `test_…`), or `x` and `y`."""
    layout = args["layout"]
    if layout not in ("auto", "chw", "hwc"):
        expected = '"auto", "chw" or "hwc"'
        raise error("KD0721", where.span, owner="arrays", arg="layout", expected=expected, found=repr(layout))
    path = Path(args["path"]).expanduser()
    path = path if path.is_absolute() else where.base("arrays") / path
    where.file("arrays", path)
    if path.suffix not in (".npz", ".npy"):
        raise error(
            "KD0721", where.span, owner="arrays", arg="path", expected="a .npz or .npy file", found=repr(args["path"])
        )
    file = _File(path, where)
    names = file.names()
    parts: dict[str, Part] = {}
    shapes: set[tuple[int, ...]] = set()
    whole_numbers = []
    top = 0
    for split in (*SPLIT_NAMES, ""):
        prefix = f"{split}_" if split else ""
        x = next((prefix + n for n in _INPUTS if prefix + n in names), None)
        y = next((prefix + n for n in _LABELS if prefix + n in names), None)
        if x is None or (not split and parts):
            continue
        part, shape, largest = _part(file, x, y, layout)
        parts[split or "train"] = part
        shapes.add(shape)
        whole_numbers.append(file.is_whole(x))
        top = max(top, largest + 1)
    if not parts:
        raise file.damaged(f"it has neither `train_x` nor `x`, but {', '.join(names) or 'nothing'}")
    if len(shapes) > 1:
        raise file.damaged(f"its splits have different shapes, {sorted(map(list, shapes))}")
    classes = tuple(str(c) for c in file.array("classes")) if "classes" in names else tuple(map(str, range(top)))
    for split, part in parts.items():
        if part.labels is not None:
            check_labels("arrays", split, part.labels(), len(classes), where.span)
    return Opened(
        parts,
        lambda: fingerprint(where, [path], f"/{layout}"),
        classes=classes,
        shape=shapes.pop(),
        whole=all(whole_numbers),
    )


def _part(file: _File, x: str, y: str | None, layout: str) -> tuple[Part, tuple[int, ...], int]:
    """One split, a sample's shape, and the largest label (-1 without labels)."""
    shape: tuple[int, ...] = file.guarded(lambda: arranged_shape(file.shape(x), layout))

    def inputs() -> Array:
        array: Array = file.guarded(lambda: arrange(file.array(x), layout))
        return array

    if y is None:
        return Part(shape[0], inputs), shape[1:], -1
    labels: Array = file.guarded(lambda: whole(file.array(y), shape[0]))
    return Part(shape[0], inputs, lambda: labels), shape[1:], int(labels.max(initial=-1))


ARRAYS = SourceSpec(
    "arrays",
    (
        Param("path", "string", REQUIRED, "File under the data folder, or absolute."),
        Param("layout", "string", "auto", "Where channels stand: `chw`, `hwc`, or `auto`."),
    ),
    "Arrays from a file: `train_x`, `train_y`, `test_x`, `test_y` (also `val_…`, `…_inputs`, `…_labels`), "
    "or `x` and `y`; `classes` may give the names. A `.npy` file holds inputs without labels. "
    "Bytes are images on the scale from 0 to 255.",
    open=open_arrays,
    layout="<path>.npz or <path>.npy",
)
