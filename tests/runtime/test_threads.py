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


CONVOLUTIONS = """\
data digits = digits { limit = 256 }
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 1  batch = 128 }
teacher big = digits_net(width = 32, blocks = 2) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
"""


def convolved(folder: Path, **settings: str) -> tuple[subprocess.CompletedProcess[bytes], list[bytes], list[int]]:
    """A run with these settings of OpenMP: the weights and recorded threads that it leaves."""
    folder.mkdir()
    (folder / "a.kd").write_text(CONVOLUTIONS)
    command = [sys.executable, "-m", "kdplan", "run", "a.kd", "--store", "store"]
    ended = subprocess.run(command, env=os.environ | settings, cwd=folder, capture_output=True)
    phases = list((folder / "store" / "phases").iterdir())
    used = [json.loads((p / "environment.json").read_text())["threads"] for p in phases]
    return ended, [(p / "weights-0-last.safetensors").read_bytes() for p in phases], used


def test_convolutions_give_the_same_bits(tmp_path: Path) -> None:
    one, two = (convolved(tmp_path / str(n), OMP_NUM_THREADS=str(n)) for n in (1, 2))
    assert one[0].returncode == two[0].returncode == 0
    assert one[1:] == two[1:] and one[2] == [2]


@pytest.mark.parametrize(("name", "value"), [("OMP_THREAD_LIMIT", "1"), ("OMP_DYNAMIC", "TRUE")])
def test_fewer_threads_are_refused(name: str, value: str, tmp_path: Path) -> None:
    """The same key would get other bits."""
    ended, weights, _ = convolved(tmp_path / "one", **{name: value})
    assert ended.returncode == 1 and weights == []
    text = (ended.stdout + ended.stderr).decode()
    assert "KD0933" in text and f"`{name}` is `{value}`" in " ".join(text.split()) and "Traceback" not in text


def test_threads_that_a_recipe_asks_for_are_in_the_key(tmp_path: Path) -> None:
    def key(settings: str) -> str:
        text = PLAN.replace("WIDTH", "8").replace("SETTINGS", settings)
        return compile_source(Source("a.kd", text), tmp_path).keys["big@train"].key

    assert key("") != key(" threads = 2") != key(" threads = 3")
