"""Commands on a store of 10,000 phases, and `store verify` against reading and hashing the same bytes.

    python -m tests.bench.bench_store [PHASES] [--large-mib 1024]

Goals: `status`, `plan` and `store gc` (dry) below 2 s beyond the import; `store verify` as fast as reading and hashing.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import io
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kdplan.runtime.store import Store, manifest
from kdplan.runtime.store.artifact import phase_key_from_json
from kdplan.runtime.store.atomic import digest_bytes, json_bytes
from kdplan.runtime.store.sealed import write_sealed
from tests.bench.ratios import Ratios, by_turns, entry

PLAN = """\
param seed in 0..{last}
data digits = digits
recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1  batch = 1000 }}
student small = digits_net(width = 1)
phase alone of small on digits with quick {{ loss = cross_entropy(small.logits, labels) }}
measure table of small@alone on digits.test {{ top1 }}
"""
RUN_PHASES = 4


def copies(store: Store, template: Path, number: int, plans: int) -> None:
    """Finished phases as training leaves them, under other keys, not flushed to the disk; and plans that read them.

    Half of them are read by a plan, half by nobody.
    """
    about = phase_key_from_json(Store(store.root).artifact(template.name).json("phase.json"))
    files = {p.name: p.read_bytes() for p in template.iterdir() if p.name not in ("manifest.json", "phase.json")}
    entries = {n: {"size": len(c), "sha256": digest_bytes(c)} for n, c in files.items()}
    keys = [hashlib.sha256(str(n).encode()).hexdigest()[:32] for n in range(number)]
    for n, key in enumerate(keys):
        folder = store.root / "phases" / key
        folder.mkdir()
        components = [{"path": c.path, "value": c.value, "at": c.at} for c in about.components]
        phase = json_bytes(
            {"name": f"p{n}", "plan": "x.kd", "key": key, "components": components, "reads": {}, "details": []}
        )
        for name, content in {**files, "phase.json": phase}.items():
            (folder / name).write_bytes(content)
        whole = {**entries, "phase.json": {"size": len(phase), "sha256": digest_bytes(phase)}}
        (folder / "manifest.json").write_bytes(json_bytes({"format": manifest.FORMAT, "files": whole}))
    for n in range(plans):
        mine = {f"p{i}": key for i, key in enumerate(keys[: number // 2]) if i % plans == n}
        store.plans.begin(f"/plans/{n}.kd", "", mine)
    for key in keys:
        write_sealed(store.root / "costs" / f"{key}.json", {"flops_step": 1})


def seconds(*arguments: str) -> float:
    """Seconds of a command in this process, after the imports."""
    from kdplan.cli import main

    with contextlib.redirect_stdout(io.StringIO()):
        began = time.perf_counter()
        code = main(arguments)
    assert code == 0, arguments
    return time.perf_counter() - began


def imported(module: str) -> float:
    """Seconds that a process takes to begin and to import a module."""
    began = time.perf_counter()
    subprocess.run([sys.executable, "-c", f"import {module}"], check=True)
    return time.perf_counter() - began


def plain_hash(folder: Path) -> tuple[float, int]:
    """Seconds to read and hash all files one after another, and their bytes."""
    began, size = time.perf_counter(), 0
    for path in folder.rglob("*"):
        if path.is_file():
            with path.open("rb") as file:
                hashlib.file_digest(file, "sha256")
            size += path.stat().st_size
    return time.perf_counter() - began, size


def brief() -> Ratios:
    """`store verify` of 64 MiB over reading and hashing them."""
    with tempfile.TemporaryDirectory() as name:
        store = Store(Path(name))
        for n in range(4):
            with store.begin(f"{n:032x}") as work:
                work.commit({"weights-0-last.safetensors": os.urandom(16 << 20)})
        arguments = ("store", "verify", "--store", name)
        times = by_turns(lambda: seconds(*arguments), lambda: plain_hash(store.root), 5)
        return {"verify ÷ reading and hashing": times.ratio}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("phases", type=int, nargs="?", default=10_000)
    parser.add_argument("--large-mib", type=int, default=1024)
    arguments = parser.parse_args()
    folder = Path(tempfile.mkdtemp())
    try:
        measure(folder, arguments.phases, arguments.large_mib)
    finally:
        shutil.rmtree(folder)


def measure(folder: Path, phases: int, large_mib: int) -> None:
    plan = folder / "plan.kd"
    plan.write_text(PLAN.format(last=RUN_PHASES - 1))
    store = Store(folder / "store")
    common = ("--store", str(store.root))
    seconds("run", str(plan), *common)
    (store.root / "costs").mkdir(exist_ok=True)
    copies(store, next((store.root / "phases").iterdir()), phases, plans=20)
    print(f"{phases:,} phases, {sum(1 for _ in store.root.rglob('*')):,} files and folders")
    commands = {
        "status": ("status", str(plan)),
        "plan": ("plan", str(plan)),
        "plan --no-cost": ("plan", str(plan), "--no-cost"),
        "why": ("why", str(plan), "alone[seed=0]"),
        "run, all cached": ("run", str(plan)),
        "store gc": ("store", "gc"),
        "store ls": ("store", "ls"),
        "store du": ("store", "du"),
        "store verify": ("store", "verify"),
    }
    print(f"start and import: {min(imported('kdplan.cli.parser') for _ in range(3)):.2f} s")
    for name, command in commands.items():
        times = sorted(seconds(*command, *common) for _ in range(3))
        print(f"{name:18} {times[0]:6.2f} s  (of 3: {', '.join(f'{t:.2f}' for t in times)})")
    big = Store(folder / "big")
    for n in range(4):
        with big.begin(f"{n:032x}") as work:
            work.commit({"weights-0-last.safetensors": os.urandom(large_mib << 18)})
    (plain, size), verified = plain_hash(big.root), seconds("store", "verify", "--store", str(big.root))
    plain = min(plain, plain_hash(big.root)[0])
    verified = min(verified, seconds("store", "verify", "--store", str(big.root)))
    print(f"verify of {size / 2**20:.0f} MiB: {verified:.2f} s; reading and hashing, one thread: {plain:.2f} s")


if __name__ == "__main__":
    entry(main, brief)
