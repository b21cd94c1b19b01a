"""Runs of one command on several processes, as `torchrun` starts them, without loading the libraries for each.

    python -m tests.scale.together RUNS

RUNS is JSON: a list of `{"ranks": 2, "arguments": ["run", "a.kd"], "stop": {"signal": 9, "rank": 1, "after": 0.05}}`.
Each run is stopped, if it says so, when a new checkpoint is seen and `after` more seconds have passed; a signal without
a rank goes to all. `environment` has variables of all ranks, `of` other arguments of single ranks, and `drift` the rank
whose weights change by themselves.
Prints the exit codes of each run's ranks.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from hashlib import sha256
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]


def together(runs: list[dict[str, Any]], folder: Path, timeout: float = 300) -> list[list[int]]:
    """The exit codes of each run's ranks, in `folder`; what they print goes to files `out-<run>-<rank>` there."""
    command = [sys.executable, "-m", "tests.scale.together", json.dumps(runs)]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    ended = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=timeout)
    assert ended.returncode == 0, ended.stderr
    codes: list[list[int]] = json.loads(ended.stdout.splitlines()[-1])
    return codes


def run(plan: str, ranks: int, store: str, *more: str, **settings: Any) -> dict[str, Any]:
    """One of RUNS: the plan `<plan>.kd` into a store."""
    return {"ranks": ranks, "arguments": ["run", f"{plan}.kd", "--store", store, *more], **settings}


class Session:
    """Runs by name, in a folder with their plans, and how they ended."""

    def __init__(
        self, folder: Path, files: dict[str, str], runs: dict[str, dict[str, Any]], timeout: float = 300
    ) -> None:
        self.folder, self.names = folder, [*runs]
        for name, text in files.items():
            (folder / name).write_text(text)
        self.codes = dict(zip(runs, together([*runs.values()], folder, timeout), strict=True))

    def said(self, name: str, rank: int = 0) -> str:
        """What a rank printed."""
        return (self.folder / f"out-{self.names.index(name)}-{rank}").read_text()


def hashes(store: Path) -> dict[str, str]:
    """Of each phase, a hash of all tensors in its artifact: weights, averages, state of the optimizer."""
    named = {}
    for phase in sorted((store / "phases").iterdir()):
        files = sorted(phase.glob("*.safetensors"))
        assert files
        hashed = sha256(b"".join(f.name.encode() + f.read_bytes() for f in files))
        named[json.loads((phase / "phase.json").read_text())["name"]] = hashed.hexdigest()
    return named


def farthest(store: Path, other: Path) -> float:
    """How far the weights of the phases in two stores are apart, relative to the largest number of each tensor."""
    from safetensors.torch import load_file

    far = 0.0
    files = sorted(store.glob("phases/*/weights-*.safetensors"))
    assert files
    for file in files:
        one, two = load_file(file), load_file(other / file.relative_to(store))
        assert one.keys() == two.keys()
        for name, tensor in one.items():
            size = max(float(tensor.abs().max()), 1e-3)
            far = max(far, float((tensor.double() - two[name].double()).abs().max()) / size)
    return far


def _checkpoints(store: Path) -> set[str]:
    return {str(p) for p in store.glob("work/*/checkpoints/step-*")}


def _free_port() -> int:
    with socket.socket() as sock:
        sock.bind(("127.0.0.1", 0))
        port: int = sock.getsockname()[1]
        return port


def _rank(rank: int, run: dict[str, Any], number: int, port: int) -> int:
    """The process of one rank."""
    child = os.fork()
    if child:
        return child
    code = 70
    try:
        out = os.open(f"out-{number}-{rank}", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
        os.dup2(out, 1)
        os.dup2(out, 2)
        if run["ranks"] > 1:
            os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "MASTER_ADDR": "127.0.0.1"}
            os.environ |= {"WORLD_SIZE": str(run["ranks"]), "LOCAL_WORLD_SIZE": str(run["ranks"])}
            os.environ |= {"MASTER_PORT": str(port)}
        os.environ |= run.get("environment", {})
        if run.get("drift") == rank:
            _drift()
        from kdplan.cli import main

        code = main(run.get("of", {}).get(str(rank), run["arguments"]))
        sys.stdout.flush()
    finally:
        os._exit(code)


def _drift() -> None:
    """Have this rank's weights change by themselves at the end of an epoch."""
    import torch

    from kdplan.runtime.follow import Following

    before = Following.follow_epoch

    def drifting(self: Following) -> None:
        before(self)
        with torch.no_grad():
            next(iter(self.job.phase_graph.named_trainable().values())).add_(1e-3)

    Following.follow_epoch = drifting  # type: ignore[method-assign]


def _run(run: dict[str, Any], number: int) -> list[int]:
    arguments = run["arguments"]
    store = Path(arguments[arguments.index("--store") + 1])
    before, port = _checkpoints(store), _free_port()
    ranks = [_rank(rank, run, number, port) for rank in range(run["ranks"])]
    left, codes = set(ranks), dict.fromkeys(ranks, 0)
    stop = run.get("stop")
    while left:
        if stop is not None and _checkpoints(store) - before:
            time.sleep(stop["after"])
            for rank, process in enumerate(ranks):
                if process in left and stop.get("rank", rank) == rank:
                    os.kill(process, stop["signal"])
            stop = None
        process, status = os.waitpid(-1, os.WNOHANG)
        if process:
            left.discard(process)
            codes[process] = os.waitstatus_to_exitcode(status)
            if codes[process] < 0:  # torchrun ends the others
                for other in left:
                    os.kill(other, signal.SIGTERM)
        else:
            time.sleep(0.002)
    return [codes[rank] for rank in ranks]


def _main() -> None:
    import torch
    import torch._dynamo  # optimizers load it at their first step: here once, before processes are forked
    import torch.distributed

    import kdplan.cli.run
    import kdplan.runtime.follow
    import kdplan.runtime.measures.table
    import kdplan.runtime.phase
    import kdplan.view.progress  # noqa: F401

    torch.set_num_threads(1)
    print(json.dumps([_run(run, number) for number, run in enumerate(json.loads(sys.argv[1]))]))


if __name__ == "__main__":
    _main()
