"""Open Images, from lists in the layouts of its versions."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
import torch

from kdplan.data.catalog import describe, open_source
from kdplan.data.dataset import open_view
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError
from tests.data.concepts import NAMES, write_open_images

ARGS = {"labels": "machine"}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    write_open_images(tmp_path / "open_images")
    return tmp_path


def code(root: Path, **args: str) -> str:
    with pytest.raises(PlanError) as problem:
        open_source("open_images", {**ARGS, **args}, root)
    return problem.value.diagnostics[0].code


def test_a_sample_for_each_sure_label(root: Path) -> None:
    info = describe("open_images", ARGS, root)
    assert info.classes == tuple(NAMES) and info.splits == {"train": 22, "val": 11, "test": 11}
    crop = (transform("random_resized_crop", (), {"size": 8}),)
    data = open_view(ViewSpec("open_images", tuple(ARGS.items()), "val", augment=crop), root)
    batch = data.batch(torch.arange(11))
    assert batch["inputs"].shape == (11, 3, 8, 8) and batch["labels"].tolist() == [*range(11)]
    every = describe("open_images", {**ARGS, "confidence": 0.2}, root)
    assert every.splits["train"] == 44 and every.fingerprint != info.fingerprint


def test_other_versions_give_the_same(root: Path) -> None:
    """Lists in the splits' folders, as in versions 2 and 3; all in one list, as in version 1."""

    def labels(folder: Path) -> list[int]:
        part = open_source("open_images", ARGS, folder).parts["train"]
        assert part.labels is not None
        return part.labels().tolist()  # type: ignore[no-any-return]

    here, wanted = root / "open_images", labels(root)
    for split, kind in (("train", "machine"), ("validation", "human"), ("test", "human")):
        (here / f"{split}-annotations-{kind}-imagelabels.csv").rename(here / split / f"annotations-{kind}.csv")
    assert labels(root) == wanted
    first = here / "train" / "annotations-machine.csv"
    first.rename(here / "train" / "labels.csv")
    with (here / "train" / "labels.csv").open("a") as file:
        file.write("\n000000000000abcd,human,/m/food0,1")  # of another source: not read
    assert labels(root) == wanted


def test_without_a_list_of_classes_they_are_what_is_there(root: Path) -> None:
    (root / "open_images" / "classes-trainable.txt").unlink()
    assert describe("open_images", ARGS, root).classes == tuple(sorted([*NAMES, "/m/never_trained"]))


def test_images_that_are_not_there(root: Path) -> None:
    image = next((root / "open_images" / "train").glob("*.jpg"))
    image.unlink()
    assert code(root) == "KD0735"
    assert describe("open_images", {**ARGS, "missing": "leave_out"}, root).splits["train"] == 21
    shutil.rmtree(root / "open_images" / "train")
    assert code(root, missing="leave_out") == "KD0714"


def test_broken_lists(root: Path) -> None:
    path = root / "open_images" / "train-annotations-machine-imagelabels.csv"
    text = path.read_text()
    path.write_text(text.replace("0.8", "sure", 1))
    assert code(root) == "KD0734"
    path.write_text(text.replace("LabelName", "Label", 1))
    assert code(root) == "KD0734"
    path.unlink()
    assert code(root) == "KD0713"
    assert code(root, labels="nobody") == "KD0721"
