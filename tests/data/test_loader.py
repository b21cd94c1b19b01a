"""Datasets and loaders: exact resume, any number of workers, streams, nothing leaks."""

import gc
import multiprocessing
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader, Streams
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError

SHAKEN = ViewSpec("digits", augment=(transform("pad_crop", [8], {"pad": 1}), transform("flip")))


@pytest.fixture(scope="module")
def digits():
    return open_view(SHAKEN, None)


def _equal(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)


def test_batches_have_the_documented_form(digits):
    batch = next(Loader(digits, 64, 0, True).epoch(0))
    assert {k: (v.dtype, tuple(v.shape)) for k, v in batch.items()} == {
        "inputs": (torch.float32, (64, 1, 8, 8)),
        "labels": (torch.int64, (64,)),
        "indices": (torch.int64, (64,)),
    }


def test_normalisation_is_the_last_step_and_can_be_chosen():
    raw = open_view(ViewSpec("digits", normalize="none"), None)
    x = raw.batch(torch.arange(1437))["inputs"]
    assert x.min() == 0 and x.max() == 1
    standard = open_view(ViewSpec("digits"), None).batch(torch.arange(1437))["inputs"]
    assert abs(standard.mean()) < 2e-3 and abs(standard.std() - 1) < 2e-3
    own = open_view(ViewSpec("digits", normalize=((0.5,), (0.25,))), None).batch(torch.arange(1437))["inputs"]
    assert torch.allclose(own, (x - 0.5) / 0.25, atol=1e-6)


@pytest.mark.parametrize("drop_last", [False, True])
def test_training_sees_every_sample_once_an_epoch(digits, drop_last):
    loader = Loader(digits, 100, 0, True, drop_last=drop_last)
    seen = [torch.cat([b["indices"] for b in loader.epoch(e)]) for e in (0, 1)]
    assert loader.steps_per_epoch == (14 if drop_last else 15)
    assert [len(s.unique()) for s in seen] == [len(s) for s in seen] == [1400 if drop_last else 1437] * 2
    assert not torch.equal(seen[0], seen[1])


def test_any_step_can_be_the_first(digits):
    whole = list(Loader(digits, 100, 7, True).epoch(3))
    for start in (0, 1, 14):
        rest = list(Loader(digits, 100, 7, True).epoch(3, start))
        assert len(rest) == 15 - start
        assert all(map(_equal, rest, whole[start:]))


def test_a_sample_does_not_depend_on_its_batch(digits):
    small = {
        int(i): x for b in Loader(digits, 64, 0, True).epoch(2) for i, x in zip(b["indices"], b["inputs"], strict=True)
    }
    for b in Loader(digits, 1437, 0, True).epoch(2):
        assert all(torch.equal(x, small[int(i)]) for i, x in zip(b["indices"], b["inputs"], strict=True))


def test_measuring_goes_in_order_and_changes_nothing(digits):
    loader = Loader(digits, 100, 0, False, drop_last=True)
    batches = list(loader.epoch(0))
    assert torch.equal(torch.cat([b["indices"] for b in batches]), torch.arange(1437))
    plain = open_view(ViewSpec("digits"), None).batch(torch.arange(100))
    assert _equal(batches[0], plain)
    assert _equal(batches[3], list(loader.epoch(9))[3])


def test_an_eval_view_is_not_shaken_in_training_either():
    data = open_view(SHAKEN.with_(eval=True), None)
    assert torch.equal(data.batch(torch.arange(9), 1, True)["inputs"], data.batch(torch.arange(9), 2, False)["inputs"])


def test_class_subsets_are_numbered_anew():
    data = open_view(ViewSpec("digits", classes=(8, 3), split="test"), None)
    full = open_view(ViewSpec("digits", split="test"), None)
    assert data.classes == ("8", "3")
    ours = data.batch(torch.arange(len(data)))
    everything = full.batch(torch.arange(360))
    kept = [i for i in range(360) if everything["labels"][i] in (3, 8)]
    assert torch.equal(ours["inputs"], everything["inputs"][kept])
    assert ours["labels"].tolist() == [{8: 0, 3: 1}[int(everything["labels"][i])] for i in kept]


