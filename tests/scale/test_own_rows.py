"""Each rank decodes the images of its own shards, and gets the same shards as from whole batches."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor

from kdplan.data import dataset
from kdplan.data.dataset import Dataset, open_view
from kdplan.data.loader import Loader
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.ir.plan import Item, Recipe
from kdplan.runtime.own_rows import OwnRows
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.shards import cut
from kdplan.runtime.streams import Batch, Streams, samples, split

IMAGES = 23


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root, draws = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    for number in range(IMAGES):
        folder = root / "mine" / ("ant" if number % 3 else "bee")
        folder.mkdir(parents=True, exist_ok=True)
        Image.fromarray(draws.integers(0, 256, (9, 9, 3), np.uint8)).save(folder / f"{number}.png")
    return root


def opened(root: Path) -> Dataset:
    steps = (transform("flip", [], {}), transform("pad_crop", [9], {"pad": 2}))
    return open_view(ViewSpec("image_folder", (("path", "mine"),), augment=steps), root, cache=root)


def streams(recipe: Recipe, data: Dataset, rank: int | None, ranks: int, workers: int = 0) -> Streams:
    """Two streams of one set, whole or as a rank reads them."""

    def loader(n: int) -> Loader:
        own = OwnRows(recipe, (len(data),) * 2, n, rank, ranks) if rank is not None else None
        size = recipe.batch_of(n) * recipe.accumulate
        return Loader(data, size, 5, True, workers, recipe.drop_last, stream=n, part=own, fill=own is not None)

    return Streams([loader(0), loader(1)])


def parts(recipe: Recipe, batch: Batch) -> list[Batch]:
    return list(split(batch, recipe.batch_of()))


RECIPES = {
    "plain": Recipe(Item("sgd"), batch=8, shards=4),
    "accumulated, two sizes": Recipe(Item("sgd"), batch=[6, 4], accumulate=2, shards=2),
    "six shards, dropped": Recipe(Item("sgd"), batch=[10, 7], shards=6, drop_last=True),
    "few samples": Recipe(Item("sgd"), batch=[7, 2], accumulate=3, shards=6),
}


@pytest.mark.parametrize("name", RECIPES)
@pytest.mark.parametrize("ranks", [2, 3])
def test_a_ranks_shards_are_those_of_whole_batches(name: str, ranks: int, images: Path) -> None:
    recipe, data = RECIPES[name], opened(images)
    if recipe.shards % ranks:
        pytest.skip("these ranks cannot share the shards")
    for rank in range(ranks):
        mine = Ranks(rank, ranks).shards_of(recipe.shards)
        whole, own = streams(recipe, data, None, ranks), streams(recipe, data, rank, ranks)
        for epoch, start in ((0, 0), (3, 1)):
            for one, other in zip(whole.epoch(epoch, start), own.epoch(epoch, start), strict=True):
                for a, b in zip(parts(recipe, one), parts(recipe, other), strict=True):
                    few = samples(a) < recipe.shards
                    shards = zip(cut(a, recipe.shards), cut(b, recipe.shards), strict=True)
                    pairs = [pair for n, pair in enumerate(shards) if few or n in mine]
                    assert all(torch.equal(x[f], y[f]) for x, y in pairs for f in x)


def test_images_of_other_shards_are_not_read(images: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    read: list[str] = []
    before = dataset.read_image

    def counted(path: str | Path, *more: object) -> Tensor:
        read.append(str(path))
        return before(path, *more)  # type: ignore[arg-type]

    monkeypatch.setattr(dataset, "read_image", counted)
    recipe, data = RECIPES["plain"], opened(images)
    counts = []
    for rank in (None, 0, 1, 2, 3):
        read.clear()
        batches = list(streams(recipe, data, rank, 4).epoch(0))
        counts.append(len(read))
    assert len(batches) == 3
    assert counts[0] == 2 * IMAGES == sum(counts[1:]) and max(counts[1:]) <= 12


def test_worker_processes_read_the_same(images: Path) -> None:
    recipe, data = RECIPES["plain"], opened(images)
    here, there = streams(recipe, data, 1, 2), streams(recipe, data, 1, 2, workers=1)
    for one, other in zip(here.epoch(1), there.epoch(1), strict=True):
        assert all(torch.equal(one[name], other[name]) for name in one)
