"""Fine-grained sets of images as their authors publish them: birds, dogs, aircraft, cars."""

from __future__ import annotations

import zlib
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from kdplan.data.files import HashCache, Where
from kdplan.data.names import IMAGENET_MEAN, IMAGENET_STD
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Opened, Part, SourceSpec
from kdplan.diagnostics.report import error
from kdplan.diagnostics.text import read_text
from kdplan.ir.spec import Param

Listed = Sequence[tuple[str, int]]
"""Images of a split, each with its class: paths below the folder."""


def _opened(name: str, folder: Path, classes: Sequence[str], splits: Mapping[str, Listed], where: Where) -> Opened:
    """A set whose images are read from disk as they are needed; its content is hashed with its lists."""
    parts = {}
    for split, images in splits.items():
        missing = next((path for path, _ in images if not (folder / path).is_file()), None)
        if missing is not None:
            raise error("KD0713", where.span, name=name, looked=str(folder / missing))
        if not images:
            raise error("KD0714", where.span, path=str(folder), what=f"images of `{split}`")
        labels = np.array([label for _, label in images], np.int64)
        parts[split] = Part(
            len(images),
            labels=lambda y=labels: y,  # type: ignore[misc]
            files=[str(folder / path) for path, _ in images],
        )

    def hashed() -> str:
        cache = HashCache(where.cache)
        lists = ";".join(f"{split}:{images}" for split, images in splits.items())
        paths = [path for images in splits.values() for path, _ in images]
        digest = cache.of_tree(folder, paths, f"{where.label} {classes} {lists}", where.span)
        cache.save()
        return digest

    return Opened(parts, hashed, classes=tuple(classes), mean=IMAGENET_MEAN, std=IMAGENET_STD)


def _rows(name: str, path: Path, where: Where) -> list[list[str]]:
    """The lines of a list, each as a word and the rest."""
    where.file(name, path)
    return [line.split(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]


def _matlab(name: str, path: Path, key: str, where: Where) -> Any:
    from scipy.io import loadmat  # type: ignore[import-untyped, unused-ignore]
    from scipy.io.matlab import MatReadError  # type: ignore[import-untyped, unused-ignore]

    where.file(name, path)
    try:
        return loadmat(str(path), squeeze_me=True)[key]
    except (MatReadError, OSError, EOFError, ValueError, TypeError, KeyError, NotImplementedError, zlib.error) as e:
        why = str(e) or type(e).__name__
        raise error("KD0726", where.span, path=str(path), format=f"MATLAB file with `{key}`", why=why) from e


def _broken(path: Path, where: Where, read: Callable[[], Opened]) -> Opened:
    """KD0726 for lists that are not of the form that they should have."""
    try:
        return read()
    except (ValueError, IndexError, KeyError) as e:
        raise error(
            "KD0726", where.span, path=str(path), format="lists of images", why=str(e) or "it is truncated"
        ) from e


def open_cub(args: Arguments, where: Where) -> Opened:
    """11,788 photographs of 200 birds, about half of them for training."""
    folder = where.folder("cub200", args["path"])

    def read() -> Opened:
        lists = [_rows("cub200", folder / f"{word}.txt", where)
                 for word in ("images", "image_class_labels", "train_test_split", "classes")]  # fmt: skip
        images, labels, train, classes = ({row[0]: row[1] for row in rows} for rows in lists)
        splits = {
            split: [(f"images/{path}", int(labels[i]) - 1) for i, path in images.items() if train[i] == mark]
            for split, mark in (("train", "1"), ("test", "0"))
        }
        return _opened("cub200", folder, list(classes.values()), splits, where)

    return _broken(folder / "images.txt", where, read)


def open_dogs(args: Arguments, where: Where) -> Opened:
    """12,000 and 8,580 photographs of 120 kinds of dogs."""
    folder = where.folder("stanford_dogs", args["path"])

    def read() -> Opened:
        names: dict[int, str] = {}
        splits = {}
        for split in ("train", "test"):
            path = folder / "lists" / f"{split}_list.mat"
            files = np.atleast_1d(_matlab("stanford_dogs", path, "file_list", where))
            labels = np.atleast_1d(_matlab("stanford_dogs", path, "labels", where))
            splits[split] = [(f"Images/{f}", int(y) - 1) for f, y in zip(files, labels, strict=True)]
            names |= {int(y) - 1: str(f).partition("/")[0] for f, y in zip(files, labels, strict=True)}
        return _opened("stanford_dogs", folder, [names[i] for i in range(len(names))], splits, where)

    return _broken(folder / "lists", where, read)


def open_aircraft(args: Arguments, where: Where) -> Opened:
    """6,667 photographs for training (its `trainval`) and 3,333 for testing, of 100 variants of aircraft."""
    folder = where.folder("fgvc_aircraft", args["path"]) / "data"

    def read() -> Opened:
        path = where.file("fgvc_aircraft", folder / "variants.txt")
        classes = [line.strip() for line in read_text(path).splitlines() if line.strip()]
        splits = {
            split: [(f"images/{image}.jpg", classes.index(variant.strip()))
                    for image, variant in _rows("fgvc_aircraft", folder / f"images_variant_{word}.txt", where)]
            for split, word in (("train", "trainval"), ("test", "test"))
        }  # fmt: skip
        return _opened("fgvc_aircraft", folder, classes, splits, where)

    return _broken(folder / "variants.txt", where, read)


def open_cars(args: Arguments, where: Where) -> Opened:
    """8,144 and 8,041 photographs of 196 cars."""
    folder = where.folder("stanford_cars", args["path"])
    lists = {"train": folder / "devkit" / "cars_train_annos.mat", "test": folder / "cars_test_annos_withlabels.mat"}

    def read() -> Opened:
        names = _matlab("stanford_cars", folder / "devkit" / "cars_meta.mat", "class_names", where)
        splits = {}
        for split, path in lists.items():
            rows = np.atleast_1d(_matlab("stanford_cars", path, "annotations", where))
            splits[split] = [(f"cars_{split}/{row['fname']}", int(row["class"]) - 1) for row in rows]
        return _opened("stanford_cars", folder, [str(n) for n in np.atleast_1d(names)], splits, where)

    return _broken(folder / "devkit", where, read)


def _spec(name: str, doc: str, read: Callable[[Arguments, Where], Opened], path: str, layout: str) -> SourceSpec:
    folder = Param("path", "string", path, "Folder under the data folder, or absolute.")
    return SourceSpec(name, (folder,), doc, open=read, layout=f"{path}/{layout}")


FINE_GRAINED = (
    _spec("cub200", "CUB-200-2011: 11,788 photographs of 200 kinds of birds.", open_cub, "CUB_200_2011",
          "{images,image_class_labels,train_test_split,classes}.txt and images/"),
    _spec("stanford_dogs", "Stanford Dogs: 20,580 photographs of 120 kinds of dogs.", open_dogs, "stanford_dogs",
          "lists/{train,test}_list.mat and Images/"),
    _spec("fgvc_aircraft",
          "FGVC-Aircraft: 10,000 photographs of 100 variants of aircraft, as torchvision lays them out.",
          open_aircraft, "fgvc-aircraft-2013b",
          "data/{variants,images_variant_trainval,images_variant_test}.txt and data/images/"),
    _spec("stanford_cars", "Stanford Cars: 16,185 photographs of 196 cars, as torchvision lays them out.", open_cars,
          "stanford_cars", "devkit/, cars_test_annos_withlabels.mat, cars_train/, cars_test/"),
)  # fmt: skip
