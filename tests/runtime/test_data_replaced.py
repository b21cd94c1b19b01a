"""A data file that is replaced during a run: no artifact stands under the key of another content."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from kdplan.cli import main
from kdplan.compile import compile_source
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.runtime.execute import run_plan
from kdplan.runtime.loop import Training
from kdplan.runtime.measures import compute
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store

IMAGES = """\
data own = image_folder("images")
recipe quick { optimizer = sgd(lr = 0.1)  steps = 4  batch = 4 }
student small = digits_net(width = 2, channels = 3, classes = 2)
phase one of small on own with quick { loss = cross_entropy(small.logits, labels) }
phase two of small@one on own with quick { loss = cross_entropy(small.logits, labels) }
"""
ARRAYS = IMAGES.replace('image_folder("images")', 'arrays("own.npz")')


def image(path: Path, value: int) -> None:
    """Replaced as a whole, with another time stamp, as programs do."""
    path.parent.mkdir(parents=True, exist_ok=True)
    new = path.with_suffix(".new")
    Image.fromarray(np.full((8, 8, 3), value, np.uint8)).save(new, "png")
    os.utime(new, (1e9 + value, 1e9 + value))
    os.replace(new, path)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for split in ("train", "test"):
        for number in range(8):
            image(tmp_path / "images" / split / "ab"[number % 2] / f"{number}.png", 20 * number)
    (tmp_path / "a.kd").write_text(IMAGES)
    return tmp_path


def artifacts(store: Path) -> set[str]:
    """The keys of finished phases, with the hashes of their weights."""
    return {f"{p.parent.name} {p.read_text()}" for p in store.glob("phases/*/manifest.json")}


def test_a_file_replaced_while_a_phase_trains(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """The phase fails; the next command trains what the new content needs, as a run in a new store does."""
    step, steps = Training.train_step, []

    def replacing(self: Training, batch: Any) -> None:
        steps.append(1)
        if len(steps) == 6:  # of the second phase
            image(folder / "images" / "train" / "a" / "0.png", 255)
        step(self, batch)

    with monkeypatch.context() as patch:
        patch.setattr(Training, "train_step", replacing)
        assert main(["run", "a.kd", "--store", "store", "--data", str(folder)]) == 1
    printed = capsys.readouterr()
    assert "KD0829" in printed.out + printed.err
    before = artifacts(folder / "store")
    assert len(before) == 1 and list((folder / "store" / "work").glob("*")) == []
    assert main(["run", "a.kd", "--store", "store", "--data", str(folder)]) == 0
    assert main(["run", "a.kd", "--store", "fresh", "--data", str(folder)]) == 0
    keys = {line.split()[0] for line in artifacts(folder / "store") - before}
    assert keys == {line.split()[0] for line in artifacts(folder / "fresh")} and len(keys) == 2


def test_arrays_replaced_before_a_phase(folder: Path) -> None:
    def save(value: float) -> None:
        inputs = np.full((8, 3, 8, 8), value, np.float32)
        np.savez(folder / "own.npz", inputs=inputs, labels=np.arange(8) % 2)

    save(0.5)
    ready = compile_source(Source("a.kd", ARRAYS), folder, folder)
    save(0.25)
    result = run_plan(ready.plan, ready.planned, ready.keys, Store(folder / "s"), RunOptions("cpu", data_root=folder))
    (problem,) = [p for p in result.failed.values() if isinstance(p, PlanError)][:1]
    assert problem.diagnostics[0].code == "KD0829" and artifacts(folder / "s") == set()


def test_a_file_replaced_while_it_is_measured(
    folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (folder / "a.kd").write_text(IMAGES + "measure m of small@one on own.test { top1 }\n")
    evaluate = compute.evaluate

    def replacing(*arguments: Any, **named: Any) -> Any:
        image(folder / "images" / "test" / "b" / "1.png", 255)
        return evaluate(*arguments, **named)

    monkeypatch.setattr(compute, "evaluate", replacing)
    assert main(["run", "a.kd", "--store", "store", "--data", str(folder)]) != 0
    printed = capsys.readouterr()
    assert (
        "KD0829" in printed.out + printed.err and "a measure may have read either content" in printed.out + printed.err
    )
    assert list((folder / "store").glob("measures/*")) == []
