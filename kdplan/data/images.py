"""Image files: their pixels, their size, and which of them are broken. No torch here."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from kdplan.data.sources.base import Array
from kdplan.diagnostics.report import PlanError, error

Box = tuple[int, int, int, int]
"""Left, top, right, bottom."""

_DEEP = ("I", "I;16", "I;16L", "I;16B", "I;16N")
"""Pillow's names for grey images of more than 8 bits; its own conversion cuts these off at 255."""


def pixels(path: str | Path, box: Box | None = None) -> Array:
    """An image file, or what lies in a box of it, as colours uint8 [H, W, 3].

    Pixels are taken as they are stored: an orientation in EXIF is not applied, and transparency is dropped. Grey
    images, palettes and CMYK become RGB, and 16 bits become the upper 8. Of several frames the first counts. A box that
    reaches beyond the image is cut off at its edge.

    Raises
    ------
    PlanError
        KD0731 if it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as file:
            image: Image.Image = file
            if box is not None:
                left, top = max(box[0], 0), max(box[1], 0)
                right, bottom = min(box[2], image.width), min(box[3], image.height)
                if left >= right or top >= bottom:
                    raise ValueError(f"the box {box} lies outside of its {image.width} x {image.height} pixels")
                image = image.crop((left, top, right, bottom))
            if image.mode in (*_DEEP, "F"):
                return _deep(image)
            # An image of colours would be copied by `convert`.
            return np.asarray(image if image.mode == "RGB" else image.convert("RGB"))
    except Exception as e:  # a decoder raises anything on what somebody else has written
        raise _unreadable(path, e) from e


def _deep(image: object) -> Array:
    """A grey image of 16 bits a pixel, by its upper 8."""
    grey: Array = np.asarray(image)
    if grey.dtype.kind == "f" or grey.min() < 0 or grey.max() > 0xFFFF:
        raise ValueError(f"its pixels are {grey.dtype} from {grey.min():g} to {grey.max():g}; expected 8 or 16 bits")
    return np.repeat((grey >> 8).astype(np.uint8)[..., None], 3, axis=2)


def size(path: str | Path) -> tuple[int, int]:
    """Height and width of an image file, from its header.

    Raises
    ------
    PlanError
        KD0731 if it cannot be read.
    """
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except Exception as e:
        raise _unreadable(path, e) from e


def _unreadable(path: str | Path, problem: Exception) -> PlanError:
    lines = str(problem).splitlines()
    return error("KD0731", None, path=str(path), why=lines[0] if lines else type(problem).__name__)


def common_size(paths: Iterable[str]) -> tuple[int, int] | None:
    """Height and width that all of these files have; None at the first that differs."""
    first: tuple[int, int] | None = None
    for path in paths:
        one = size(path)
        if first is not None and one != first:
            return None
        first = one
    return first


def broken(paths: Sequence[str]) -> dict[str, str]:
    """Path → why, of every file that cannot be decoded; all are opened."""

    def problem(path: str) -> str:
        try:
            pixels(path)
        except PlanError as e:
            return e.diagnostics[0].message
        return ""

    with ThreadPoolExecutor(min(8, os.cpu_count() or 1)) as pool:
        return {path: why for path, why in zip(paths, pool.map(problem, paths), strict=True) if why}
