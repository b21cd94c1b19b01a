"""Images with a protocol of templates beside them, in the layout that IJB-A was published in."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from kdplan.data.files import HashCache, Where
from kdplan.data.names import IMAGENET_MEAN, IMAGENET_STD
from kdplan.data.params import Arguments
from kdplan.data.sources.base import Opened, Part, SourceSpec
from kdplan.diagnostics.report import error
from kdplan.diagnostics.text import ENCODING
from kdplan.ir.protocol import Fold, Protocol, Template, fold
from kdplan.ir.spec import REQUIRED, Param

_VERIFY, _SEARCH = ("", "IJB-A_11_sets"), ("", "IJB-A_1N_sets")
"""Folders that the split folders stand in: those of the two protocols, or the data set's own."""
_NEEDED = ("TEMPLATE_ID", "SUBJECT_ID", "FILE")
_BOX = ("FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT")
Box = tuple[int, int, int, int]
"""Left, top, right, bottom, in pixels."""


@dataclass(slots=True)
class _Reader:
    """Reads the lists of all splits; equal images with equal boxes are one sample."""

    folder: Path
    margin: float
    where: Where
    samples: dict[tuple[str, Box | None], int] = field(default_factory=dict)
    of_sample: list[int] = field(default_factory=list)
    subjects: dict[str, int] = field(default_factory=dict)
    media: dict[str, int] = field(default_factory=dict)
    lists: list[str] = field(default_factory=list)
    """The files that were read, relative to the folder."""

    def list_file(self, split: int, name: str, folders: tuple[str, ...]) -> Path:
        """The file of a split's list `name`, in the first of the folders that has it; KD0751 where none has."""
        tried = [self.folder / f / f"split{split}" / f"{name}_{split}.csv" for f in folders]
        for path in tried:
            if path.is_file():
                self.lists.append(os.path.relpath(path, self.folder))
                return path
        looked = " or ".join(os.path.relpath(p, self.folder) for p in tried)
        raise error("KD0751", self.where.span, path=str(self.folder), split=split, looked=looked)

    def bad(self, path: Path, line: int, why: str) -> Exception:
        """KD0752 for a line of a list."""
        return error("KD0752", self.where.span, path=str(path), line=line, why=why)

    def templates(self, path: Path) -> dict[str, Template]:
        """Template number -> its samples, in the order of the file."""
        rows_of: dict[str, tuple[str, list[int], list[int]]] = {}
        with path.open(encoding=ENCODING, newline="") as file:
            rows = csv.DictReader(file, skipinitialspace=True)
            missing = [c for c in _NEEDED if c not in (rows.fieldnames or ())]
            if missing:
                raise self.bad(path, 1, f"it has no column `{missing[0]}`")
            for row in rows:
                line = rows.line_num
                if any(not row[c] for c in _NEEDED):
                    raise self.bad(path, line, "a value is missing")
                subject = row["SUBJECT_ID"]
                known, at, media = rows_of.setdefault(row["TEMPLATE_ID"], (subject, [], []))
                if known != subject:
                    raise self.bad(path, line, f"template {row['TEMPLATE_ID']} is of subject {known}, not {subject}")
                at.append(self.sample(row, subject, path, line))
                medium = row.get("MEDIA_ID") or row["FILE"]
                media.append(self.media.setdefault(medium, len(self.media)))
        return {t: Template(self.subjects[s], at, media) for t, (s, at, media) in rows_of.items()}

    def sample(self, row: dict[str, str], subject: str, path: Path, line: int) -> int:
        """The number of an image's face."""
        given = [row.get(c) or "" for c in _BOX]
        box: Box | None = None
        if any(given):
            try:
                x, y, w, h = (float(v) for v in given)
            except ValueError:
                raise self.bad(path, line, f"{', '.join(_BOX)} are not four numbers") from None
            if w <= 0 or h <= 0:
                raise self.bad(path, line, "the face box is empty")
            dx, dy = self.margin * w, self.margin * h
            left, top, right, bottom = (int(np.rint(v)) for v in (x - dx, y - dy, x + w + dx, y + h + dy))
            box = (left, top, max(right, left + 1), max(bottom, top + 1))
        label = self.subjects.setdefault(subject, len(self.subjects))
        at = self.samples.setdefault((row["FILE"], box), len(self.samples))
        if at == len(self.of_sample):
            self.of_sample.append(label)
        elif self.of_sample[at] != label:
            raise self.bad(path, line, f"the same face in `{row['FILE']}` belongs to two subjects")
        return at

    def split(self, number: int, unmated: str) -> Fold:
        """One split of the protocol. Probes without a subject in the gallery are an error, or left out."""
        listed = self.list_file(number, "verify_metadata", _VERIFY)
        compared = self.list_file(number, "verify_comparisons", _VERIFY)
        gallery_path = self.list_file(number, "search_gallery", _SEARCH)
        probe_path = self.list_file(number, "search_probe", _SEARCH)
        verify = self.templates(listed)
        position = {t: i for i, t in enumerate(verify)}
        pairs = []
        for line, a, b in self.comparisons(compared):
            unknown = next((t for t in (a, b) if t not in position), None)
            if unknown is not None:
                raise self.bad(compared, line, f"`{listed.name}` has no template {unknown}")
            pairs.append((position[a], position[b]))
        gallery, probes = (list(self.templates(p).values()) for p in (gallery_path, probe_path))
        enrolled = {t.subject for t in gallery}
        mated = [t for t in probes if t.subject in enrolled]
        if not pairs or not mated or (len(mated) < len(probes) and unmated == "error"):
            if not pairs:
                raise self.bad(compared, 1, "it lists no pair of templates")
            alone = next(s for s, i in self.subjects.items() if i in {t.subject for t in probes} - enrolled)
            raise error(
                "KD0753", self.where.span, split=number, count=len(probes) - len(mated), total=len(probes),
                subject=alone, gallery=gallery_path.name,
            )  # fmt: skip
        start = len(verify)
        every = [*verify.values(), *gallery, *mated]
        return fold(every, pairs, range(start, start + len(gallery)), range(start + len(gallery), len(every)))

    def comparisons(self, path: Path) -> Iterator[tuple[int, str, str]]:
        """Line number and two template numbers; a first line without numbers is a heading."""
        with path.open(encoding=ENCODING, newline="") as file:
            for number, row in enumerate(csv.reader(file, skipinitialspace=True), 1):
                if not row or (number == 1 and not row[0].strip().isdigit()):
                    continue
                if len(row) < 2:
                    raise self.bad(path, number, "a pair of template numbers is expected")
                yield number, row[0].strip(), row[1].strip()


