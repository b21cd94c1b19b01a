"""Small detection sets in COCO's layouts: coloured rectangles on grey, of two classes."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

COLOURS = {3: (230, 40, 40), 7: (40, 60, 230)}
"""Category id -> colour."""


def write_images(
    folder: Path, images: int, seed: int, size: tuple[int, int] = (48, 64), empty: int = 0
) -> dict[str, Any]:
    """PNG files in `folder`, and their annotations; the last `empty` ones show nothing."""
    rng = np.random.default_rng(seed)
    folder.mkdir(parents=True)
    found: dict[str, Any] = {"images": [], "annotations": [], "categories": []}
    found["categories"] = [{"id": i, "name": n} for i, n in ((3, "red"), (7, "blue"))]
    for number in range(images):
        h, w = size if number % 3 else size[::-1]
        pixels = np.full((h, w, 3), 128, np.uint8)
        name = f"{number:04d}.png"
        found["images"].append({"id": 100 + number, "file_name": name, "height": h, "width": w})
        for _ in range(0 if number >= images - empty else 1 + number % 3):
            bw, bh = (int(rng.integers(12, side // 2)) for side in (w, h))
            x, y = int(rng.integers(0, w - bw)), int(rng.integers(0, h - bh))
            category = int(rng.choice([3, 7]))
            pixels[y : y + bh, x : x + bw] = COLOURS[category]
            one = {"image_id": 100 + number, "category_id": category, "bbox": [x, y, bw, bh], "area": bw * bh}
            found["annotations"].append({**one, "id": len(found["annotations"]), "iscrowd": 0})
        Image.fromarray(pixels).save(folder / name)
    return found


def write_boxes(folder: Path, train: int = 12, test: int = 6, size: tuple[int, int] = (48, 64)) -> Path:
    """A set in the layout of COCO 2017."""
    (folder / "annotations").mkdir(parents=True)
    for split, images, empty in (("train", train, 1), ("val", test, 1)):
        found = write_images(folder / f"{split}2017", images, len(split), size, empty)
        (folder / "annotations" / f"instances_{split}2017.json").write_text(json.dumps(found))
    return folder
