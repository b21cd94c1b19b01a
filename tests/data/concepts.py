"""Small sets in the layouts of two large ones: Open Images, and class folders with a hierarchy over them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

VERTICALS = {"food": 3, "organism": 4, "transport": 2, "others": 2}
"""How many classes each has, the first of which is above the others."""
NAMES = [f"/m/{v}{i}" for v, count in VERTICALS.items() for i in range(count)]


def _image(path: Path, number: int, side: int) -> None:
    rng = np.random.default_rng(number)
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(rng.integers(0, 255, (side, side, 3), np.uint8)).save(path, quality=50)


def _lists(folder: Path, name: str = "{}") -> None:
    """`verticals.csv`, and `hierarchy.csv` in which each vertical's first class is above its others."""
    rows = [
        (name.format(f"{v}{i}"), name.format(f"{v}0") if i else "", v) for v, n in VERTICALS.items() for i in range(n)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "verticals.csv").write_text("\n".join(f"{c},{v}" for c, _, v in rows))
    (folder / "hierarchy.csv").write_text("\n".join(f"{c},{above}" for c, above, _ in rows))


def write_open_images(folder: Path, side: int = 40, images: int = 22) -> Path:
    """Two labels an image, one of which is not sure; machine labels for training, human ones for the others."""
    _lists(folder, "/m/{}")
    (folder / "classes-trainable.txt").write_text("\n".join(NAMES) + "\n")
    for split, kind, count in (
        ("train", "machine", images),
        ("validation", "human", len(NAMES)),
        ("test", "human", 11),
    ):
        rows = ["ImageID,Source,LabelName,Confidence"]
        for i in range(count):
            image = f"{count * 1000 + i:016x}"
            _image(folder / split / f"{image}.jpg", i, side)
            rows += [f"{image},{kind},{NAMES[i % len(NAMES)]},{1 if kind == 'human' else 0.8}"]
            rows += [f"{image},{kind},{NAMES[(i + 1) % len(NAMES)]},{0 if kind == 'human' else 0.3}"]
            rows += [f"{image},{kind},/m/never_trained,1"]
        (folder / f"{split}-annotations-{kind}-imagelabels.csv").write_text("\n".join(rows))
    return folder


def write_concepts(folder: Path, side: int = 40) -> Path:
    """Class folders in `train` and `test`, with their verticals and hierarchy beside them."""
    _lists(folder)
    for number, name in enumerate(f"{v}{i}" for v, count in VERTICALS.items() for i in range(count)):
        for split in ("train", "test"):
            for photo in range(2):
                _image(folder / split / name / f"{photo}.jpg", 10 * number + photo, side)
    return folder
