"""A data folder in which every shipped plan finds what it reads: small sets of the right layout in place of those that
are too large to be had, and the real ones where there are any."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
from scipy.io import savemat

from tests.data.boxes import write_boxes
from tests.data.concepts import write_concepts, write_open_images
from tests.data.faces import write_faces, write_people
from tests.data.fine import write_fine

REAL = re.compile(r"cifar\d|mnist|svhn")
"""Plans that speak of these want the real data."""


def write_folders(folder: Path, real: Path | None) -> Path:
    """Everything below `folder`; what stands in `real` is linked to."""
    for name in [p.name for p in real.iterdir()] if real is not None else []:
        (folder / name).symlink_to(real / name, target_is_directory=True)  # type: ignore[operator]
    _write_small_images(folder)
    write_people(folder / "casia_webface")
    write_faces(folder / "ijba", splits=10, subjects=12)
    write_boxes(folder / "coco", train=20)
    write_concepts(folder / "eft")
    write_open_images(folder / "open_images")
    for split in ("train", "val"):
        write_people(folder / "imagenet" / split, people=6, photos=2)
    write_fine(folder)
    write_people(folder / "caltech256", people=2, photos=61)
    for split, photos in (("train", 80), ("test", 2)):
        write_people(folder / "indoor67" / split, people=2, photos=photos)
    return folder


def _write_small_images(folder: Path) -> None:
    """CIFAR-10, which must have its size, as files of holes; and a little of SVHN."""
    cifar, svhn = folder / "cifar-10-batches-bin", folder / "svhn"
    if not cifar.exists():
        cifar.mkdir()
        for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
            with (cifar / f"{name}.bin").open("wb") as file:
                file.truncate(10000 * 3073)
    if not svhn.exists():
        svhn.mkdir()
        labels = np.arange(200)[:, None] % 10 + 1
        for split in ("train", "test"):
            savemat(svhn / f"{split}_32x32.mat", {"X": np.zeros((32, 32, 3, 200), np.uint8), "y": labels})
