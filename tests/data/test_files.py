"""Folders and arrays as people have them: sizes, broken files, names, modes, links, splits."""

from __future__ import annotations

import os
import re
import time
import unicodedata
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdplan.compile import Compiled, compile_source, inspect
from kdplan.data.catalog import describe, open_source
from kdplan.data.dataset import open_view
from kdplan.data.files import HashCache
from kdplan.data.images import pixels
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import Diagnostic, PlanError
from kdplan.diagnostics.span import Source
from kdplan.passes.expand import expand

GREY = np.arange(64, dtype=np.uint8).reshape(8, 8)
COLOUR = np.stack([GREY, GREY, GREY], axis=2)


def write(path: Path, pixels: np.ndarray = COLOUR, mode: str | None = None) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(path, "PNG")
    return path


def folder(root: Path, classes: tuple[str, ...] = ("ant", "bee"), each: int = 4) -> Path:
    for name in classes:
        for i in range(each):
            write(root / "mine" / name / f"{i}.png")
    return root / "mine"


def plan(root: Path, settings: str = "", more: str = "") -> Compiled:
    text = f'data mine = image_folder("mine") {{ {settings} }}\n{more}'
    return compile_source(Source("plan.kd", text), root, root)


def mistakes(root: Path, settings: str = "", more: str = "") -> list[Diagnostic]:
    with pytest.raises(PlanError) as e:
        inspect(plan(root, settings, more))
    return e.value.diagnostics


TRAIN = """
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 2 }
student small = digits_net(width = 2, channels = 3, classes = mine.classes)
phase a of small on mine with quick { loss = cross_entropy(small.logits, labels) }
"""


# ---- sizes


def test_images_of_one_size_need_no_resize(tmp_path: Path) -> None:
    folder(tmp_path)
    inspect(plan(tmp_path, more=TRAIN))
    assert plan(tmp_path).plan.data["mine"].shape == [3, 8, 8]
    data = open_view(ViewSpec("image_folder", (("path", "mine"),)), tmp_path, cache=tmp_path)
    assert data.shape == (3, 8, 8) and data.batch(torch.tensor([0, 5]))["inputs"].shape == (2, 3, 8, 8)


def test_one_other_size_is_seen_and_pad_crop_makes_it_one(tmp_path: Path) -> None:
    at = folder(tmp_path)
    assert plan(tmp_path).plan.data["mine"].shape == [3, 8, 8]
    write(at / "bee" / "9.png", np.zeros((9, 8, 3), np.uint8))
    assert plan(tmp_path).plan.data["mine"].shape is None
    assert plan(tmp_path, "augment = [resize(8), pad_crop(8, pad = 1)]").plan.data["mine"].shape == [3, 8, 8]
    with pytest.raises(PlanError, match="KD0730"):
        open_view(ViewSpec("image_folder", (("path", "mine"),)), tmp_path, cache=tmp_path)


# ---- broken files


def test_every_broken_file_is_listed(tmp_path: Path) -> None:
    at = folder(tmp_path)
    cut = at / "ant" / "1.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    (at / "ant" / "text.jpg").write_text("no image")
    (at / "bee" / "2.png").write_bytes(b"\x89PNG\r\n\x1a\n" + b"x" * 50)
    (d,) = mistakes(tmp_path, "verify = true  augment = [resize(8), center_crop(8)]")
    assert d.code == "KD0736" and d.message.startswith("3 of the 9 files of `mine`")
    assert [Path(n.text.split("`")[1]).name for n in d.notes] == ["1.png", "text.jpg", "2.png"]
    assert d.span is not None and d.span.text == 'image_folder("mine")'
    plan(tmp_path, "augment = [resize(8), center_crop(8)]")  # nobody asked


def test_whole_files_are_read_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder(tmp_path)
    for path in (tmp_path / "mine").rglob("*.png"):
        os.utime(path, (1e9, 1e9))
    monkeypatch.setenv("HOME", str(tmp_path))
    plan(tmp_path, "verify = true")
    monkeypatch.setattr("kdplan.data.catalog.broken", lambda paths: pytest.fail("read again"))
    assert plan(tmp_path, "verify = true").plan.data["mine"].verify
    write(tmp_path / "mine" / "ant" / "0.png", COLOUR + 1)
    with pytest.raises(pytest.fail.Exception):
        plan(tmp_path, "verify = true")


def test_verify_is_in_no_key(tmp_path: Path) -> None:
    folder(tmp_path)
    one, other = plan(tmp_path, "", TRAIN), plan(tmp_path, "verify = true", TRAIN)
    assert one.keys["a"].key == other.keys["a"].key
    assert re.search(r"verify\s+= true", expand(other.plan))


