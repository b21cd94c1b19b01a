"""Batches of image files: kdplan's loader against torchvision's `ImageFolder` and torch's `DataLoader`.

    python -m tests.bench.bench_images [--files 96] [--epochs 5] [--batch 32] [--workers 0]

Images of 375 x 500 pixels, half of them JPEG and half PNG, are made from smooth noise. Both read them, cut out a random
part that is scaled to 224 x 224, mirror some, and normalise. Epochs go by turns in one process. A training step is
imitated by a product of matrices of `--step` milliseconds, since a loader may work meanwhile.

Goal: at most 1.05 of torchvision's CPU seconds.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader
from torchvision import datasets
from torchvision.transforms import v2

from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.names import IMAGENET_MEAN, IMAGENET_STD
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from tests.bench.ratios import Ratios, Times, by_turns, entry

SIZE = 224


def write(folder: Path, files: int, kinds: tuple[str, ...] = ("jpg", "png")) -> None:
    """Images of two classes."""
    rng = np.random.default_rng(0)
    for number in range(files):
        coarse = Image.fromarray(rng.integers(0, 256, (24, 32, 3), dtype=np.uint8)).resize((500, 375), Image.BICUBIC)
        noisy = np.asarray(coarse).astype(np.int16) + rng.integers(-12, 13, (375, 500, 3))
        path = folder / "train" / f"c{number // len(kinds) % 2}" / f"{number}.{kinds[number % len(kinds)]}"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(noisy.clip(0, 255).astype(np.uint8)).save(path, quality=90)


def ours(folder: Path, batch: int, workers: int) -> Loader:
    """kdplan's batches of the folder."""
    steps = transform("random_resized_crop", [SIZE]), transform("flip")
    view = ViewSpec("image_folder", args=(("path", str(folder)),), augment=steps)
    return Loader(open_view(view, folder), batch, 0, True, workers=workers, drop_last=True)


def theirs(folder: Path, batch: int, workers: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """torchvision's batches of the folder."""
    steps = v2.Compose([
        v2.RandomResizedCrop(SIZE), v2.RandomHorizontalFlip(), v2.PILToTensor(),
        v2.ToDtype(torch.float32, scale=True), v2.Normalize(IMAGENET_MEAN, IMAGENET_STD),
    ])  # fmt: skip
    data = datasets.ImageFolder(str(folder / "train"), steps)
    return DataLoader(data, batch, shuffle=True, drop_last=True, num_workers=workers, persistent_workers=workers > 0)


def compare(folder: Path, batch: int, workers: int, epochs: int, step: float = 0.0) -> tuple[Times, Times]:
    """Epochs by turns: CPU seconds of this process, and seconds."""
    loader, other, numbers = ours(folder, batch, workers), theirs(folder, batch, workers), iter(range(10**6))

    def through(batches: Iterator[object]) -> None:
        for _ in batches:
            _busy(step)

    def mine() -> None:
        through(loader.epoch(next(numbers)))

    def peer() -> None:
        through(iter(other))

    cpu: dict[Callable[[], None], list[float]] = {mine: [], peer: []}

    def timed(work: Callable[[], None]) -> Callable[[], None]:
        def run() -> None:
            began = time.process_time()
            work()
            cpu[work].append(time.process_time() - began)

        return run

    wall = by_turns(timed(mine), timed(peer), epochs, time.perf_counter, warm=1)
    loader.close()
    return Times(cpu[mine][1:], cpu[peer][1:]), wall


def _busy(seconds: float) -> None:
    """A training step: products of matrices, which leave the interpreter to others."""
    end, a = time.perf_counter() + seconds, torch.ones(512, 512)
    while time.perf_counter() < end:
        a = a @ a / 512


def brief() -> Ratios:
    """CPU seconds of both kinds of file, and seconds beside training steps, over torchvision's."""
    torch.set_num_threads(1)
    found: Ratios = {}
    with tempfile.TemporaryDirectory() as name:
        for kind in ("jpg", "png"):
            write(Path(name) / kind, 32, (kind,))
            cpu, _ = compare(Path(name) / kind, 16, 0, 4)
            found[f"CPU seconds of {kind} files ÷ torchvision"] = cpu.ratio
    return found


def main() -> None:
    """Print both ratios."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=96)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--step", type=float, default=0.0, help="milliseconds of a training step")
    given = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        for kinds in (("jpg",), ("png",), ("jpg", "png")):
            folder = Path(name) / "-".join(kinds)
            write(folder, given.files, kinds)
            cpu, wall = compare(folder, given.batch, given.workers, given.epochs, given.step / 1000)
            each = 1000 / given.files
            print(
                f"{'+'.join(kinds):8} CPU ms {cpu.first * each:6.2f} / {cpu.second * each:6.2f} = {cpu.ratio:.3f}"
                f"   wall ms {wall.first * each:6.2f} / {wall.second * each:6.2f} = {wall.ratio:.3f}"
            )


if __name__ == "__main__":
    entry(main, brief)
