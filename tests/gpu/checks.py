"""Sections of `tests/gpu/run.sh` that run `kdplan` itself: `python -m tests.gpu.checks NAME --device cuda:0 [--small]`.

Each prints one line of JSON, and ends with 1 where something is not as it must be.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import platform
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

PLAN = """
data digits = digits {{ augment = [pad_crop(8, pad = 1)] }}
recipe quick {{ optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = {epochs}  batch = 64  {more} }}
teacher big = digits_net(width = 8, blocks = 2) {{
  phase train on digits with quick {{ loss = cross_entropy(self.logits, labels) }}
}}
student small = digits_net(width = 3)
phase distil of small on digits with quick {{
  loss = cross_entropy(small.logits, labels) + kd(small.logits, big.logits, temperature = 4)
}}
"""


def kdplan(file: Path, store: Path, *more: str) -> list[str]:
    """The command that runs a plan."""
    return [sys.executable, "-m", "kdplan", "run", str(file), "--store", str(store), *more]


def weights_of(store: Path) -> dict[str, str]:
    """Name of a phase's weight file -> its hash, for all finished phases."""
    files = sorted(store.glob("phases/*/weights-*.safetensors"))
    return {f"{f.parent.name}/{f.name}": hashlib.sha256(f.read_bytes()).hexdigest()[:16] for f in files}


def run(command: list[str]) -> float:
    """Seconds that a command takes; raises where it fails."""
    began = time.monotonic()
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        said = f"{done.stdout[-2000:]}{done.stderr[-2000:]}"
        raise SystemExit(f"exit code {done.returncode}: {' '.join(command)}\n{said}")
    return round(time.monotonic() - began, 2)


def facts(device: str, small: bool, folder: Path) -> dict[str, Any]:
    """The machine and its libraries."""
    import torch

    known: dict[str, Any] = {"python": platform.python_version(), "torch": torch.__version__, "cores": os.cpu_count()}
    for name in ("torchvision", "timm", "torchdistill", "triton"):
        try:
            known[name] = __import__("importlib.metadata", fromlist=["version"]).version(name)
        except ImportError:
            known[name] = None
    if device.startswith("cuda"):
        known |= {"gpu": torch.cuda.get_device_name(device), "cuda": torch.version.cuda}
        free, whole = torch.cuda.mem_get_info(device)
        known |= {"free_GiB": round(free / 2**30, 1), "memory_GiB": round(whole / 2**30, 1)}
    return known


def determinism(device: str, small: bool, folder: Path) -> dict[str, Any]:
    """`--deterministic` twice, and once killed in the middle: the same weights; step by step and as graphs."""
    about: dict[str, Any] = {}
    for way in ("", *(() if small else ("compile = graphs",))):
        file = folder / f"plan{len(about)}.kd"
        file.write_text(PLAN.format(epochs=2 if small else 20, more=way), encoding="utf-8")
        options = ("--device", device, "--deterministic")
        stores = [folder / f"{file.stem}-{n}" for n in "abc"]
        seconds = run(kdplan(file, stores[0], *options))
        run(kdplan(file, stores[1], *options))
        killed = _kill_in_training(kdplan(file, stores[2], *options), stores[2])
        run(kdplan(file, stores[2], *options))
        first, second, third = map(weights_of, stores)
        about[way or "step by step"] = {
            "seconds": seconds, "files": len(first), "twice": first == second, "killed": killed,
            "resumed": first == third,
        }  # fmt: skip
    return about | {"ok": all(a["files"] == 2 and a["twice"] and a["resumed"] for a in about.values())}


def _kill_in_training(command: list[str], store: Path) -> bool:
    """Kill a run with SIGKILL soon after its first checkpoint; whether there was one to kill."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None:
        if any(store.glob("work/*/checkpoints/step-*")):
            process.send_signal(signal.SIGKILL)
            break
        time.sleep(0.02)
    return process.wait() == -signal.SIGKILL


def quickstart(device: str, small: bool, folder: Path) -> dict[str, Any]:
    """The quickstart, and again when all is there."""
    file = ROOT / "plans/quickstart.kd"
    if small:
        file = folder / "plan.kd"
        file.write_text(PLAN.format(epochs=1, more=""), encoding="utf-8")
    first = run(kdplan(file, folder / "s", "--device", device))
    return {"seconds": first, "again": run(kdplan(file, folder / "s", "--device", device))}


def nccl(device: str, small: bool, folder: Path) -> dict[str, Any]:
    """A phase in shards under `torchrun` with one rank: the same bits as without."""
    file = folder / "plan.kd"
    file.write_text(PLAN.format(epochs=1 if small else 3, more="shards = 2"), encoding="utf-8")
    options = ("--device", device.partition(":")[0], "--deterministic")
    plain = run(kdplan(file, folder / "a", *options))
    alone = kdplan(file, folder / "b", *options)
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "1", "-m"]
    one_rank = run([*torchrun, *alone[2:]])
    same = weights_of(folder / "a") == weights_of(folder / "b") != {}
    return {"seconds": plain, "one_rank": one_rank, "same": same, "ok": same}


def jobs(device: str, small: bool, folder: Path) -> dict[str, Any]:
    """Four independent phases one after another, and two at a time on the same GPU: the same weights."""
    file = folder / "plan.kd"
    text = PLAN.format(epochs=1 if small else 20, more="")
    text += "".join(
        f"student s{n} = digits_net(width = {4 + n})\n"
        f"phase p{n} of s{n} on digits with quick {{ loss = cross_entropy(s{n}.logits, labels) }}\n"
        for n in range(2 if small else 4)
    )
    file.write_text(text, encoding="utf-8")
    options = ("--device", device, "--deterministic")
    one = run(kdplan(file, folder / "a", *options))
    two = run(kdplan(file, folder / "b", *options, "--jobs", "2"))
    same = weights_of(folder / "a") == weights_of(folder / "b") != {}
    return {"one": one, "two": two, "ratio": round(two / one, 3), "same": same, "ok": same}


CHECKS: dict[str, Callable[[str, bool, Path], dict[str, Any]]] = {
    f.__name__: f for f in (facts, determinism, quickstart, nccl, jobs)
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("name", choices=CHECKS)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--small", action="store_true")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        numbers = CHECKS[given.name](given.device, given.small, Path(folder))
    print(json.dumps(numbers), flush=True)
    return 0 if numbers.get("ok", True) else 1


if __name__ == "__main__":
    sys.exit(main())
