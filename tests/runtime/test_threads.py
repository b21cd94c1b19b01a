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


CONVOLUTIONS = """\
data digits = digits { limit = 256 }
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 1  batch = 128 }
teacher big = digits_net(width = 32, blocks = 2) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
"""


def plan(width: int = 2048, settings: str = "") -> str:
    return PLAN.replace("WIDTH", str(width)).replace("SETTINGS", settings)


PLANS = {
    "plain": plan(),
    "auto": plan(settings=" frozen = auto"),
    "small": plan(width=8),
    "asked": plan(width=8, settings=" threads = 2"),
    "convolutions": CONVOLUTIONS,
}
COMMANDS = """
import sys
from kdplan.cli import main
codes = [main(["run", f"{name}.kd", "--store", name]) for name in sys.argv[1:]]
sys.exit(max(codes))
"""


def ran(folder: Path, *names: str, **settings: str) -> subprocess.CompletedProcess[bytes]:
    """The plans, run in one process with these settings of OpenMP, each into a store of its name."""
    folder.mkdir()
    for name in names:
        (folder / f"{name}.kd").write_text(PLANS[name])
    return subprocess.run(
        [sys.executable, "-c", COMMANDS, *names],
        env={**os.environ, "OMP_WAIT_POLICY": "PASSIVE", **settings},
        cwd=folder,
        capture_output=True,
        check=False,
    )


def left(store: Path) -> dict[str, tuple[int, dict[str, Tensor]]]:
    """What each phase leaves, by name: the recorded threads, and the weights."""
    found = {}
    for phase in (store / "phases").iterdir():
        name = json.loads((phase / "phase.json").read_text())["name"]
        used = json.loads((phase / "environment.json").read_text())["threads"]
        found[name] = used, load_file(phase / "weights-0-last.safetensors")
    return found


@pytest.fixture(scope="module")
def machines(tmp_path_factory: pytest.TempPathFactory) -> dict[int, Path]:
    """Number of threads -> stores of all plans, from a process with so many."""
    folders = {}
    for threads in (1, 3):
        folders[threads] = tmp_path_factory.mktemp("threads") / str(threads)
        ended = ran(folders[threads], *PLANS, OMP_NUM_THREADS=str(threads))
        assert ended.returncode == 0, ended.stderr.decode()
    return folders


@pytest.mark.parametrize(("name", "threads"), [("plain", 4), ("auto", 4), ("convolutions", 2)])
def test_other_machines_give_the_same_bits(name: str, threads: int, machines: dict[int, Path]) -> None:
    one, two = (left(folder / name) for folder in machines.values())
    assert {phase: used for phase, (used, _) in one.items()} == {phase: used for phase, (used, _) in two.items()}
    assert one["big@train"][0] == threads
    for phase, (_, weights) in one.items():
        assert all(torch.equal(w, two[phase][1][n]) for n, w in weights.items()), phase


def test_small_steps_have_one_thread_and_a_recipe_may_ask_for_more(machines: dict[int, Path]) -> None:
    assert left(machines[3] / "small")["big@train"][0] == 1
    assert left(machines[1] / "asked")["big@train"][0] == 2


@pytest.mark.parametrize(("name", "value"), [("OMP_THREAD_LIMIT", "1"), ("OMP_DYNAMIC", "TRUE")])
def test_fewer_threads_are_refused(name: str, value: str, tmp_path: Path) -> None:
    """The same key would get other bits."""
    ended = ran(tmp_path / "one", "convolutions", **{name: value})
    assert ended.returncode == 1 and left(tmp_path / "one" / "convolutions") == {}
    text = (ended.stdout + ended.stderr).decode()
    assert "KD0933" in text and f"`{name}` is `{value}`" in " ".join(text.split()) and "Traceback" not in text


def test_threads_that_a_recipe_asks_for_are_in_the_key(tmp_path: Path) -> None:
    def key(settings: str) -> str:
        text = plan(width=8, settings=settings)
        return compile_source(Source("a.kd", text), tmp_path).keys["big@train"].key

    assert key("") != key(" threads = 2") != key(" threads = 3")
