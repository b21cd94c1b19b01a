"""Trains one small phase in processes of its own, which are interrupted and killed.

    python train_small.py run STORE OPTIONS
        trains to the end
    python train_small.py kill WHOLE STORE OPTIONS SEED N
        the same into WHOLE, and into STORE with N kills at random moments; prints the last checkpoints' steps

Processes are forked from one that has only loaded the libraries, so that each lives for training and nothing else.
"""

from __future__ import annotations

import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch
import torch._dynamo  # optimizers load it at their first step: here once, before processes are forked

from kdplan.data.dataset import open_view
from kdplan.data.view import ViewSpec
from kdplan.ir.plan import Data, Item
from kdplan.runtime import saving
from kdplan.runtime.events import NoEvents
from kdplan.runtime.execute import run_plan
from kdplan.runtime.options import RunOptions
from kdplan.runtime.phase import run_phase  # noqa: F401  loaded before processes are forked
from kdplan.runtime.store import Store
from tests.runtime.small import assemble, digits_plan, keys, planned


class Started(NoEvents):
    """Writes a byte to a pipe when training begins, and at every checkpoint."""

    def __init__(self, pipe: int | None) -> None:
        self.pipe = pipe

    def phase_started(self, name: str, key: str, total_steps: int | None, start_step: int) -> None:
        if self.pipe is not None:
            os.write(self.pipe, b".")

    def checkpointed(self, name: str, step: int) -> None:
        if self.pipe is not None:
            os.write(self.pipe, b".")


def run(store: str, options: str = "{}", pipe: int | None = None) -> int:
    torch.set_num_threads(1)
    settings = {"epochs": 40, "batch": 64, "ema": 0.9, "keep_epochs": [3, 30], **json.loads(options)}
    every = settings.pop("checkpoint_seconds", 0.04)
    saving.AT_ONCE = settings.pop("at_once", saving.AT_ONCE)
    settings["optimizer"] = Item("adam", {"lr": 0.01})
    settings["schedule"] = Item("plateau", {"patience": 2})
    folder = settings.pop("folder", None)
    plan = digits_plan(**settings)
    if folder is not None:
        plan.data["d"] = Data("d", Item("image_folder", {"path": folder}), [Item("pad_crop", {"size": 8, "pad": 1})])
        plan.networks["big"].architecture.arguments["channels"] = 3
        plan.phases["train"].validations[0].view.split = "train"
    del plan.phases["kd"]
    chosen = RunOptions(device="cpu", checkpoint_seconds=every)
    result = run_plan(plan, planned(plan, {}), keys(plan), Store(Path(store)), chosen, Started(pipe), assemble=assemble)
    for problem in result.failed.values():
        print(problem, file=sys.stderr)
    return result.exit_code


def kill(whole: str, store: str, options: str, seed: str, number: str) -> int:
    draw = random.Random(int(seed))
    at = []
    open_view(ViewSpec("digits"), None)  # loads what reads the data
    child = os.fork()
    if child == 0:
        # loader workers change nothing: the run that is not killed does without
        os._exit(run(whole, json.dumps(json.loads(options) | {"workers": 0})))
    assert os.waitpid(child, 0)[1] == 0
    for _ in range(int(number)):
        ours, theirs = os.pipe()
        child = os.fork()
        if child == 0:
            os._exit(run(store, options, theirs))
        os.close(theirs)
        for _ in range(draw.randint(1, 3)):
            os.read(ours, 1)  # training begins or a checkpoint is written, or the process has ended
        time.sleep(draw.uniform(0, 0.1))
        os.kill(child, signal.SIGKILL)
        ended = os.waitpid(child, 0)[1]
        os.close(ours)
        if ended == signal.SIGKILL:
            steps = [int(s.name.removeprefix("step-")) for s in Path(store).glob("work/*/checkpoints/step-*")]
            at.append(max(steps, default=0))
    print(json.dumps(at))
    return run(store, options)


if __name__ == "__main__":
    sys.exit(kill(*sys.argv[2:]) if sys.argv[1] == "kill" else run(sys.argv[2], sys.argv[3]))
