"""The number of threads of a step follows from the plan, so weights do not depend on the machine's."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source

PLAN = """\
data digits = digits { limit = 256 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 128 SETTINGS }
teacher big = mlp(inputs = 64, hidden = [WIDTH, WIDTH]) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = mlp(inputs = 64, hidden = [8])
phase kd of small on digits with quick { loss = kd(student = small.logits, teacher = big.logits) }
"""


def run(folder: Path, threads: int, width: int = 2048, settings: str = "") -> dict[str, tuple[int, dict[str, Tensor]]]:
    """What each phase leaves, by name: the recorded threads, and the weights; of a process with so many threads."""
    folder.mkdir()
    (folder / "a.kd").write_text(PLAN.replace("WIDTH", str(width)).replace("SETTINGS", settings))
    command = [sys.executable, "-m", "kdplan", "run", "a.kd", "--store", "store"]
    ended = subprocess.run(command, env=os.environ | {"OMP_NUM_THREADS": str(threads)}, cwd=folder, capture_output=True)
    assert ended.returncode == 0, ended.stderr.decode()
    found = {}
    for phase in (folder / "store" / "phases").iterdir():
        name = json.loads((phase / "phase.json").read_text())["name"]
        used = json.loads((phase / "environment.json").read_text())["threads"]
        found[name] = used, load_file(phase / "weights-0-last.safetensors")
    return found


@pytest.mark.parametrize("settings", ["", " frozen = auto"])
def test_other_machines_give_the_same_bits(settings: str, tmp_path: Path) -> None:
    one, two = (run(tmp_path / str(n), n, settings=settings) for n in (1, 3))
    assert {name: used for name, (used, _) in one.items()} == {name: used for name, (used, _) in two.items()}
    assert one["big@train"][0] == 4
    for name, (_, weights) in one.items():
        assert all(torch.equal(w, two[name][1][n]) for n, w in weights.items()), name


def test_small_steps_have_one_thread_and_a_recipe_may_ask_for_more(tmp_path: Path) -> None:
    assert run(tmp_path / "small", 2, width=8)["big@train"][0] == 1
    assert run(tmp_path / "asked", 1, width=8, settings=" threads = 2")["big@train"][0] == 2


def test_threads_that_a_recipe_asks_for_are_in_the_key(tmp_path: Path) -> None:
    def key(settings: str) -> str:
        text = PLAN.replace("WIDTH", "8").replace("SETTINGS", settings)
        return compile_source(Source("a.kd", text), tmp_path).keys["big@train"].key

    assert key("") != key(" threads = 2") != key(" threads = 3")
