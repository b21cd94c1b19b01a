"""Twenty specialists and one student, killed twice on the way."""

from __future__ import annotations

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest

from tests.processes import Command

PLAN = """
data things = arrays("things.npz")
recipe quick { optimizer = adagrad(lr = 0.05)  epochs = 40  batch = 16 }
verticals V of things = random(parts = 20)
teacher specialist[v in V] = digits_net(classes = v, width = 2) {
  phase train on things[v] with quick { loss = sigmoid_cross_entropy(self.logits, labels) }
}
student small = digits_net(classes = things.classes, width = 2) {
  head = fc(16) -> sc(4, by = V)
  logit_scale = self_paced(by = V)
  phase d on things with quick {
    epochs = 3
    loss   = sigmoid_cross_entropy(self.logits, top(sigmoid(specialist[V(labels)].logits), 2))
  }
}
measure table of small@d, specialist[*] on things.test over V { pvap, top1 }
"""


def write_things(path: Path, classes: int = 45, images: int = 8) -> None:
    """Noise around one image a class."""
    rng = np.random.default_rng(0)
    y = np.arange(classes * images) % classes
    means = rng.integers(60, 190, (classes, 1, 8, 8))
    x = np.clip(means[y] + rng.integers(-50, 50, (len(y), 1, 8, 8)), 0, 255).astype(np.uint8)
    np.savez(path, train_x=x, train_y=y, test_x=x[: 2 * classes], test_y=y[: 2 * classes])


class Runs:
    """Runs of the plan in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plan.kd").write_text(PLAN)
        write_things(folder / "things.npz")

    def start(self, store: Path) -> Command:
        arguments = ["run", str(self.folder / "plan.kd"), "--data", str(self.folder), "--store", str(store)]
        with (self.folder / "output.txt").open("ab") as out:
            return Command([*arguments, "--checkpoint-seconds", "0.02"], stdout=out, stderr=out)

    def kill_in(self, store: Path, finished: int) -> None:
        """Kills a run as soon as the phase after so many finished ones has left a checkpoint."""
        process = self.start(store)
        end = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < end and not self.inside(store, finished):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert self.inside(store, finished), f"no checkpoint after {finished} phases: {self.output()}"

    def output(self) -> str:
        return (self.folder / "output.txt").read_text()[-2000:]

    @staticmethod
    def inside(store: Path, finished: int) -> bool:
        done = done_at(store)
        working = {f.parents[1].name for f in store.glob("work/*/checkpoints/step-*")}
        return len(done) == finished and bool(working - set(done))


def done_at(store: Path) -> dict[str, int]:
    """Finished phases, and when each was."""
    return {f.parent.name: f.stat().st_mtime_ns for f in store.glob("phases/*/manifest.json")}


def left(store: Path) -> dict[str, bytes]:
    return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in store.glob("phases/*/weights-*")}


def numbers(store: Path) -> dict[str, object]:
    return {f.name: json.loads(f.read_text())["value"] for f in store.rglob("measures/**/*.json")}


@pytest.mark.slow
def test_killed_in_the_seventh_specialist_and_in_the_student(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert runs.start(whole).wait(300) == 0, runs.output()
    runs.kill_in(broken, finished=6)
    six = done_at(broken)
    runs.kill_in(broken, finished=20)
    twenty = done_at(broken)
    assert runs.start(broken).wait(300) == 0, runs.output()
    last = done_at(broken)
    assert len(last) == 21 and six.items() <= twenty.items() <= last.items(), "no finished phase was repeated"
    assert left(broken) == left(whole) and len(left(whole)) == 21
    assert numbers(broken) == numbers(whole) and len(numbers(whole)) == 2 * 2 * 20
