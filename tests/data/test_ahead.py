"""What is made ahead of its use is what would be made at its time."""

from __future__ import annotations

import threading
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdplan.data.ahead import DEPTH, BatchNumbers, ahead
from kdplan.data.augment import Numbers
from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError


def test_words_of_a_batch_are_those_of_its_samples() -> None:
    indices = torch.tensor([5, 0, 2**31, 5, 17])
    batch, alone = BatchNumbers(indices, 2**63 + 9, 7, stream=3), Numbers(2**63 + 9, 7, stream=3)
    for slot in (0, 64, 65, 700):
        for at in indices.split(1):
            assert all(torch.equal(a, b) for a, b in zip(batch.words(at, slot), alone.words(at, slot), strict=True))


def _folder(folder: Path, number: int = 12) -> Path:
    rng = np.random.default_rng(1)
    for i in range(number):
        at = folder / "train" / f"c{i % 2}" / f"{i}.png"
        at.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(rng.integers(0, 256, (30 + i, 41 - i, 3), dtype=np.uint8)).save(at)
    return folder


def _loader(folder: Path, **changes: int) -> Loader:
    steps = transform("random_resized_crop", [16]), transform("flip"), transform("rotation", [20])
    view = ViewSpec("image_folder", args=(("path", str(folder)),), augment=steps)
    return Loader(open_view(view, folder), 5, 0, True, **changes)


def test_batches_of_the_thread_are_those_of_their_steps(tmp_path: Path) -> None:
    """Sample by sample, in whatever batch, and whoever makes it."""
    folder = _folder(tmp_path)
    loader, fine = _loader(folder), _loader(folder)
    fine.batch = fine._maker.batch_size = 1
    for epoch in (0, 3):
        whole = torch.cat([b["inputs"] for b in loader.epoch(epoch)])
        assert torch.equal(whole, torch.cat([b["inputs"] for b in fine.epoch(epoch)]))
        assert torch.equal(whole[5:], torch.cat([b["inputs"] for b in loader.epoch(epoch, start=1)]))
    by_process = _loader(folder, workers=1)
    assert torch.equal(whole, torch.cat([b["inputs"] for b in by_process.epoch(3)]))
    by_process.close()


def test_a_thread_works_while_a_batch_is_in_use_and_ends() -> None:
    called: list[int] = []
    more = threading.Event()

    def maker(number: int) -> Callable[[], int]:
        def make() -> int:
            called.append(number)
            if number == DEPTH:
                more.set()
            return number

        return make

    batches = ahead(map(maker, range(100)))
    assert next(batches) == 0
    assert more.wait(30), "the next ones are made while the first is in use"
    batches.close()  # type: ignore[attr-defined]
    assert called == list(range(DEPTH + 1))
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]


def test_an_error_comes_when_its_batch_would(tmp_path: Path) -> None:
    """With its diagnostic, after the batches before it."""
    folder = _folder(tmp_path)
    loader = _loader(folder)
    bad = int(loader.indices(0, 1)[0])
    Path(loader.dataset._files[bad]).write_bytes(b"no image")  # type: ignore[attr-defined]
    batches = loader.epoch(0)
    assert len(next(batches)["inputs"]) == 5
    with pytest.raises(PlanError, match="cannot be read") as caught:
        next(batches)
    assert caught.value.diagnostics[0].code == "KD0731"
    assert not [t for t in threading.enumerate() if t.name.startswith("batches")]
