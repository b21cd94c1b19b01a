"""Small sets in the layouts of CUB-200-2011, Stanford Dogs, FGVC-Aircraft and Stanford Cars."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image
from scipy.io import savemat

CLASSES, TRAIN, TEST = 8, 3, 2


def _image(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(np.full((8, 8, 3), len(path.name), np.uint8)).save(path)


def _samples(split: str) -> list[tuple[int, str]]:
    count = TRAIN if split == "train" else TEST
    return [(c, f"{split}{c}_{i}") for c in range(CLASSES) for i in range(count)]


def write_fine(folder: Path) -> Path:
    """All four below `folder`, under their default names: `CLASSES` classes, images of 8 x 8."""
    _birds(folder / "CUB_200_2011")
    _dogs(folder / "stanford_dogs")
    _aircraft(folder / "fgvc-aircraft-2013b" / "data")
    _cars(folder / "stanford_cars")
    return folder


def _birds(folder: Path) -> None:
    lines: dict[str, list[str]] = {"images": [], "image_class_labels": [], "train_test_split": []}
    number = 0
    for split in ("train", "test"):
        for c, name in _samples(split):
            number += 1
            path = f"{c + 1:03}.Bird_{c}/{name}.jpg"
            _image(folder / "images" / path)
            lines["images"].append(f"{number} {path}")
            lines["image_class_labels"].append(f"{number} {c + 1}")
            lines["train_test_split"].append(f"{number} {int(split == 'train')}")
    lines["classes"] = [f"{c + 1} {c + 1:03}.Bird_{c}" for c in range(CLASSES)]
    for word, rows in lines.items():
        (folder / f"{word}.txt").write_text("\n".join(rows) + "\n")


def _dogs(folder: Path) -> None:
    (folder / "lists").mkdir(parents=True)
    for split in ("train", "test"):
        samples = [(c, f"n{c:05}-dog {c}/{name}.jpg") for c, name in _samples(split)]
        for _, path in samples:
            _image(folder / "Images" / path)
        files = np.array([path for _, path in samples], object)[:, None]
        labels = np.array([c + 1 for c, _ in samples])[:, None]
        savemat(folder / "lists" / f"{split}_list.mat", {"file_list": files, "labels": labels})


def _aircraft(folder: Path) -> None:
    names = [f"70{c}-3 B" for c in range(CLASSES)]
    folder.mkdir(parents=True)
    (folder / "variants.txt").write_text("\n".join(names) + "\n")
    for split, word in (("train", "trainval"), ("test", "test")):
        rows = []
        for c, name in _samples(split):
            _image(folder / "images" / f"{name}.jpg")
            rows.append(f"{name} {names[c]}")
        (folder / f"images_variant_{word}.txt").write_text("\n".join(rows) + "\n")


def _cars(folder: Path) -> None:
    (folder / "devkit").mkdir(parents=True)
    names = np.array([f"Car {c} Coupe" for c in range(CLASSES)], object)
    savemat(folder / "devkit" / "cars_meta.mat", {"class_names": names})
    for split, path in (("train", "devkit/cars_train_annos.mat"), ("test", "cars_test_annos_withlabels.mat")):
        samples = _samples(split)
        rows = np.zeros(len(samples), [("fname", object), ("class", object)])
        for row, (c, name) in zip(rows, samples, strict=True):
            _image(folder / f"cars_{split}" / f"{name}.jpg")
            row["fname"], row["class"] = f"{name}.jpg", c + 1
        savemat(folder / path, {"annotations": rows})