@pytest.mark.parametrize("split", ["train_x", "train_y"])
def test_verify_reads_arrays(tmp_path: Path, split: str) -> None:
    arrays = {"train_x": np.zeros((4, 3), np.float32), "train_y": np.array([0, 1, 0, 1])}
    text = 'data mine = arrays("a.npz") { verify = true }'
    np.savez(tmp_path / "a.npz", **arrays)
    compile_source(Source("plan.kd", text), tmp_path, tmp_path)
    arrays[split] = np.array([0, 1, -2, 1]) if split == "train_y" else np.full((4, 3), np.nan)
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(PlanError, match="KD0717" if split == "train_y" else r"KD0726.*not finite"):
        compile_source(Source("plan.kd", text), tmp_path, tmp_path)


def test_links_to_nothing_and_unreadable_files_are_errors_of_the_plan(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    at = folder(tmp_path)
    (at / "ant" / "gone.png").symlink_to(tmp_path / "nowhere.png")
    (d,) = mistakes(tmp_path)
    assert d.code == "KD0731" and "gone.png" in d.message and "No such file" in d.message
    (at / "ant" / "gone.png").unlink()

    def denied(path: Path) -> str:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr("kdplan.data.files.hash_file", denied)
    (d,) = mistakes(tmp_path)
    assert d.code == "KD0731" and "Permission denied" in d.message


# ---- folders


def test_what_is_no_image_is_left_out(tmp_path: Path) -> None:
    at = folder(tmp_path)
    for name in (".DS_Store", "._0.png", "Thumbs.db", "notes.txt"):
        (at / "ant" / name).write_bytes(b"x")
    (at / ".cache").mkdir()
    (at / "list.csv").write_text("a,b")
    Image.fromarray(COLOUR).save(at / "ant" / "A.JPG", "JPEG")
    Image.fromarray(COLOUR).save(at / "ant" / "b.jpeg", "JPEG")
    Image.fromarray(COLOUR).save(at / "ant" / "c.JFIF", "JPEG")
    info = describe("image_folder", {"path": "mine"}, tmp_path, cache=tmp_path)
    assert info.classes == ("ant", "bee") and info.splits == {"train": 11}


def test_classes_are_sorted_as_text_and_may_have_any_name(tmp_path: Path) -> None:
    folder(tmp_path, ("2", "10", "a b", "Ärger"), each=1)
    assert describe("image_folder", {"path": "mine"}, tmp_path, cache=tmp_path).classes == ("10", "2", "a b", "Ärger")


def test_an_accent_is_the_same_however_it_is_stored(tmp_path: Path) -> None:
    composed, apart = (unicodedata.normalize(form, "café") for form in ("NFC", "NFD"))
    for split, name in (("train", apart), ("val", composed)):
        write(tmp_path / "mine" / split / name / "0.png")
        write(tmp_path / "mine" / split / "tea" / "0.png")
    opened = open_source("image_folder", {"path": "mine"}, tmp_path)
    assert opened.classes == (composed, "tea")
    assert [p.labels().tolist() for p in opened.parts.values() if p.labels] == [[0, 1], [0, 1]]


def test_links_to_folders_are_followed_once(tmp_path: Path) -> None:
    at = folder(tmp_path)
    elsewhere = write(tmp_path / "elsewhere" / "x.png").parent
    (at / "cat").symlink_to(elsewhere)
    (at / "ant" / "more").symlink_to(elsewhere)
    (at / "ant" / "circle").symlink_to(at / "ant")
    opened = open_source("image_folder", {"path": "mine"}, tmp_path)
    assert opened.classes == ("ant", "bee", "cat") and opened.parts["train"].size == 5 + 4 + 1


def test_one_class_and_an_empty_one(tmp_path: Path) -> None:
    at = folder(tmp_path, ("only",))
    assert describe("image_folder", {"path": "mine"}, tmp_path, cache=tmp_path).classes == ("only",)
    (at / "empty").mkdir()
    (d,) = mistakes(tmp_path)
    assert d.code == "KD0714" and "empty" in d.message


# ---- modes


def test_grey_palette_transparent_cmyk_and_deep_images_become_rgb(tmp_path: Path) -> None:
    assert np.array_equal(pixels(write(tmp_path / "g.png", GREY)), COLOUR)
    assert np.array_equal(pixels(write(tmp_path / "p.png", GREY, "P")), COLOUR)
    seen = np.concatenate([COLOUR, np.zeros((8, 8, 1), np.uint8)], axis=2)
    assert np.array_equal(pixels(write(tmp_path / "rgba.png", seen)), COLOUR)
    assert np.array_equal(pixels(write(tmp_path / "la.png", GREY, "LA")), COLOUR)
    deep = GREY.astype(np.uint16) << 8 | 77
    assert np.array_equal(pixels(write(tmp_path / "deep.png", deep)), COLOUR)
    Image.fromarray(COLOUR).convert("CMYK").save(tmp_path / "c.tif")
    assert pixels(tmp_path / "c.tif").shape == (8, 8, 3)
    Image.fromarray(GREY.astype(np.float32)).save(tmp_path / "f.tif")
    with pytest.raises(PlanError, match=r"KD0731.*float32"):
        pixels(tmp_path / "f.tif")


def test_a_rotation_in_exif_is_not_applied(tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.fromarray(np.zeros((8, 16, 3), np.uint8)).save(tmp_path / "a.jpg", exif=exif)
    assert pixels(tmp_path / "a.jpg").shape == (8, 16, 3)


# ---- splits


@pytest.mark.parametrize(
    ("split", "code", "words"),
    [
        ("per_class(train = 500)", "KD0727", ("500", "ant", "has 4")),
        ("per_class(train = 5)", "KD0727", ("5", "has 4")),
        ("fraction(train = 1.3)", "KD0243", ("at most 1", "1.3")),
        ("fraction(train = 0.01)", "KD0729", ("train",)),
    ],
)
def test_splits_that_cannot_be_are_known_before_training(
    tmp_path: Path, split: str, code: str, words: tuple[str, ...]
) -> None:
    folder(tmp_path)
    (d,) = mistakes(tmp_path, f"split = {split}")
    assert d.code == code and all(word in d.message for word in words), d.message
    assert d.span is not None and d.span.text in split


def test_an_empty_part_is_an_error_of_whoever_reads_it(tmp_path: Path) -> None:
    folder(tmp_path)
    network = "network n = cifar_resnet(depth = 8)\nmeasure m of n@init on mine.test { parameters }"
    assert plan(tmp_path, "split = per_class(train = 3)", network).plan.data["mine"].sizes == {"train": 6, "test": 2}
    (d,) = mistakes(tmp_path, "split = per_class(train = 4)", network)
    assert d.code == "KD0729" and d.span is not None and d.span.text == "mine.test"


# ---- arrays


@pytest.mark.parametrize(
    ("arrays", "code", "words"),
    [
        ({"x": np.array([["a"], ["b"]]), "y": np.array([0, 1])}, "KD0726", "<U1"),
        ({"x": np.zeros((2, 3), complex), "y": np.array([0, 1])}, "KD0726", "complex128"),
        ({"x": np.zeros((2, 3), bool), "y": np.array([0, 1])}, "KD0726", "bool"),
        ({"x": np.zeros((2, 3, 4, 5, 6)), "y": np.array([0, 1])}, "KD0726", "shape"),
        ({"x": np.zeros((2, 3)), "y": np.array([0.0, 1.0])}, "KD0726", "float64"),
        ({"x": np.zeros((2, 3)), "y": np.array([[0], [1]])}, "KD0726", "[2, 1]"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, 1, 1])}, "KD0726", "[3]"),
        ({"x": np.zeros((2, 3)), "y": np.array([0, -1])}, "KD0717", "-1"),
        ({"x": np.zeros((2, 3)), "y": np.array([1, 2]), "classes": np.array(["a", "b"])}, "KD0717", "2 classes"),
    ],
)
def test_arrays_that_are_none_are_known_before_training(
    tmp_path: Path, arrays: dict[str, np.ndarray], code: str, words: str
) -> None:
    np.savez(tmp_path / "a.npz", **arrays)
    with pytest.raises(PlanError) as e:
        compile_source(Source("plan.kd", 'data mine = arrays("a.npz")'), tmp_path, tmp_path)
    (d,) = e.value.diagnostics
    assert d.code == code and words in d.message, d.message


def test_leftovers_beside_the_remembered_hashes_go_after_a_day(tmp_path: Path) -> None:
    """A killed process may have been writing there; a process that runs may still be."""
    cache, data = tmp_path / "cache", tmp_path / "data.bin"
    cache.mkdir()
    data.write_bytes(b"1")
    for name, age in (
        ("hashes-a.tmp", 90_000),
        ("coco-b.tmp", 90_000),
        ("hashes-c.tmp", 3_600),
        ("coco-d.npz", 90_000),
    ):
        (cache / name).touch()
        os.utime(cache / name, (time.time() - age,) * 2)
    os.utime(data, (0, 0))
    hashes = HashCache(cache)
    hashes.of_file(data)
    hashes.save()
    assert sorted(p.name for p in cache.iterdir()) == ["coco-d.npz", "hashes-c.tmp", "hashes.json"]
