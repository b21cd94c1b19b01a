"""A small set of templates in the layout of IJB-A, and its class folders to train on."""

from __future__ import annotations

import csv
from pathlib import Path

import numpy as np
from PIL import Image

HEADER = ["TEMPLATE_ID", "SUBJECT_ID", "FILE", "MEDIA_ID", "FACE_X", "FACE_Y", "FACE_WIDTH", "FACE_HEIGHT"]
Row = list[object]


def write_list(path: Path, rows: list[Row], header: list[str] | None = HEADER) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([*([header] if header else []), *rows])


def write_faces(folder: Path, splits: int = 2, subjects: int = 3, side: int = 16) -> Path:
    """`subjects` people with four photos each, every one a template; the first is in the gallery.

    The face is the lower right quarter of each photo.
    """
    rng = np.random.default_rng(0)
    half = side // 2
    for subject in range(subjects):
        for photo in range(4):
            pixels = np.zeros((side, side, 3), np.uint8)
            pixels[half:, half:] = (60 * subject + rng.integers(0, 30, (half, half, 3))).astype(np.uint8)
            path = folder / "images" / f"img/{subject}_{photo}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(pixels).save(path)

    def row(subject: int, photo: int) -> Row:
        number = 10 * subject + photo
        return [number, 100 + subject, f"img/{subject}_{photo}.png", number, half, half, half, half]

    every = [(s, p) for s in range(subjects) for p in range(4)]
    for k in range(1, splits + 1):
        place = folder / f"split{k}"
        write_list(place / f"verify_metadata_{k}.csv", [row(*e) for e in every])
        pairs: list[Row] = [[10 * a + p, 10 * b + q] for a, p in every for b, q in every if (a, p) < (b, q)]
        write_list(place / f"verify_comparisons_{k}.csv", pairs, None)
        write_list(place / f"search_gallery_{k}.csv", [row(s, (k - 1) % 4) for s in range(subjects)])
        write_list(place / f"search_probe_{k}.csv", [row(s, p) for s, p in every if p != (k - 1) % 4])
    return folder


def write_people(folder: Path, people: int = 4, photos: int = 4, side: int = 16) -> Path:
    """Class folders right under `folder`, as CASIA-WebFace has them."""
    rng = np.random.default_rng(1)
    for person in range(people):
        for photo in range(photos):
            path = folder / f"{person:07}" / f"{photo:03}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(path)
    return folder
