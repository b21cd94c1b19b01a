"""A ladder of stages: killed on any rung it goes on exactly, and its adapters are in nothing that it leaves."""

from __future__ import annotations

import json
import random
import signal
import time
from pathlib import Path

import torch
from safetensors.numpy import load_file

from kdplan.cli import main
from kdplan.nn.models import create
from tests.processes import DEVNULL, Command

PLAN = """
data digits = digits { augment = [pad_crop(8, pad = 1)] }
recipe quick { optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = 1  batch = 64 }
recipe slowly {
  optimizer = sgd(lr = 0.01, momentum = 0.9)
  schedule  = plateau(factor = 0.1, patience = 1, until = 1e-5, min_delta = 0.02)
  epochs    = 60
  batch     = 32
}
teacher big = digits_net(width = 6) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
student small = digits_net(width = 3)
def distance(a, b) = squared_l2(a, b, per = place)
stages mimic of small from big on digits with slowly {
  stages = auto
  match  = distance
  head with quick { loss = cross_entropy(small.logits, labels) }
}
export tiny = small@mimic
"""


def start(plan: Path, store: Path) -> Command:
    arguments = ["run", str(plan), "--store", str(store), "--checkpoint-seconds", "0.05"]
    return Command(arguments, stdout=DEVNULL, stderr=DEVNULL)


def left(store: Path) -> dict[str, bytes]:
    return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in store.glob("phases/*/weights-*")}


def test_killed_on_the_way_up(tmp_path: Path) -> None:
    plan, whole, broken = tmp_path / "plan.kd", tmp_path / "whole", tmp_path / "broken"
    plan.write_text(PLAN)
    assert start(plan, whole).wait(120) == 0
    draw, hit = random.Random(3), []
    for _ in range(4):
        process = start(plan, broken)
        seen = len(list(broken.glob("work/*/checkpoints/*")))
        end = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < end:
            checkpoints = len(list(broken.glob("work/*/checkpoints/*")))
            if checkpoints and checkpoints != seen:
                break
            time.sleep(0.005)
        time.sleep(draw.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.wait()
        hit.append(len(list(broken.glob("phases/*"))))
    assert hit[0] < 4, "the first kill came too late to show anything"
    assert start(plan, broken).wait(120) == 0
    assert left(whole) == left(broken)
    assert len({f.partition("/")[0] for f in left(whole)}) == 4


def test_a_plateau_ends_a_stage_early(tmp_path: Path) -> None:
    plan, store = tmp_path / "plan.kd", tmp_path / "store"
    plan.write_text(PLAN)
    assert main(["run", str(plan), "--store", str(store)]) == 0
    lengths = [json.loads(f.read_text())["steps"] for f in store.glob("phases/*/summary.json")]
    assert len(lengths) == 4 and max(lengths) < 60 * 45, "45 steps an epoch"


def test_what_is_exported_is_the_plain_student(tmp_path: Path) -> None:
    plan, store, out = tmp_path / "plan.kd", tmp_path / "store", tmp_path / "tiny"
    plan.write_text(PLAN.replace("epochs    = 60", "epochs    = 1"))
    assert main(["run", str(plan), "--store", str(store)]) == 0
    assert main(["export", str(plan), "tiny", "--store", str(store), "-o", str(out)]) == 0
    weights = load_file(next(out.rglob("*.safetensors")))
    plain = create("digits_net", width=3, classes=10)
    assert {n: w.shape for n, w in weights.items()} == {n: tuple(w.shape) for n, w in plain.state_dict().items()}
    assert not any("splice" in n or "conv1x1" in n for f in store.glob("phases/*/weights-*") for n in load_file(f))
    assert torch.isfinite(torch.tensor(weights["fc.weight"])).all()
