"""Small user files and the plans that use them, run through the command line in this process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from kdplan.cli import main

HEAD = "import sys\n\nimport torch\nimport torch.nn.functional as F\nfrom torch import nn\n\n"
NETWORK = """use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.01)  steps = 3  batch = 32 }
student small = my.Net()
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
"""
LOSS = """use "mine.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.01)  steps = 30  batch = 32 }
student small = digits_net(width = 2)
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) + my.f(small.logits) }
"""
DATA = """use "mine.py" as my
data own = source("mine.py:make")
recipe quick { optimizer = sgd(lr = 0.01)  steps = 3  batch = 32 }
student small = mlp(inputs = 4)
phase alone of small on own with quick { loss = cross_entropy(small.logits, labels) }
"""


@dataclass
class Outcome:
    """What a command gave."""

    exit_code: int
    output: str


def network(forward: str, before: str = "") -> str:
    """A file with a network `Net` whose `forward` has these lines, after `f` [B, 10] is computed from `x`."""
    lines = "".join(f"        {line}\n" for line in forward.splitlines())
    return (
        f"{before}class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n"
        "        self.fc = nn.Linear(64, 10)\n\n    def forward(self, x):\n        f = self.fc(x.flatten(1))\n"
        f"{lines}        return f\n"
    )


def constructor(line: str) -> str:
    """A file with a network whose constructor has this line."""
    return f"class Net(nn.Module):\n    def __init__(self):\n        super().__init__()\n        {line}\n"


def command(folder: Path, code: str, plan: str, name: str, capsys: pytest.CaptureFixture[str]) -> Outcome:
    """Runs a command on a plan beside the file `mine.py`."""
    write(folder, code, plan)
    arguments = [name, str(folder / "plan.kd")]
    exit_code = main([*arguments, "--store", str(folder / "store")] if name == "run" else arguments)
    caught = capsys.readouterr()
    return Outcome(exit_code, caught.out + caught.err)


def in_child(folder: Path, code: str, plan: str, name: str = "check") -> Outcome:
    """The same in a process of its own, which may die."""
    write(folder, code, plan)
    arguments = [sys.executable, "-m", "kdplan", name, str(folder / "plan.kd")]
    arguments += ["--store", str(folder / "store")] if name == "run" else []
    done = subprocess.run(arguments, capture_output=True, text=True, env=dict(os.environ), timeout=300)
    return Outcome(done.returncode, done.stdout + done.stderr)


_SERVER = """
import json, os, sys, time
import kdplan.graph.inspect, kdplan.runtime.phase
from kdplan.cli import main
from kdplan.graph import fingerprint

for line in sys.stdin:
    child = os.fork()
    if child == 0:
        os.dup2(2, 1)
        fingerprint._STARTED = time.time() + 1
        os._exit(main(json.loads(line)))
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


class Processes:
    """Commands, each in a process of its own that has read no user's file; imports are shared."""

    def __init__(self, folder: Path) -> None:
        paths = os.pathsep.join([str(folder), os.getcwd(), os.environ.get("PYTHONPATH", "")])
        self._server = subprocess.Popen(
            [sys.executable, "-c", _SERVER], cwd=folder, env={**os.environ, "PYTHONPATH": paths}, text=True,
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
        )  # fmt: skip

    def __call__(self, *arguments: str) -> int:
        """The exit code of a command; negative for a signal."""
        assert self._server.stdin is not None and self._server.stdout is not None
        print(json.dumps(arguments), file=self._server.stdin, flush=True)
        return int(self._server.stdout.readline())

    def close(self) -> None:
        """End the shared process."""
        self._server.communicate("")


def write(folder: Path, code: str, plan: str) -> None:
    """Writes `mine.py` and `plan.kd`."""
    (folder / "mine.py").write_text(HEAD + code)
    (folder / "plan.kd").write_text(plan)


def line_of(code: str, part: str) -> int:
    """The line of `mine.py` that has `part`."""
    return next(i for i, line in enumerate((HEAD + code).splitlines(), 1) if part in line)