def open_templates(args: Arguments, where: Where) -> Opened:
    """Reads every split's lists and checks that the images are there."""
    if args["unmated"] not in ("error", "leave_out"):
        expected = '"error" or "leave_out"'
        raise error("KD0721", where.span, owner="templates", arg="unmated", expected=expected, found=args["unmated"])
    folder = where.folder("templates", args["path"])
    reader = _Reader(folder, args["margin"], where)
    protocol: Protocol = tuple(reader.split(k, args["unmated"]) for k in range(1, args["splits"] + 1))
    base = folder / "images" if (folder / "images").is_dir() else folder
    missing: dict[str, None] = {}
    for name, _ in reader.samples:
        if name not in missing and not (base / name).is_file():
            missing[name] = None
    if missing:
        first = next(iter(missing))
        raise error("KD0750", where.span, path=str(base), first=first, count=len(missing))
    files = [str(base / name) for name, _ in reader.samples]
    labels = np.array(reader.of_sample, np.int64)

    def hashed() -> str:
        cache = HashCache(where.cache)
        names = [*sorted(set(reader.lists)), *sorted({os.path.relpath(f, folder) for f in files})]
        settings = [args[n] for n in ("splits", "margin", "unmated")]
        digest = cache.of_tree(folder, names, f"{where.label}:{settings}", where.span)
        cache.save()
        return digest

    part = Part(len(files), labels=lambda: labels, files=files, boxes=[box for _, box in reader.samples])
    return Opened(
        {"test": part},
        hashed,
        classes=tuple(reader.subjects),
        mean=IMAGENET_MEAN,
        std=IMAGENET_STD,
        protocol=lambda: protocol,
    )


TEMPLATES = SourceSpec(
    "templates",
    (
        Param("path", "string", REQUIRED, "Folder under the data folder, or absolute."),
        Param("splits", "integer", 10, "How many there are, counted from 1.", low=1, high=1000),
        Param("margin", "number", 0.0, "What a face box is widened by on each side, as a share of its size.", low=0),
        Param(
            "unmated",
            "string",
            "error",
            '"leave_out": probes whose subject is not in the gallery do not count in `rank`, as in IJB-A.',
        ),
    ),
    "Images with a protocol of open-set recognition, in the published layout of IJB-A: templates (sets of images of "
    "one subject), pairs of them to verify, and probes to look up in a gallery, once for each split. The lists have "
    "the columns TEMPLATE_ID, SUBJECT_ID, FILE, and if wanted MEDIA_ID (images of one medium share its weight) and "
    "FACE_X, FACE_Y, FACE_WIDTH, FACE_HEIGHT (the image is cut to it); comparisons are pairs of template numbers.",
    open=open_templates,
    layout="<path>/images/…, <path>/split<k>/{verify_metadata,verify_comparisons,search_gallery,search_probe}_<k>.csv "
    "(or IJB-A_11_sets/split<k>/… and IJB-A_1N_sets/split<k>/…)",
)
