"""Images with boxes: annotation files, the canvas, boxes that move along, and what is told when they do not match."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torchvision.models.detection.transform import GeneralizedRCNNTransform

from kdplan.data.catalog import describe
from kdplan.data.dataset import BoxDataset, open_view
from kdplan.data.loader import Loader
from kdplan.data.select import view_size
from kdplan.data.sources.base import Canvas
from kdplan.data.sources.coco import BrokenAnnotations, read_annotations
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError
from tests.data.boxes import write_boxes

ARGS = {"path": "coco", "shorter": 48, "longer": 64, "height": 64, "width": 96}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_boxes(tmp_path / "coco")
    return tmp_path


def view(**changes: Any) -> ViewSpec:
    return ViewSpec("coco_detection", tuple(ARGS.items())).with_(**changes)


def annotations(root: Path, split: str = "train") -> dict[str, Any]:
    found: dict[str, Any] = json.loads((root / "coco/annotations" / f"instances_{split}2017.json").read_text())
    return found


def rewrite(root: Path, found: object, split: str = "train") -> None:
    text = found if isinstance(found, str) else json.dumps(found)
    (root / "coco/annotations" / f"instances_{split}2017.json").write_text(text)


def code(root: Path, **changes: Any) -> tuple[str, str]:
    with pytest.raises(PlanError) as caught:
        open_view(view(**changes), root, cache=root / "cache")
    found = caught.value.diagnostics[0]
    return found.code, found.message


def test_what_is_known_before_anything_is_read(root: Path) -> None:
    info = describe("coco_detection", ARGS, root, cache=root / "cache")
    assert info.task == "detection" and info.classes == ("red", "blue") and info.shape == (3, 64, 96)
    # the training image without boxes is left out, the test image without boxes counts
    assert info.splits == {"train": 11, "test": 6} and info.objects == 3
    assert view_size(view(split="test"), root, cache=root / "cache") == 6


def test_the_fingerprint_is_of_images_annotations_and_canvas(root: Path) -> None:
    def found(**changes: Any) -> str:
        return describe("coco_detection", ARGS | changes, root, cache=root / "cache").fingerprint

    before = found()
    assert found() == before != found(shorter=40)
    changed = annotations(root)
    changed["annotations"][0]["bbox"][0] += 1
    rewrite(root, changed)
    assert found() != before


@pytest.mark.parametrize("size", [(480, 640), (427, 640), (640, 351), (1000, 4000), (33, 50)])
def test_images_are_scaled_as_torchvision_does(size: tuple[int, int]) -> None:
    canvas = Canvas(1344, 1344, 800, 1333)
    theirs = GeneralizedRCNNTransform(800, 1333, [0.0] * 3, [1.0] * 3).eval()
    (h, w), _ = theirs.resize(torch.zeros(3, *size))[0].shape[-2:], None
    assert canvas.scaled(np.array([size])).tolist() == [[h, w]]


def test_boxes_stand_on_what_they_are_around(root: Path) -> None:
    data = open_view(view(normalize="none", augment=(transform("flip", [], {"p": 1.0}),)), root, cache=root / "cache")
    assert isinstance(data, BoxDataset)
    for train in (False, True):  # mirrored in training
        batch = data.batch(torch.arange(len(data)), train=train)
        for n in range(len(data)):
            real = batch["classes"][n] >= 0
            box, label = batch["boxes"][n][real][-1], int(batch["classes"][n][real][-1])  # drawn last, so on top
            x, y = int(box[[0, 2]].mean()), int(box[[1, 3]].mean())
            wanted = (230, 40, 40) if label == 0 else (40, 60, 230)
            assert torch.allclose(batch["inputs"][n, :, y, x] * 255, torch.tensor(wanted).float(), atol=1.5)
            right, bottom = float(batch["sizes"][n, 1]), float(batch["sizes"][n, 0])
            assert box[2] <= right and box[3] <= bottom


def test_the_rest_of_the_canvas_is_zero(root: Path) -> None:
    data = open_view(view(), root, cache=root / "cache")
    batch = data.batch(torch.arange(4))
    for n in range(4):
        h, w = (int(v) for v in batch["sizes"][n])
        assert not batch["inputs"][n, :, h:].any() and not batch["inputs"][n, :, :, w:].any()
        assert batch["inputs"][n, :, :h, :w].any()


def test_batches_do_not_depend_on_workers_or_neighbours(root: Path) -> None:
    data = open_view(view(augment=(transform("flip"),)), root, cache=root / "cache")
    one = list(Loader(data, 4, seed=3, train=True).epoch(2))
    two = Loader(data, 4, seed=3, train=True, workers=2)
    for a, b in zip(one, two.epoch(2), strict=True):
        assert all(torch.equal(a[name], b[name]) for name in a)
    two.close()
    first = data.batch(one[0]["indices"][1:2], epoch=2, train=True, seed=3)
    assert torch.equal(first["boxes"][0], one[0]["boxes"][1])


def test_without_labels_there_are_no_boxes(root: Path) -> None:
    batch = open_view(view(unlabelled=True), root, cache=root / "cache").batch(torch.arange(2))
    assert sorted(batch) == ["indices", "inputs", "sizes"]


def test_crowds_and_boxes_without_extent(root: Path) -> None:
    found = annotations(root)
    found["annotations"][0]["iscrowd"] = 1
    found["annotations"][1]["bbox"][2] = 0
    before = len(found["annotations"])
    made = read_annotations(found).objects
    assert made.crowd.sum() == 1 and (made.classes >= 0).sum() == before - 1


def test_large_annotation_files_are_read_once(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from kdplan.data.sources import coco

    monkeypatch.setattr(coco, "_WORTH_KEEPING", 0)
    first = describe("coco_detection", ARGS, root, cache=root / "cache")
    assert len(list((root / "cache").glob("coco-*.npz"))) == 2
    coco._held.cache_clear()
    monkeypatch.setattr(coco, "read_annotations", lambda found: pytest.fail("read again"))
    assert describe("coco_detection", ARGS, root, cache=root / "cache") == first
    batch = open_view(view(), root, cache=root / "cache").batch(torch.arange(2))
    assert batch["boxes"].shape == (2, 3, 4)


def test_one_file_for_all_images(root: Path) -> None:
    args = {**ARGS, "annotations": "annotations/instances_train2017.json", "images": "train2017"}
    info = describe("coco_detection", args, root, cache=root / "cache")
    assert info.splits == {"train": 11}


# ---- mistakes


def test_broken_annotations(root: Path) -> None:
    for change, words in (
        (lambda f: f.pop("categories"), "`categories`"),
        (lambda f: f["annotations"][0].update(image_id=5), "image 5"),
        (lambda f: f["annotations"][0].update(category_id=5), "category 5"),
        (lambda f: f["images"][0].pop("height"), "`height`"),
        (lambda f: f["annotations"][0].update(bbox=[1, 2]), "unpack"),
        (lambda f: f["annotations"].clear(), "no boxes"),
        (lambda f: f["images"].clear() or f["annotations"].clear(), "no image"),
    ):
        found = annotations(root)
        change(found)
        before = annotations(root)
        rewrite(root, found)
        assert code(root)[0] == "KD0770" and words in code(root)[1], words
        rewrite(root, before)
    rewrite(root, "{")
    assert code(root)[0] == "KD0770" and "JSON" in code(root)[1]
    with pytest.raises(BrokenAnnotations):
        read_annotations([])


def test_other_categories_in_the_test_set(root: Path) -> None:
    found = annotations(root, "val")
    found["categories"][0]["name"] = "green"
    rewrite(root, found, "val")
    assert code(root)[0] == "KD0770"


def test_images_that_are_not_there(root: Path) -> None:
    (root / "coco/train2017/0003.png").unlink()
    assert code(root) == ("KD0771", code(root)[1])
    assert "0003.png" in code(root)[1] and "1 of 11" in code(root)[1]


def test_image_of_another_size(root: Path) -> None:
    path = root / "coco/train2017/0000.png"
    with Image.open(path) as image:
        image.resize((30, 20)).save(path)
    assert code(root)[0] == "KD0772" and "30 x 20" in code(root)[1]


def test_image_of_another_size_that_is_seen_when_it_is_read(root: Path) -> None:
    data = open_view(view(), root, cache=root / "cache")
    path = root / "coco/train2017/0001.png"
    with Image.open(path) as image:
        image.resize((30, 20)).save(path)
    with pytest.raises(PlanError) as caught:
        data.batch(torch.arange(3))
    assert caught.value.diagnostics[0].code == "KD0772"


def test_transform_that_loses_the_boxes(tmp_path: Path) -> None:
    from kdplan.data.transforms import check_boxes

    check_boxes("coco", [transform("flip"), transform("color_jitter", [], {"brightness": 0.2})])
    with pytest.raises(PlanError) as caught:
        check_boxes("coco", [transform("flip"), transform("random_crop", [32])])
    assert caught.value.diagnostics[0].code == "KD0773"


def test_canvas_that_detectors_cannot_scale(root: Path) -> None:
    for changes in ({"height": 50}, {"shorter": 80}):
        with pytest.raises(PlanError) as caught:
            describe("coco_detection", ARGS | changes, root, cache=root / "cache")
        assert caught.value.diagnostics[0].code == "KD0721"
