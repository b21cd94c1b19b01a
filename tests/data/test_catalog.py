"""What is known of data sets: layouts, sizes, names, fingerprints."""

import dataclasses
import json
import os
import pickle
import subprocess
import sys
import time

import numpy as np
import pytest

from kdplan.data.catalog import SOURCES, describe, open_source
from kdplan.data.files import HashCache, Where
from kdplan.data.sources.cifar import pickled_part, read_pickle
from kdplan.data.transforms import TRANSFORMS
from kdplan.diagnostics.report import PlanError
from kdplan.ir.plan import Data, Item, Plan, View
from kdplan.ir.trust import trusting
from kdplan.passes.keys import view_content

EIGHT = [4, 2, 5, 6, 4, 9, 5, 7]  # a changed split would change what every finished run meant


def _old(path, seconds=100):
    then = time.time() - seconds
    os.utime(path, (then, then))
    return path


def test_digits_are_split_for_good():
    found = open_source("digits", {}, None)
    train, test = found.parts["train"], found.parts["test"]
    assert train.inputs().shape == (1437, 1, 8, 8) and test.inputs().shape == (360, 1, 8, 8)
    assert np.bincount(test.labels()).tolist() == [36, 37, 35, 37, 36, 36, 36, 36, 35, 36]
    both = np.concatenate([train.inputs(), test.inputs()])
    assert len(np.unique(both.reshape(1797, -1), axis=0)) == 1797  # no image is in both, and none is lost
    assert test.labels()[:8].tolist() == EIGHT


