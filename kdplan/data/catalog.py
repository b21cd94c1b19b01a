"""What data sets exist and what is known of each before anything trains; no torch here."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from kdplan.data.files import HashCache, Where
from kdplan.data.images import broken, common_size
from kdplan.data.params import Arguments, bind
from kdplan.data.sources.arrays import ARRAYS
from kdplan.data.sources.base import Opened, SourceSpec, check_labels
from kdplan.data.sources.cifar import CIFAR
from kdplan.data.sources.coco import COCO
from kdplan.data.sources.digits import DIGITS
from kdplan.data.sources.fine_grained import FINE_GRAINED
from kdplan.data.sources.folder import FOLDERS
from kdplan.data.sources.idx import IDX
from kdplan.data.sources.open_images import OPEN_IMAGES
from kdplan.data.sources.svhn import SVHN
from kdplan.data.sources.templates import TEMPLATES
from kdplan.data.sources.user import USER
from kdplan.data.transforms import fixes_size
from kdplan.data.view import Transform
from kdplan.diagnostics.report import Note, counted, error, nearest
from kdplan.diagnostics.span import Span

Task = Literal["classification", "unlabelled", "detection", "templates"]

SOURCES: dict[str, SourceSpec] = {
    s.name: s for s in (DIGITS, *CIFAR, *IDX, SVHN, *FOLDERS, *FINE_GRAINED, OPEN_IMAGES, COCO, TEMPLATES, ARRAYS, USER)
}
"""Every data set and reader by its name in plans."""


@dataclass(frozen=True, slots=True)
class DataInfo:
    """What is known of a data set.

    Parameters
    ----------
    name : str
    classes : tuple of str
        In label order; empty for a set that is not for classification.
    superclasses : dict, optional
        Name -> member classes.
    splits : dict
        Name -> number of samples.
    shape : tuple, optional
        One sample, [C, H, W] for images; None where samples differ in size.
    task : {"classification", "unlabelled", "detection", "templates"}
    fingerprint : str
        Hash of the content and of the reader's version: equal if and only if the same numbers come out.
    objects : int
        The most boxes that one image has; 0 where there are none.
    mean, std : tuple, optional
        Default normalisation per channel, on the scale from 0 to 1.
    whole : bool
        Whether inputs are whole numbers that are no images.
    """

    name: str
    classes: tuple[str, ...]
    superclasses: dict[str, tuple[str, ...]] | None
    splits: dict[str, int]
    shape: tuple[int, ...] | None
    task: Task
    fingerprint: str
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    objects: int = 0
    opened: Opened | None = field(default=None, repr=False, compare=False)
    """The data set itself."""
    whole: bool = False


def open_source(
    source: str, args: Arguments, root: Path | None, *, cache: Path | None = None, span: Span | None = None
) -> Opened:
    """The data set `source`, found and checked for completeness; `file.py:function` is `source("file.py:function")`.

    Raises
    ------
    PlanError
        KD0710 for an unknown name; KD0711 to KD0726 and KD0750 to KD0753 for files that are missing, cut or damaged.
    """
    if ":" in source:
        source, args = USER.name, {"function": source, **args}
    if source not in SOURCES:
        raise error("KD0710", span, name=source, nearest=nearest(source, SOURCES), known=", ".join(SOURCES))
    spec = SOURCES[source]
    bound = bind(source, spec.params, (), args, span, extra=spec.more)
    return spec.open(bound, Where(root, cache, span, spec.label))


def describe(
    source: str, args: Arguments, root: Path | None, *, cache: Path | None = None, span: Span | None = None
) -> DataInfo:
    """What is known of a data set, without reading more of it than needed.

    Parameters
    ----------
    source : str
        A name of `SOURCES`.
    args : mapping
        The source's arguments by name; see `bind` for positional ones.
    root : Path or None
        The data folder.
    cache : Path, optional
        Folder in which hashes of files are remembered; `~/.cache/kdplan` by default.
    span : Span, optional
        What errors underline.

    Examples
    --------
    >>> info = describe("digits", {}, None)
    >>> info.splits, info.shape, len(info.classes)
    ({'train': 1437, 'test': 360}, (1, 8, 8), 10)
    """
    opened = open_source(source, args, root, cache=cache, span=span)
    labelled = any(p.labels is not None for p in opened.parts.values())
    return DataInfo(
        name=source,
        classes=opened.classes,
        superclasses=opened.superclasses,
        splits={name: part.size for name, part in opened.parts.items()},
        shape=opened.shape,
        task=_task(opened, labelled),
        fingerprint=opened.fingerprint(),
        mean=opened.mean,
        std=opened.std,
        objects=opened.objects,
        opened=opened,
        whole=opened.whole,
    )


def sample_shape(opened: Opened, augment: Sequence[Transform], cache: Path | None = None) -> tuple[int, ...] | None:
    """One sample's shape before augmentation; None where samples differ.

    Sizes of image files are looked at where no transform makes them equal, until two differ.
    """
    files = [part.files for part in opened.parts.values() if part.files is not None and part.boxes is None]
    if opened.shape is not None or opened.canvas is not None or len(files) < len(opened.parts) or fixes_size(augment):
        return opened.shape

    def sizes() -> str:
        size = common_size(path for some in files for path in some)
        return "" if size is None else f"{size[0]} {size[1]}"

    remembered = HashCache(cache)
    stored = remembered.of_content("size", opened.fingerprint(), sizes)
    remembered.save()
    return (3, *map(int, stored.split())) if stored else None


def verify(name: str, opened: Opened, cache: Path | None = None, span: Span | None = None) -> None:
    """Read all of a data set once; what was whole is remembered until a file changes.

    Raises
    ------
    PlanError
        KD0736 with every image file that cannot be decoded, KD0717 for labels that are no classes, KD0726 for arrays
        that cannot be read.
    """

    def read() -> str:
        files = list(dict.fromkeys(f for part in opened.parts.values() for f in part.files or ()))
        problems = broken(files)
        if problems:
            total, notes = counted(len(files), "file"), [Note(why) for why in problems.values()]
            raise error("KD0736", span, name=name, count=len(problems), total=total, notes=notes)
        for split, part in opened.parts.items():
            if part.inputs is not None:
                part.inputs()
            if part.labels is not None:
                check_labels(name, split, part.labels(), len(opened.classes), span)
        return "whole"

    remembered = HashCache(cache)
    remembered.of_content("verified", opened.fingerprint(), read)
    remembered.save()


def _task(opened: Opened, labelled: bool) -> Task:
    if opened.canvas is not None:
        return "detection"
    return "templates" if opened.protocol is not None else "classification" if labelled else "unlabelled"
