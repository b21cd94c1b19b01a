"""Images with boxes around what they show, in the format of COCO."""

from __future__ import annotations

import contextlib
import json
import os
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np

from kdplan.data.files import HashCache, Where
from kdplan.data.names import IMAGENET_MEAN, IMAGENET_STD
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Array, Canvas, Objects, Opened, Part, SourceSpec
from kdplan.diagnostics.report import error
from kdplan.ir.spec import REQUIRED, Param

_ARRAYS = ("boxes", "classes", "crowd", "areas", "sizes", "files", "names")
_LOOKED_AT = 8
"""Images of a set whose sizes are compared with the annotations when it is opened; of others, when they are read."""

_WORTH_KEEPING = 1 << 20
"""Bytes from which on an annotation file is kept as arrays too."""


class BrokenAnnotations(ValueError):
    """What is wrong with an annotation file, for the end of a sentence."""


@dataclass(frozen=True)
class Annotations:
    """An annotation file: `objects` of the images `files`, with the names of the classes."""

    objects: Objects
    files: tuple[str, ...]
    names: tuple[str, ...]


def read_annotations(content: Any) -> Annotations:
    """The content of an annotation file.

    Classes are numbered from 0 in the order of their ids, boxes without extent are left out, and images stand in the
    order of their ids.

    Raises
    ------
    BrokenAnnotations
        If it is not COCO's format, or an annotation is of an image or a category that is not listed.

    Examples
    --------
    >>> one = {"id": 7, "file_name": "a.jpg", "height": 4, "width": 6}
    >>> box = {"image_id": 7, "category_id": 3, "bbox": [1, 1, 2, 3], "area": 6.0}
    >>> read = read_annotations({"images": [one], "categories": [{"id": 3, "name": "cat"}], "annotations": [box]})
    >>> read.objects.boxes.tolist(), read.names
    ([[[1.0, 1.0, 3.0, 4.0]]], ('cat',))
    """
    for part in ("images", "annotations", "categories"):
        if not isinstance(content, dict) or not isinstance(content.get(part), list):
            raise BrokenAnnotations(f"it has no list `{part}`")
    try:
        images = sorted(content["images"], key=lambda i: i["id"])
        categories = sorted(content["categories"], key=lambda c: c["id"])
        row_of = {image["id"]: n for n, image in enumerate(images)}
        number = {c["id"]: n for n, c in enumerate(categories)}
        files = tuple(str(i["file_name"]) for i in images)
        sizes = np.array([[i["height"], i["width"]] for i in images], np.int64).reshape(-1, 2)
        grouped: list[list[tuple[list[float], int, bool, float]]] = [[] for _ in images]
        for a in content["annotations"]:
            if a["image_id"] not in row_of:
                raise BrokenAnnotations(f"an annotation is of image {a['image_id']}, which is not among its images")
            if a["category_id"] not in number:
                raise BrokenAnnotations(f"an annotation is of category {a['category_id']}, which is not listed")
            x, y, w, h = (float(v) for v in a["bbox"])
            if w > 0 and h > 0:
                kept = (
                    [x, y, x + w, y + h],
                    number[a["category_id"]],
                    bool(a.get("iscrowd")),
                    float(a.get("area", w * h)),
                )
                grouped[row_of[a["image_id"]]].append(kept)
    except (KeyError, TypeError, ValueError) as problem:
        if isinstance(problem, BrokenAnnotations):
            raise
        why = f"an entry has no `{problem.args[0]}`" if isinstance(problem, KeyError) else str(problem)
        raise BrokenAnnotations(why) from problem
    if not images:
        raise BrokenAnnotations("it lists no image")
    most = max(1, max(map(len, grouped)))
    boxes = np.zeros((len(images), most, 4), np.float32)
    classes = np.full((len(images), most), -1, np.int64)
    crowd = np.zeros((len(images), most), bool)
    areas = np.zeros((len(images), most), np.float32)
    for n, group in enumerate(grouped):
        for m, (box, c, many, area) in enumerate(group):
            boxes[n, m], classes[n, m], crowd[n, m], areas[n, m] = box, c, many, area
    return Annotations(Objects(boxes, classes, crowd, areas, sizes), files, tuple(str(c["name"]) for c in categories))


