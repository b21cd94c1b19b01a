"""Makes the small store that later versions must read: `python -m tests.golden.make_store FOLDER` writes it anew.

It holds two finished phases with every kind of snapshot, a measure, and a third phase that was interrupted. It is made
anew only where a format changes; the old one then goes to the tests of what is migrated or refused.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path
from typing import Any

from kdplan.cli import main
from kdplan.runtime.loop import Training

STORE = Path(__file__).with_name("store")
PLAN = """\
data digits = digits { limit = 40 }
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 2  batch = 20  ema = 0.9  keep_epochs = [1] }
recipe long { optimizer = adam(lr = 0.01)  epochs = 6  batch = 20 }
teacher big = mlp(inputs = 64, hidden = [3]) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels)  measure on digits.test { top1 } }
}
student small = mlp(inputs = 64, hidden = [2])
phase distil of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + kd(student = small.logits, teacher = big.logits)
}
phase further of small@distil on digits with long { loss = cross_entropy(small.logits, labels) }
measure table of big, big[best], small@distil, small@distil[ema] on digits.test { top1, cross_entropy }
export tiny = small@distil
"""
STOPPED = 7
"""The step of the third phase before which it is interrupted."""


def make(folder: Path) -> None:
    """Write `folder/store` by two runs in `folder`."""
    step, steps = Training.train_step, []

    def stopping(self: Training, batch: Any) -> None:
        steps.append(1)
        if len(steps) == STOPPED:
            os.kill(os.getpid(), signal.SIGINT)
        step(self, batch)

    os.chdir(folder)
    Path("a.kd").write_text(PLAN)
    shutil.rmtree("store", ignore_errors=True)
    command = ["run", "a.kd", "--store", "store"]
    assert main([*command, "--only", "distil"]) == 0
    Training.train_step = stopping  # type: ignore[method-assign]
    assert main(command) == 75


if __name__ == "__main__":
    make(Path(sys.argv[1]))
