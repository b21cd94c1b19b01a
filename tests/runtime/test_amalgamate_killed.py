"""An amalgamation killed in the phase of a layer and in the joint one ends as one that was not, bit for bit."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import pytest

from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from tests.processes import Command

PLAN = """
data digits = digits { limit = 256 }
recipe quick { optimizer = adam(lr = 0.01)  epochs = 2  batch = 64 }
verticals half of digits = random(parts = 2, seed = 0)
teacher t[v in half] = digits_net(width = 2, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
student both = digits_net(width = 3, classes = digits.classes)
amalgamate ka of both from t[*] on digits.unlabelled with quick {
  layerwise with quick { epochs = 50 }
  joint with quick { epochs = 50 }
}
measure whole of both@ka, both@ka@layerwise on digits.test { top1, cross_entropy }
"""


class Runs:
    """Runs of the plan in processes of their own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "plan.kd").write_text(PLAN)
        compiled = compile_source(Source("plan.kd", PLAN), folder)
        self.keys = {name: compiled.keys[name].key for name in compiled.plan.phases}

    def start(self, store: Path) -> Command:
        arguments = ["run", str(self.folder / "plan.kd"), "--store", str(store), "--checkpoint-seconds", "0.02"]
        with (self.folder / "output.txt").open("ab") as out:
            return Command(arguments, stdout=out, stderr=out)

    def kill_in(self, store: Path, phase: str) -> None:
        """Kills a run as soon as the phase has left a checkpoint."""
        process = self.start(store)
        end = time.monotonic() + 200
        while process.poll() is None and time.monotonic() < end and not self.inside(store, phase):
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert self.inside(store, phase), (
            f"no checkpoint in {phase}: {(self.folder / 'output.txt').read_text()[-2000:]}"
        )

    def inside(self, store: Path, phase: str) -> bool:
        key = self.keys[phase]
        return any(store.glob(f"work/{key}/checkpoints/step-*")) and not self.finished(store, phase)

    def finished(self, store: Path, phase: str) -> bool:
        return (store / "phases" / self.keys[phase] / "manifest.json").exists()


def done_at(store: Path) -> dict[str, int]:
    """Finished phases, and when each was."""
    return {f.parent.name: f.stat().st_mtime_ns for f in store.glob("phases/*/manifest.json")}


def left(store: Path) -> dict[str, bytes]:
    return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in store.glob("phases/*/weights-*")}


@pytest.mark.slow
def test_killed_in_a_layer_and_in_the_joint_phase(tmp_path: Path) -> None:
    runs = Runs(tmp_path)
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert runs.start(whole).wait(300) == 0
    runs.kill_in(broken, "ka@layer1_0_conv")
    assert not runs.finished(broken, "ka@joint")
    first = done_at(broken)
    runs.kill_in(broken, "ka@joint")
    second = done_at(broken)
    assert runs.start(broken).wait(300) == 0
    last = done_at(broken)
    assert first.items() <= second.items() <= last.items() and len(last) == 10, "no finished phase was repeated"
    assert len(second) == 9
    assert left(broken) == left(whole) and len(left(whole)) == 10
