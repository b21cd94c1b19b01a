"""Detection from plan to table, on small images of coloured rectangles: losses, stages, a kill, precision, export."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from kdplan.cli import main
from kdplan.compile import check_text
from kdplan.runtime.export import load
from tests.data.boxes import write_boxes

ROOT = Path(__file__).parents[3]
DATA = 'data coco = coco_detection("coco", shorter = 48, longer = 64, height = 64, width = 64) { augment = [flip()] }\n'
QUICK = "recipe quick { optimizer = sgd(lr = 0.01, momentum = 0.9)  epochs = 1  batch = 4  clip = 10 }\n"
PAIR = """
model net = detector(KIND, backbone = "resnet18", classes = coco.classes, norm = batch)
teacher big = net { seed = 1  phase train on coco with quick { loss = LOSS(self) } }
student small = net
"""
SUMS = {
    "retinanet": "def LOSS(n) = n(inputs, targets).classification + n(inputs, targets).bbox_regression\n",
    "faster_rcnn": "def LOSS(n) = n(inputs, targets).objectness + n(inputs, targets).rpn_box_reg"
    " + n(inputs, targets).classifier + n(inputs, targets).box_reg\n",
}
STAGES = """
stages mimic of small from big on coco.unlabelled with quick {
  stage s1 { small.backbone.body.layer2 ~ big.backbone.body.layer2 }
  stage s2 { small.backbone.fpn[0] ~ big.backbone.fpn[0]  small.backbone.fpn[1] ~ big.backbone.fpn[1] }
  head of HEAD on coco { loss = LOSS(small)  measure on coco.test { ap50 } }
}
measure table of big, small@mimic on coco.test { ap, ap50, parameters }
export tiny = small@mimic
"""
HEADS = {"retinanet": "small.head", "faster_rcnn": "small.rpn, small.roi_heads"}


def text(kind: str, rest: str = STAGES) -> str:
    whole = DATA + QUICK + SUMS[kind] + PAIR + rest
    return whole.replace("KIND", f'"{kind}"').replace("LOSS", "total").replace("HEAD", HEADS[kind])


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    data = tmp_path_factory.mktemp("boxes")
    write_boxes(data / "coco", train=9, test=4)
    return data


@pytest.mark.parametrize("kind", ["retinanet", pytest.param("faster_rcnn", marks=pytest.mark.slow)])
def test_from_plan_to_table(kind: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    plan, store = tmp_path / "plan.kd", tmp_path / "store"
    plan.write_text(text(kind))
    given = ["--store", str(store), "--data", str(folder)]
    assert main(["run", str(plan), *given]) == 0
    numbers = {f.read_text() for f in store.glob("measures/*")}
    assert any('"ap"' in n for n in numbers) or "ap50" in capsys.readouterr().out
    weights = {json.loads((f / "phase.json").read_text())["name"]: f for f in store.glob("phases/*")}
    assert len(weights) == 4
    assert main(["export", str(plan), "tiny", "-o", str(tmp_path / "out"), *given]) == 0
    net = load(tmp_path / "out")
    boxes = net(torch.zeros(2, 3, 64, 64))
    assert boxes["boxes"].shape == (2, 300 if kind == "retinanet" else 100, 4)
    # the head was trained on a backbone that stayed what the stages made of it
    assert json.loads((tmp_path / "out/model.json").read_text())["classes"] == ["red", "blue"]


@pytest.mark.slow
def test_killed_between_random_samples(folder: Path, tmp_path: Path) -> None:
    """Faster R-CNN draws which anchors its losses are of: the draws, too, go on where they were."""
    losses = "small(inputs, targets).objectness + small(inputs, targets).rpn_box_reg"
    rest = f"phase part of small.rpn on coco with quick {{ loss = {losses} }}\n"
    plan = tmp_path / "plan.kd"
    plan.write_text(text("faster_rcnn", rest).replace("epochs = 1", "epochs = 3"))
    command = [sys.executable, "-m", "kdplan", "run", str(plan), "--data", str(folder), "--only", "part",
               "--checkpoint-seconds", "0.5", "--store"]  # fmt: skip
    env = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}

    def start(store: Path) -> subprocess.Popen[bytes]:
        return subprocess.Popen([*command, str(store)], env=env, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)

    assert start(tmp_path / "whole").wait(300) == 0
    killed, end = start(tmp_path / "broken"), time.monotonic() + 120
    checkpoints = "broken/work/*/checkpoints/step-*"
    while killed.poll() is None and time.monotonic() < end and not list(tmp_path.glob(checkpoints)):
        time.sleep(0.005)
    killed.send_signal(signal.SIGKILL)
    killed.wait()
    assert not list(tmp_path.glob("broken/phases/*")), "the kill came too late"
    assert start(tmp_path / "broken").wait(300) == 0
    left = [{f.name: f.read_bytes() for f in (tmp_path / s).glob("phases/*/weights-*")} for s in ("whole", "broken")]
    assert left[0] == left[1] and left[0]


def codes(plan: str, folder: Path) -> list[str]:
    return [d.code for d in check_text(plan, folder) if d.severity == "error"]


def test_mistakes(folder: Path) -> None:
    alone = "phase alone of small on coco with quick { loss = BODY }\n"
    table = "measure t of big on coco.test { BODY }\n"
    for rest, code in (
        (alone.replace("BODY", "cross_entropy(small.logits, labels)"), "KD0776"),
        (table.replace("BODY", "top1"), "KD0775"),
        (alone.replace("BODY", "small(inputs, targets).clasification"), "KD0501"),
        ("phase alone of small on coco.unlabelled with quick { loss = total(small) }\n", "KD0702"),
    ):
        assert set(codes(text("retinanet", rest), folder)) == {code}, rest
    trained = text("retinanet", "").replace("flip()", "random_crop(32)")
    assert codes(trained, folder) == ["KD0773"]
