"""The four fine-grained sets: what is read from their lists, and what is said where something is missing."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.data.catalog import describe, open_source
from kdplan.diagnostics.report import PlanError
from tests.data.fine import CLASSES, TEST, TRAIN, write_fine

NAMES = {
    "cub200": "003.Bird_2",
    "stanford_dogs": "n00002-dog 2",
    "fgvc_aircraft": "702-3 B",
    "stanford_cars": "Car 2 Coupe",
}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_fine(tmp_path_factory.mktemp("fine"))


@pytest.mark.parametrize("name", NAMES)
def test_lists_are_read(name: str, root: Path, tmp_path: Path) -> None:
    info = describe(name, {}, root, cache=tmp_path)
    assert info.splits == {"train": CLASSES * TRAIN, "test": CLASSES * TEST}
    assert len(info.classes) == CLASSES and info.classes[2] == NAMES[name]
    part = open_source(name, {}, root).parts["test"]
    assert part.labels is not None and part.files is not None
    assert [int(y) for y in part.labels()[: TEST + 1]] == [0] * TEST + [1]
    assert all(Path(f).is_file() and "test" in Path(f).name for f in part.files)


@pytest.mark.parametrize(
    ("name", "gone", "code"),
    [
        ("cub200", "CUB_200_2011/classes.txt", "KD0713"),
        ("stanford_dogs", "stanford_dogs/Images/n00000-dog 0/train0_0.jpg", "KD0713"),
        ("fgvc_aircraft", "fgvc-aircraft-2013b/data/variants.txt", "KD0713"),
        ("stanford_cars", "stanford_cars/devkit/cars_meta.mat", "KD0713"),
    ],
)
def test_what_is_missing_is_told(name: str, gone: str, code: str, tmp_path: Path) -> None:
    write_fine(tmp_path)
    (tmp_path / gone).unlink()
    with pytest.raises(PlanError) as caught:
        describe(name, {}, tmp_path, cache=tmp_path)
    assert [d.code for d in caught.value.diagnostics] == [code]
    assert str(Path(gone).name) in caught.value.diagnostics[0].message


def test_broken_lists_are_told(tmp_path: Path) -> None:
    write_fine(tmp_path)
    (tmp_path / "CUB_200_2011" / "image_class_labels.txt").write_text("1 one\n")
    (tmp_path / "stanford_cars" / "devkit" / "cars_meta.mat").write_bytes(b"nothing")
    for name in ("cub200", "stanford_cars"):
        with pytest.raises(PlanError) as caught:
            describe(name, {}, tmp_path, cache=tmp_path)
        assert [d.code for d in caught.value.diagnostics] == ["KD0726"]