def open_coco(args: Arguments, where: Where) -> Opened:
    """One annotation file, or those of COCO's `train` and `val`; checks that images and annotations belong together."""
    folder = where.folder("coco_detection", args["path"])
    canvas = _canvas(args, where)
    paths = {"train": (f"annotations/instances_train{args['year']}.json", f"train{args['year']}"),
              "test": (f"annotations/instances_val{args['year']}.json", f"val{args['year']}")}  # fmt: skip
    if args["annotations"] is not None:
        paths = {"train": (args["annotations"], args["images"])}
    parts: dict[str, Part] = {}
    names: tuple[str, ...] = ()
    read: list[str] = []
    most = 1
    for split, (listed, images) in paths.items():
        path = where.file("coco_detection", folder / listed)
        annotations = _parsed(path, where)
        if names and annotations.names != names:
            raise _broken(path, "its categories are not those of the training set", where)
        names, most = annotations.names, max(most, annotations.objects.boxes.shape[1])
        parts[split] = _part(annotations, path, folder / images, split, where)
        read += [os.path.relpath(p, folder) for p in (str(path), *(parts[split].files or ()))]

    def hashed() -> str:
        cache = HashCache(where.cache)
        settings = [args[n] for n in ("annotations", "year")] + [
            canvas.height,
            canvas.width,
            canvas.shorter,
            canvas.longer,
        ]
        digest = cache.of_tree(folder, sorted(set(read)), f"{where.label}:{settings}", where.span)
        cache.save()
        return digest

    return Opened(
        parts, hashed, classes=names, shape=(3, canvas.height, canvas.width), canvas=canvas, objects=most,
        mean=IMAGENET_MEAN, std=IMAGENET_STD,
    )  # fmt: skip


