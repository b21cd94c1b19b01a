"""Open Images: photos with labels of the whole image, from its public lists."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdplan.data.files import HashCache, Where
from kdplan.data.names import IMAGENET_MEAN, IMAGENET_STD
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Opened, Part, SourceSpec
from kdplan.diagnostics.report import error
from kdplan.diagnostics.text import ENCODING, read_text
from kdplan.ir.spec import Param

_SPLITS = {"train": "train", "val": "validation", "test": "test"}
_TRAINABLE = ("classes-trainable.txt", "oidv6-classes-trainable.txt")
_COLUMNS = ("ImageID", "LabelName", "Confidence")


def _lists(split: str, kind: str) -> list[str]:
    """Names that the list of a split's labels has had: since version 4, in versions 2 and 3, in version 1."""
    name = f"{split}-annotations-{kind}-imagelabels.csv"
    names = [f"{prefix}{name}" for prefix in ("oidv6-", "")]
    return [*names, *(f"{split}/{n}" for n in names), f"{split}/annotations-{kind}.csv", f"{split}/labels.csv"]


@dataclass(slots=True)
class _Reader:
    """Reads the lists of all splits."""

    folder: Path
    confidence: float
    where: Where
    read: list[str] = field(default_factory=list)
    """The lists, relative to the folder."""

    def positives(self, split: str, kind: str) -> list[tuple[str, str]] | None:
        """(image, label) of a split, in the order of its list; None where it has none."""
        name = next((n for n in _lists(split, kind) if (self.folder / n).is_file()), None)
        if name is None:
            return None
        self.read.append(name)
        return list(self._rows(self.folder / name, kind if name.endswith("/labels.csv") else None))

    def _rows(self, path: Path, kind: str | None) -> Iterator[tuple[str, str]]:
        with path.open(encoding=ENCODING, newline="") as file:
            rows = csv.reader(file)
            head = [c.strip() for c in next(rows, [])]
            lacks = [c for c in _COLUMNS if c not in head]
            if lacks:
                raise self.bad(path, 1, f"it has no column `{lacks[0]}`")
            image, label, sure = (head.index(c) for c in _COLUMNS)
            source = head.index("Source") if kind is not None and "Source" in head else None
            for row in rows:
                try:
                    if float(row[sure]) >= self.confidence and (source is None or row[source].strip() == kind):
                        yield row[image], row[label]
                except (IndexError, ValueError):
                    raise self.bad(path, rows.line_num, "an image, a label and a confidence are expected") from None

    def trainable(self) -> list[str] | None:
        """The classes that Open Images recommends to train on; None where their list is not there."""
        name = next((n for n in _TRAINABLE if (self.folder / n).is_file()), None)
        if name is None:
            return None
        self.read.append(name)
        return [line.strip() for line in read_text(self.folder / name).splitlines() if line.strip()]

    def bad(self, path: Path, line: int, why: str) -> Exception:
        """KD0734 for a line of a list."""
        return error("KD0734", self.where.span, path=str(path), line=line, why=why)


def _part(pairs: Sequence[tuple[str, str]], numbers: dict[str, int], folder: Path, missing: str, where: Where) -> Part:
    """A sample for each label of each image."""
    there = {e.name for e in os.scandir(folder)} if folder.is_dir() else set()
    kept = [(f"{image}.jpg", numbers[label]) for image, label in pairs if label in numbers]
    lost = dict.fromkeys(name for name, _ in kept if name not in there)
    if lost and missing == "error":
        raise error("KD0735", where.span, path=str(folder), first=next(iter(lost)), count=len(lost))
    kept = [(name, label) for name, label in kept if name not in lost]
    if not kept:
        raise error("KD0714", where.span, path=str(folder), what="images with labels")
    labels = np.array([label for _, label in kept], np.int64)
    return Part(len(kept), labels=lambda: labels, files=[str(folder / name) for name, _ in kept])


def open_images(args: Arguments, where: Where) -> Opened:
    """`train`, and `val` and `test` where their lists are there; those are always labelled by humans."""
    for name, known in (("labels", ("human", "machine")), ("missing", ("error", "leave_out"))):
        if args[name] not in known:
            expected = " or ".join(f'"{k}"' for k in known)
            raise error("KD0721", where.span, owner="open_images", arg=name, expected=expected, found=args[name])
    folder = where.folder("open_images", args["path"])
    reader = _Reader(folder, args["confidence"], where)
    positives = {}
    for split, public in _SPLITS.items():
        pairs = reader.positives(public, args["labels"] if split == "train" else "human")
        if pairs is not None:
            positives[split] = pairs
    if "train" not in positives:
        raise error("KD0713", where.span, name="open_images", looked=str(folder / _lists("train", args["labels"])[1]))
    classes = reader.trainable() or sorted({label for _, label in positives["train"]})
    numbers = {c: i for i, c in enumerate(classes)}
    parts = {s: _part(p, numbers, folder / _SPLITS[s], args["missing"], where) for s, p in positives.items()}

    def hashed() -> str:
        cache = HashCache(where.cache)
        files = dict.fromkeys(os.path.relpath(f, folder) for part in parts.values() for f in part.files or ())
        settings = [args[n] for n in ("labels", "confidence", "missing")]
        digest = cache.of_tree(folder, [*reader.read, *files], f"{where.label}:{settings}", where.span)
        cache.save()
        return digest

    return Opened(parts, hashed, classes=tuple(classes), mean=IMAGENET_MEAN, std=IMAGENET_STD)


OPEN_IMAGES = SourceSpec(
    "open_images",
    (
        Param("path", "string", "open_images", "Folder under the data folder, or absolute."),
        Param("labels", "string", "human", 'Whose labels of training images: "human" or "machine".'),
        Param("confidence", "number", 0.5, "From which confidence on a label counts.", low=0, high=1),
        Param("missing", "string", "error", '"leave_out": images that are not there (any more) do not count.'),
    ),
    "Open Images, with labels of whole images, in the layouts of all its versions: an image stands once for each of "
    "its labels. Classes are named as in the lists (`/m/01g317`): those in `classes-trainable.txt`, else all that "
    "training images have.",
    open=open_images,
    layout="<path>/{train,validation,test}/<ImageID>.jpg, <path>/{train,validation,test}-annotations-{human,machine}-"
    "imagelabels.csv (or {train,validation,test}/annotations-{human,machine}.csv, or …/labels.csv)",
)