def _arrays_of(thing, seen=None):
    """Every array and tensor that can be reached from `thing`."""
    seen = set() if seen is None else seen
    todo, found = [thing], []
    while todo:
        at = todo.pop()
        if id(at) in seen or isinstance(at, type) or type(at).__name__ in ("module", "function"):
            continue
        seen.add(id(at))
        if isinstance(at, (torch.Tensor, np.ndarray)):
            found.append(at)
        else:
            todo += gc.get_referents(at)
    return found


def test_unlabelled_views_hold_no_labels():
    data = open_view(SHAKEN.with_(unlabelled=True), None)
    assert data.classes == ()
    integers = [
        a for a in _arrays_of(data) if str(a.dtype).removeprefix("torch.") in ("int64", "int32", "int16", "int8")
    ]
    assert integers == []
    assert next(Loader(data, 10, 0, True).epoch(0)).keys() == {"inputs", "indices"}
    labelled = open_view(SHAKEN, None)
    assert any(str(a.dtype) == "torch.int64" for a in _arrays_of(labelled))  # the search would find them


def test_the_global_generators_are_left_alone(digits, images, tmp_path):
    files = open_view(FILES.with_(args=(("path", str(images(tmp_path / "a"))),)), None, cache=tmp_path)
    torch.manual_seed(1)
    np.random.seed(1)
    before = torch.get_rng_state(), np.random.get_state()[1].copy()
    list(Loader(digits, 100, 0, True).epoch(0))
    list(Loader(files, 5, 0, True, workers=1).epoch(0))
    assert torch.equal(before[0], torch.get_rng_state())
    assert np.array_equal(before[1], np.random.get_state()[1])


FILES = ViewSpec(
    "image_folder",
    (("path", "a"),),
    augment=(
        transform("random_resized_crop", [16]),
        transform("flip"),
        transform("color_jitter", [0.4, 0.4, 0.4, 0.1]),
    ),
)


def test_any_number_of_workers_gives_the_same_batches(images, tmp_path):
    images(tmp_path / "a")
    data = open_view(FILES, tmp_path, cache=tmp_path)
    assert data.shape == (3, 16, 16)
    alone = [b for e in (0, 1) for b in Loader(data, 5, 3, True).epoch(e)]
    for workers in (1, 2):
        loader = Loader(data, 5, 3, True, workers=workers)
        several = [b for e in (0, 1) for b in loader.epoch(e)]
        assert len(several) == 6
        assert all(map(_equal, several, alone))
        # Left in the middle, and begun in the middle.
        half = loader.epoch(0)
        assert _equal(next(half), alone[0])
        half.close()
        assert all(map(_equal, loader.epoch(1, start=1), alone[4:]))


def test_workers_end_when_they_are_told_to(images, tmp_path):
    images(tmp_path / "a")
    loader = Loader(open_view(FILES, tmp_path, cache=tmp_path), 5, 3, True, workers=2)
    first = list(loader.epoch(0))
    begin = time.monotonic()
    loader.close()
    assert time.monotonic() - begin < 4  # five seconds is what an engine waits for one that does not listen
    assert not multiprocessing.active_children()
    assert all(map(_equal, loader.epoch(0), first))


def test_a_bad_image_in_a_worker_is_a_clear_error(images, tmp_path):
    images(tmp_path / "a")
    (tmp_path / "a" / "train" / "bee" / "2.png").write_bytes(b"no image")
    data = open_view(FILES, tmp_path, cache=tmp_path)
    with pytest.raises(PlanError, match=r"KD0731.*2\.png"):
        list(Loader(data, 5, 0, True, workers=1).epoch(0))