def test_digits_are_those_of_scikit_learn():
    from sklearn.datasets import load_digits

    ours = open_source("digits", {}, None)
    sums = sorted(int(x.sum()) for p in ours.parts.values() for x in (p.inputs().astype(int) * 16 + 127) // 255)
    assert sums == sorted(load_digits().images.sum((1, 2)).astype(int).tolist())


def test_describing_needs_neither_torch_nor_sklearn():
    code = (
        "import sys; from kdplan.data.catalog import describe; import kdplan.data.select, kdplan.data.transforms;"
        "describe('digits', {}, None); print([m for m in ('torch', 'sklearn', 'scipy') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_table_documents_every_source():
    for name, spec in SOURCES.items():
        assert spec.name == name and spec.doc and spec.layout
        assert all(p.doc for p in spec.params)


def test_a_new_version_of_a_reader_is_new_content(monkeypatch):
    spec = SOURCES["digits"]
    before = describe("digits", {}, None).fingerprint
    monkeypatch.setitem(SOURCES, "digits", dataclasses.replace(spec, version=spec.version + 1))
    assert describe("digits", {}, None).fingerprint != before


def test_a_new_version_of_a_transform_is_new_content(monkeypatch):
    plan = Plan(data={"d": Data("d", Item("digits"), [Item("flip")]), "plain": Data("plain", Item("digits"))})
    before = {name: view_content(plan.data[name], View(name)) for name in plan.data}
    monkeypatch.setitem(TRANSFORMS, "flip", dataclasses.replace(TRANSFORMS["flip"], version=2))
    assert [name for name in plan.data if view_content(plan.data[name], View(name)) != before[name]] == ["d"]


def test_cifar100(kdplan_data):
    info = describe("cifar100", {}, kdplan_data)
    assert info.splits == {"train": 50000, "test": 10000} and info.shape == (3, 32, 32)
    assert len(info.classes) == 100 and len(info.superclasses) == 20
    assert sorted(c for m in info.superclasses.values() for c in m) == list(info.classes)
    part = open_source("cifar100", {}, kdplan_data).parts["test"]
    assert np.bincount(part.labels()).tolist() == [100] * 100
    records = np.fromfile(kdplan_data / "cifar-100-binary" / "test.bin", np.uint8).reshape(-1, 3074)
    names = list(info.superclasses)
    assert all(info.classes[f] in info.superclasses[names[c]] for c, f in records[:, :2])
    assert np.array_equal(part.inputs()[7].ravel(), records[7, 2:])


def test_fashion_mnist(kdplan_data):
    info = describe("fashion_mnist", {}, kdplan_data)
    assert info.splits == {"train": 60000, "test": 10000} and info.shape == (1, 28, 28)
    part = open_source("fashion_mnist", {}, kdplan_data).parts["train"]
    pixels = part.inputs() / 255.0
    assert np.bincount(part.labels()).tolist() == [6000] * 10
    assert abs(pixels.mean() - info.mean[0]) < 1e-3 and abs(pixels.std() - info.std[0]) < 1e-3


@pytest.mark.parametrize("zipped", [False, True])
def test_mnist_layout(tmp_path, zipped, mnist):
    mnist(tmp_path, zipped)
    found = open_source("mnist", {}, tmp_path)
    assert {n: p.size for n, p in found.parts.items()} == {"train": 6, "test": 3}
    assert found.parts["train"].inputs()[0, 0, 0, :3].tolist() == [0, 1, 2]
    assert found.parts["test"].labels().tolist() == [0, 1, 2]


def test_svhn_layout(tmp_path):
    from scipy.io import savemat

    (tmp_path / "svhn").mkdir()
    pixels = np.random.default_rng(0).integers(0, 256, (32, 32, 3, 5), dtype=np.uint8)
    for split in ("train", "test"):
        y = np.array([[10], [1], [2], [9], [10]])
        savemat(tmp_path / "svhn" / f"{split}_32x32.mat", {"X": pixels, "y": y}, do_compression=True)
    found = open_source("svhn", {}, tmp_path)
    assert found.parts["train"].size == 5 and found.parts["train"].labels().tolist() == [0, 1, 2, 9, 0]
    assert np.array_equal(found.parts["test"].inputs()[2], pixels[:, :, :, 2].transpose(2, 0, 1))


def test_pickles_may_hold_arrays_only(tmp_path):
    good = tmp_path / "good"
    good.write_bytes(pickle.dumps({b"data": np.arange(6, dtype=np.uint8), b"fine_labels": [1, 2]}, protocol=2))
    found = read_pickle(good, Where(None))
    assert found["data"].tolist() == [0, 1, 2, 3, 4, 5] and found["fine_labels"] == [1, 2]
    bad = tmp_path / "bad"
    bad.write_bytes(b"cos\nsystem\n(S'touch " + str(tmp_path / "ran").encode() + b"'\ntR.")
    with pytest.raises(PlanError, match=r"posix.system|os.system"):
        read_pickle(bad, Where(None))
    assert not (tmp_path / "ran").exists()


def test_pickled_batches_are_joined(tmp_path):
    paths = (tmp_path / "1", tmp_path / "2")
    pixels = np.random.default_rng(0).integers(0, 256, (4, 3072), dtype=np.uint8)
    for i, path in enumerate(paths):
        content = {b"data": pixels[2 * i : 2 * i + 2], b"labels": [i, 5]}
        path.write_bytes(pickle.dumps(content, protocol=2))
    part = pickled_part(paths, "labels", Where(None), 4)
    assert part.labels().tolist() == [0, 5, 1, 5]
    assert np.array_equal(part.inputs(), pixels.reshape(4, 3, 32, 32))


def test_cifar10_in_its_binary_layout(tmp_path):
    folder = tmp_path / "cifar-10-batches-bin"
    folder.mkdir()
    for name in [*(f"data_batch_{i}" for i in range(1, 6)), "test_batch"]:
        with (folder / f"{name}.bin").open("wb") as file:
            file.write(bytes([7]) + bytes(range(256)))
            file.truncate(10000 * 3073)  # the rest is a hole, which reads as zeros
    found = open_source("cifar10", {}, tmp_path)
    assert {n: p.size for n, p in found.parts.items()} == {"train": 50000, "test": 10000}
    labels = found.parts["train"].labels()
    assert np.flatnonzero(labels).tolist() == [0, 10000, 20000, 30000, 40000] and labels.max() == 7
    assert found.parts["test"].inputs()[0, 0, :8].ravel().tolist() == list(range(256))


def test_image_folder_with_and_without_splits(tmp_path, images):
    images(tmp_path / "a")
    images(tmp_path / "b", splits=("",))
    a = describe("image_folder", {"path": "a"}, tmp_path, cache=tmp_path)
    b = describe("image_folder", {"path": str(tmp_path / "b")}, None, cache=tmp_path)
    assert a.splits == {"train": 12, "val": 12} and a.classes == ("ant", "bee", "cat") and a.shape is None
    assert b.splits == {"train": 12}
    (tmp_path / "a").rename(tmp_path / "imagenet")
    assert describe("imagenet", {}, tmp_path, cache=tmp_path).splits == a.splits


def test_arrays(tmp_path):
    x = np.random.default_rng(0).integers(0, 256, (10, 6, 6, 3), dtype=np.uint8)
    np.savez(tmp_path / "a.npz", train_x=x, train_y=np.arange(10) % 3, test_x=x[:4], test_y=np.zeros(4, int))
    np.savez_compressed(tmp_path / "b.npz", inputs=x[:, :, :, 0], labels=np.arange(10) % 2, classes=["no", "yes"])
    np.save(tmp_path / "c.npy", np.ones((5, 7), np.float64))
    a = describe("arrays", {"path": "a.npz"}, tmp_path)
    assert a.splits == {"train": 10, "test": 4} and a.shape == (3, 6, 6) and a.classes == ("0", "1", "2")
    found = open_source("arrays", {"path": "a.npz"}, tmp_path).parts["test"].inputs()
    assert np.array_equal(found, x[:4].transpose(0, 3, 1, 2))
    b = describe("arrays", {"path": "b.npz"}, tmp_path)
    assert b.shape == (1, 6, 6) and b.classes == ("no", "yes")
    c = describe("arrays", {"path": "c.npy"}, tmp_path)
    assert c.task == "unlabelled" and c.shape == (7,) and c.classes == ()


USER = """
from dataclasses import dataclass
import numpy as np

def make(n=6, shift=0):
    x = (np.arange(n * 16).reshape(n, 4, 4) + shift).astype(np.uint8)
    return {"train": (x, np.arange(n) % 2), "test": (x[:2], [0, 1]), "classes": ["even", "odd"]}

@dataclass
class Given:
    train: tuple
    mean: float = 0.5
    std: float = 0.25

def dataclass_too():
    return Given((np.zeros((3, 2, 4, 4), np.float32), np.zeros(3, int)))
"""


def test_a_users_function(tmp_path):
    (tmp_path / "mine.py").write_text(USER)
    name = f"{tmp_path / 'mine.py'}:make"
    a = describe("source", {"function": name}, None)
    assert a.splits == {"train": 6, "test": 2} and a.classes == ("even", "odd") and a.shape == (1, 4, 4)
    b = describe("source", {"function": name, "n": 8}, None)
    assert b.splits["train"] == 8
    c = describe("source", {"function": name, "shift": 1}, None)
    assert len({a.fingerprint, b.fingerprint, c.fingerprint}) == 3
    d = describe("source", {"function": f"{tmp_path / 'mine.py'}:dataclass_too"}, None)
    assert d.mean == (0.5,) and d.classes == ("0",)


def test_a_users_package_that_is_installed(tmp_path, monkeypatch):
    (tmp_path / "mine_as_module.py").write_text(USER)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    with trusting(["mine_as_module"]), pytest.raises(PlanError, match=r"KD0718: .* No module named"):
        describe("source", {"function": "mine_as_module:make"}, None)  # the working folder holds no packages
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(PlanError, match="KD1003"):
        describe("source", {"function": "mine_as_module:make"}, None)
    with trusting(["mine_as_module"]):
        assert describe("source", {"function": "mine_as_module:make"}, None).splits["test"] == 2
    assert sys.path[1:] == before


def test_fingerprints_follow_content_not_places(tmp_path):
    x = np.zeros((4, 2, 2), np.uint8)
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        np.savez(tmp_path / name / "same.npz", x=x)
        _old(tmp_path / name / "same.npz")
    prints = [describe("arrays", {"path": f"{n}/same.npz"}, tmp_path, cache=tmp_path).fingerprint for n in ("a", "b")]
    assert prints[0] == prints[1]
    x[3] = 1
    np.savez(tmp_path / "a" / "same.npz", x=x)
    _old(tmp_path / "a" / "same.npz", 50)
    assert describe("arrays", {"path": "a/same.npz"}, tmp_path, cache=tmp_path).fingerprint != prints[0]


def test_hashes_are_computed_once(tmp_path, monkeypatch):
    path = _old((tmp_path / "x").write_text("content") and tmp_path / "x")
    cache = HashCache(tmp_path)
    first = cache.of_file(path)
    cache.save()
    assert len(json.loads((tmp_path / "hashes.json").read_text())) == 1
    monkeypatch.setattr("kdplan.data.files.hash_file", lambda p: pytest.fail("hashed again"))
    assert HashCache(tmp_path).of_file(path) == first


@pytest.mark.parametrize("change", ["touch", "replace", "grow", "fresh", "damaged memory"])
def test_hashes_are_computed_again_when_in_doubt(tmp_path, change):
    path = tmp_path / "x"
    path.write_text("content")
    if change != "fresh":
        _old(path)
    cache = HashCache(tmp_path)
    first = cache.of_file(path)
    cache.save()
    if change == "touch":
        _old(path, 50)
        path.write_text("CONTENT")
    elif change == "replace":
        stat = path.stat()
        (tmp_path / "y").write_text("CONTENT")
        os.utime(tmp_path / "y", ns=(stat.st_atime_ns, stat.st_mtime_ns))
        (tmp_path / "y").replace(path)
    elif change == "grow":
        path.write_text("content, more")
        _old(path)
    elif change == "fresh":
        stat = path.stat()
        path.write_text("CONTENT")
        os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    else:
        (tmp_path / "hashes.json").write_text("{not json")
        assert HashCache(tmp_path).of_file(path) == first
        return
    assert HashCache(tmp_path).of_file(path) != first


def test_a_cache_that_cannot_be_written_is_no_error(tmp_path):
    (tmp_path / "file").write_text("in the way")
    _old(tmp_path / "file")
    cache = HashCache(tmp_path / "file" / "folder")
    assert len(cache.of_file(tmp_path / "file")) == 64
    cache.save()


def test_a_tree_is_remembered_as_one(tmp_path, images):
    images(tmp_path / "a")
    for at, _, files in os.walk(tmp_path / "a"):
        for f in files:
            _old(os.path.join(at, f))
    first = describe("image_folder", {"path": "a"}, tmp_path, cache=tmp_path).fingerprint
    assert len(json.loads((tmp_path / "hashes.json").read_text())) == 1
    os.rename(tmp_path / "a" / "train" / "ant" / "0.png", tmp_path / "a" / "train" / "ant" / "9.png")
    assert describe("image_folder", {"path": "a"}, tmp_path, cache=tmp_path).fingerprint != first