def _canvas(args: Arguments, where: Where) -> Canvas:
    if args["shorter"] > args["longer"]:
        expected, shorter = f"at most `longer`, {args['longer']}", args["shorter"]
        raise error("KD0721", where.span, owner="coco_detection", arg="shorter", expected=expected, found=shorter)
    side = -(-args["longer"] // 32) * 32
    height, width = args["height"] or side, args["width"] or side
    for name, value in (("height", height), ("width", width)):
        if value % 32:
            expected = "a multiple of 32, to which detectors scale down"
            raise error("KD0721", where.span, owner="coco_detection", arg=name, expected=expected, found=value)
    return Canvas(height, width, args["shorter"], args["longer"])


def _part(annotations: Annotations, path: Path, images: Path, split: str, where: Where) -> Part:
    rows = np.arange(len(annotations.files))
    if split == "train":  # an image without boxes has nothing to learn from
        rows = rows[((annotations.objects.classes >= 0) & ~annotations.objects.crowd).any(axis=1)]
    if not len(rows):
        raise _broken(path, "it has no boxes", where)
    try:
        there = set(os.listdir(images))
    except OSError:
        there = set()
    files = [annotations.files[r] for r in rows]
    missing = [f for f in files if f not in there and not (images / f).is_file()]
    if missing:
        count = f"{len(missing):,} of {len(files):,}"
        raise error("KD0771", where.span, path=str(path), images=str(images), first=missing[0], count=count)
    objects = annotations.objects.rows(rows)
    for n in np.unique(np.linspace(0, len(files) - 1, _LOOKED_AT).astype(int)):
        check_size(images / files[n], _size(images / files[n]), objects.sizes[n], where)
    return Part(len(files), files=[str(images / f) for f in files], objects=lambda: objects)


def check_size(path: Path | str, actual: Sequence[int] | None, listed: Array, where: Where | None = None) -> None:
    """KD0772 if an image has not the height and width that the annotations say."""
    if actual is not None and tuple(actual) != tuple(listed.tolist()):
        (h, w), (a, b) = actual, listed.tolist()
        raise error("KD0772", where.span if where else None, path=str(path), found=f"{w} x {h}", listed=f"{b} x {a}")


def _size(path: Path) -> tuple[int, int] | None:
    """Height and width; None for what cannot be read, which is reported when it is read."""
    from PIL import Image

    try:
        with Image.open(path) as image:
            return image.height, image.width
    except OSError:
        return None


def _broken(path: Path, why: str, where: Where) -> Exception:
    return error("KD0770", where.span, path=str(path), why=why)


# ---- reading once


def _parsed(path: Path, where: Where) -> Annotations:
    stat = path.stat()
    try:
        return _held(path, (stat.st_size, stat.st_mtime_ns, stat.st_ino), where.cache)
    except BrokenAnnotations as problem:
        raise _broken(path, str(problem), where) from problem


@lru_cache(maxsize=4)
def _held(path: Path, state: tuple[int, ...], folder: Path | None) -> Annotations:
    """COCO's own file takes half a minute to read: what was read is kept as arrays beside the hashes."""
    cache = HashCache(folder)
    digest = cache.of_file(path)
    cache.save()
    kept = cache.path.parent / f"coco-{digest[:32]}.npz"
    with contextlib.suppress(OSError, ValueError, KeyError), np.load(kept, allow_pickle=False) as stored:
        boxes, classes, crowd, areas, sizes, files, names = (stored[n] for n in _ARRAYS)
        return Annotations(Objects(boxes, classes, crowd, areas, sizes), tuple(files.tolist()), tuple(names.tolist()))
    try:
        content = json.loads(path.read_bytes())
    except ValueError as problem:  # of JSON and of text encodings too
        raise BrokenAnnotations(f"it is not JSON ({problem})") from problem
    annotations = read_annotations(content)
    if state[0] > _WORTH_KEEPING:
        _keep(kept, annotations)
    return annotations


def _keep(path: Path, annotations: Annotations) -> None:
    o = annotations.objects
    arrays = dict(
        zip(
            _ARRAYS,
            (o.boxes, o.classes, o.crowd, o.areas, o.sizes, *map(np.array, (annotations.files, annotations.names))),
            strict=True,
        )
    )
    with contextlib.suppress(OSError):  # without it the file is only read again next time
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, temporary = tempfile.mkstemp(dir=path.parent, prefix="coco-", suffix=".tmp")
        with os.fdopen(handle, "wb") as out:
            np.savez(out, **arrays)  # type: ignore[arg-type]
        os.replace(temporary, path)


COCO = SourceSpec(
    "coco_detection",
    (
        Param("path", "string", REQUIRED, "Folder under the data folder, or absolute."),
        Param("annotations", "string", None, "One annotation file for all images, which `split` may divide."),
        Param("images", "string", "images", "Folder of the images of `annotations`."),
        Param("year", "integer", 2017, "Of COCO's own files, where `annotations` is left out.", low=2014),
        Param("shorter", "integer", 800, "Pixels of an image's shorter side.", low=32),
        Param("longer", "integer", 1333, "Pixels of its longer side, at most.", low=32),
        Param(
            "height",
            "integer",
            None,
            "Of the canvas, a multiple of 32; otherwise `longer`, rounded up.",
            low=32,
        ),
        Param(
            "width",
            "integer",
            None,
            "Of the canvas, a multiple of 32; otherwise `longer`, rounded up.",
            low=32,
        ),
    ),
    "Images with boxes, in COCO's format: `targets` for networks that detect. Images are scaled as torchvision's "
    "detectors do and put on a canvas of one size, whose rest is zero after normalisation. Training leaves images "
    "without boxes out; crowds are never trained on.",
    open=open_coco,
    layout="<path>/annotations/instances_{train,val}<year>.json, <path>/{train,val}<year>/*.jpg",
)
