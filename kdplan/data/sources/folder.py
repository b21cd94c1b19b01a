"""Folders of images, one folder a class."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from kdplan.data.files import IMAGE_ENDINGS, HashCache, Where
from kdplan.data.names import IMAGENET_MEAN, IMAGENET_STD
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Opened, Part, SourceSpec
from kdplan.data.view import SPLIT_NAMES
from kdplan.diagnostics.report import error
from kdplan.ir.spec import REQUIRED, Param


def _folders(path: Path) -> dict[str, list[str]]:
    """Class → its folder, sorted as text. Names are equal if they look so, however an accent is stored (NFC)."""
    folders: dict[str, list[str]] = {}
    with os.scandir(path) as entries:
        for name in sorted(e.name for e in entries if e.is_dir() and not e.name.startswith(".")):
            folders.setdefault(unicodedata.normalize("NFC", name), []).append(name)
    return dict(sorted(folders.items()))


def _images(folder: Path, where: Where) -> list[str]:
    """Paths under `folder`, sorted; folders in folders count too, and links are followed, each folder once."""
    paths, seen = [], {os.path.realpath(folder)}
    for at, inner, files in os.walk(folder, followlinks=True):
        inner[:] = [d for d in sorted(inner) if not d.startswith(".") and _is_new(os.path.join(at, d), seen)]
        paths += [os.path.join(at, f) for f in files if f.lower().endswith(IMAGE_ENDINGS) and not f.startswith(".")]
    if not paths:
        raise error("KD0714", where.span, path=str(folder), what="images")
    return sorted(paths)


def _is_new(folder: str, seen: set[str]) -> bool:
    real = os.path.realpath(folder)
    new = real not in seen
    seen.add(real)
    return new


def _part(folder: Path, classes: Sequence[str], where: Where) -> Part:
    files: list[str] = []
    labels: list[int] = []
    numbers = {c: i for i, c in enumerate(classes)}
    for name, written in _folders(folder).items():
        if name not in numbers:
            raise error("KD0733", where.span, path=str(folder / name), first=str(folder.parent / "train"))
        images = [image for one in written for image in _images(folder / one, where)]
        files += images
        labels += [numbers[name]] * len(images)
    if not files:
        raise error("KD0714", where.span, path=str(folder), what="class folders")
    numbered = np.array(labels, np.int64)
    return Part(len(files), labels=lambda: numbered, files=files)


def _open(folder: Path, splits: Sequence[str], where: Where) -> Opened:
    folders = {s: folder / s for s in splits if (folder / s).is_dir()} or {"train": folder}
    classes = list(_folders(next(iter(folders.values()))))
    if not classes:
        raise error("KD0714", where.span, path=str(next(iter(folders.values()))), what="class folders")
    parts = {s: _part(path, classes, where) for s, path in folders.items()}

    def hashed() -> str:
        cache = HashCache(where.cache)
        names = [os.path.relpath(f, folder) for part in parts.values() for f in part.files or ()]
        digest = cache.of_tree(folder, names, f"{where.label}:{','.join(parts)}", where.span)
        cache.save()
        return digest

    return Opened(parts, hashed, classes=tuple(classes), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def open_image_folder(args: Arguments, where: Where) -> Opened:
    """`train`, `val` and `test`, whichever are there, or class folders right under `path`."""
    return _open(where.folder("image_folder", args["path"]), SPLIT_NAMES, where)


def open_imagenet(args: Arguments, where: Where) -> Opened:
    """`train` and `val`, each with one folder a class."""
    folder = where.folder("imagenet", args["path"])
    for split in ("train", "val"):
        if not (folder / split).is_dir():
            raise error("KD0713", where.span, name="imagenet", looked=str(folder / split))
    return _open(folder, ("train", "val"), where)


FOLDERS = (
    SourceSpec(
        "imagenet",
        (Param("path", "string", "imagenet", "Folder under the data folder, or absolute."),),
        "ImageNet: colour images of differing sizes; classes are named by their folders (`n01440764`), sorted.",
        open=open_imagenet,
        layout="imagenet/{train,val}/<class>/*.JPEG",
    ),
    SourceSpec(
        "image_folder",
        (Param("path", "string", REQUIRED, "Folder under the data folder, or absolute."),),
        "Images in folders, one folder a class; they are streamed from disk. Classes are the names of the folders, "
        "sorted as text: `10` comes before `2`. Hidden files and those without an image's ending are left out. Pixels "
        "are read as they are stored, without the rotation of EXIF and without transparency; grey images, palettes and "
        "CMYK become RGB, and 16 bits the upper 8. Images of one size need no `resize`.",
        version=2,
        open=open_image_folder,
        layout="<path>/{train,val,test}/<class>/*.jpg or <path>/<class>/*.jpg",
    ),
)