def test_files_measure_in_order(images, tmp_path):
    images(tmp_path / "a")
    data = open_view(FILES.with_(split="val"), tmp_path, cache=tmp_path)
    batches = list(Loader(data, 5, 0, False).epoch(0))
    assert [len(b["labels"]) for b in batches] == [5, 5, 2]
    assert torch.cat([b["labels"] for b in batches]).tolist() == [0] * 4 + [1] * 4 + [2] * 4


def test_streams_go_round_and_can_begin_anywhere(digits):
    other = open_view(ViewSpec("digits", limit=70), None)
    make = lambda: Streams({"a": Loader(digits, 100, 0, True), "b": Loader(other, 30, 0, True, stream=1)})  # noqa: E731
    whole = [s for e in (0, 1) for s in make().epoch(e)]
    assert make().steps_per_epoch == 15 and len(whole) == 30
    assert [len(s["b"]["labels"]) for s in whole[:6]] == [30, 30, 10, 30, 30, 10]
    for epoch, start in ((0, 4), (1, 0), (1, 8)):
        rest = list(make().epoch(epoch, start))
        begin = epoch * 15 + start
        assert all(_equal(r[n], w[n]) for r, w in zip(rest, whole[begin:], strict=False) for n in ("a", "b"))


def test_streams_over_one_view_are_independent(digits):
    both = Streams({"a": Loader(digits, 100, 0, True), "b": Loader(digits, 100, 0, True, stream=1)})
    first = next(both.epoch(0))
    assert not torch.equal(first["a"]["indices"], first["b"]["indices"])


def test_features_and_tokens_pass_through(tmp_path):
    np.savez(tmp_path / "f.npz", x=np.linspace(0, 1, 40).reshape(10, 4), y=np.arange(10) % 2)
    np.savez(tmp_path / "t.npz", x=np.arange(40).reshape(10, 4), y=np.arange(10) % 2)
    features = open_view(ViewSpec("arrays", (("path", "f.npz"),)), tmp_path).batch(torch.tensor([9]))
    tokens = open_view(ViewSpec("arrays", (("path", "t.npz"),)), tmp_path).batch(torch.tensor([9]))
    assert features["inputs"].dtype == torch.float32 and features["inputs"][0, 3] == 1
    assert tokens["inputs"].dtype == torch.int64 and tokens["inputs"].tolist() == [[36, 37, 38, 39]]


def test_cifar100_on_the_device(kdplan_data):
    view = ViewSpec("cifar100", split="test", augment=(transform("pad_crop", [32]), transform("flip")))
    data = open_view(view, kdplan_data)
    batch = next(Loader(data, 128, 0, True).epoch(0))
    assert batch["inputs"].shape == (128, 3, 32, 32) and len(data.classes) == 100
    assert abs(data.batch(torch.arange(2000))["inputs"].std() - 1) < 0.05


def test_workers_end_with_a_parent_that_is_killed(tmp_path: Path) -> None:
    """Killed at once after its workers are started, many times: none of them stays behind."""
    code = (
        "import os, signal, sys\n"
        "from kdplan.data.dataset import open_view; from kdplan.data.loader import Loader\n"
        "from kdplan.data.transforms import transform; from kdplan.data.view import ViewSpec\n"
        "spec = ViewSpec('image_folder', (('path', sys.argv[1]),), augment=(transform('center_crop', [8]),))\n"
        "data = open_view(spec, None)\n"
        "for i in range(12):\n"
        "    child = os.fork()\n"
        "    if child == 0:\n"
        "        signal.setitimer(signal.ITIMER_REAL, 0.004 * (i + 1))  # ends it without a handler\n"
        "        next(Loader(data, 2, 0, True, workers=2).epoch(0))\n"
        "        os.kill(os.getpid(), signal.SIGKILL)\n"
        "    os.waitpid(child, 0)\n"
    )
    for name in ("cat", "dog"):
        (tmp_path / name).mkdir()
        for i in range(4):
            Image.new("RGB", (8, 8)).save(tmp_path / name / f"{i}.png")
    # Workers hold the pipe open: the end of the output comes when the last one has gone.
    ended = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=60)
    assert ended.returncode == 0, ended.stderr
