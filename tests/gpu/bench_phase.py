"""Milliseconds of a step of one distillation, by kdplan in its several ways and by a lean loop written by hand.

    python -m tests.gpu.bench_phase --device cuda:0 [--steps 60] [--batch 128] [--arms eager graphs lean]

ResNet-56 teaches ResNet-20 on 32 × 32 images of noise, 100 classes, as in the benchmark of joined graphs. Each arm is
warmed up, then all take turns, three rounds; the median of each counts. `lean` does what `eager` does and nothing else:
no order of samples, no sums of losses, no checkpoints. Prints one line of JSON.
"""

from __future__ import annotations

import argparse
import itertools
import json
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import torch
from torch.nn import functional as F

from kdplan.nn.models.cifar import cifar_resnet
from kdplan.runtime.device import set_determinism
from kdplan.runtime.gpu.ahead import ahead
from kdplan.runtime.gpu.arithmetic import HALF, tf32
from kdplan.runtime.loop import Training
from kdplan.runtime.store import Store
from tests.gpu.second_device import job_of

PLAN = """
data images = arrays("images.npz")
recipe usual {{
  optimizer = sgd(lr = 0.01, momentum = 0.9)
  epochs = 100000  batch = {batch}  drop_last = true  {more}
}}
teacher big = cifar_resnet(depth = {big}, classes = 100)
student small = cifar_resnet(depth = {small}, classes = 100)
phase distil of small on images with usual {{
  loss = cross_entropy(small.logits, labels) + kd(small.logits, big@init.logits, temperature = 4)
}}
"""
ARMS = {
    "eager": "",
    "tf32": "precision = tf32",
    "bf16": "precision = bf16",
    "compiled": "compile = true",
    "graphs": "compile = graphs",
    "graphs bf16": "compile = graphs  precision = bf16",
    "lean": None,
    "lean bf16": None,
}
WARM = 12
"""Steps before any is measured: kernels are chosen, a graph is recorded, a compiler compiles."""

Steps = Callable[[int], None]


def of_plan(more: str, batch: int, depths: list[int], device: str, folder: Path, stack: ExitStack) -> Steps:
    """Does so many steps of a phase as `kdplan run` does them."""
    store = Store(folder / f"store-{more.replace(' ', '')}")
    work = stack.enter_context(store.begin("k"))
    text = PLAN.format(batch=batch, more=more, big=depths[0], small=depths[1])
    training = Training(job_of(text, work, store, device, folder))
    training.job.progress_seconds = training.job.checkpoint_seconds = 1e9

    def batches():  # type: ignore[no-untyped-def]
        for epoch in itertools.count():
            yield from ahead(training.job.streams.epoch(epoch), training.job.device, training.job.stored)

    endless = batches()

    def steps(count: int) -> None:
        with tf32("tf32" in more, training.job.device):
            for _ in range(count):
                training.train_step(next(endless))
                training.step += 1
                training.save_and_report(0, False)

    return steps


def by_hand(
    precision: str, batch: int, depths: list[int], device: torch.device, images: np.ndarray, labels: np.ndarray
) -> Steps:
    """The same step without a plan."""
    torch.manual_seed(0)
    big = cifar_resnet(depth=depths[0], classes=100).to(device).eval().requires_grad_(False)
    small = cifar_resnet(depth=depths[1], classes=100).to(device).train()
    x, y = torch.from_numpy(images).to(device), torch.from_numpy(labels).to(device)
    fused = device.type == "cuda"
    optimizer = torch.optim.SGD(small.parameters(), lr=0.01, momentum=0.9, fused=fused or None)
    half = HALF.get(precision)
    order = torch.randperm(len(x), device=device)
    at = 0

    def steps(count: int) -> None:
        nonlocal at
        for _ in range(count):
            chosen = order[at : at + batch]
            at = (at + batch) % (len(x) - batch + 1)
            inputs, target = (x[chosen].float() - 127.5) / 64, y[chosen]
            with torch.autocast(device.type, dtype=half, enabled=half is not None):
                with torch.no_grad():
                    soft = F.softmax(big(inputs).float() / 4, 1)
                out = small(inputs).float()
                loss = F.cross_entropy(out, target)
                loss = loss + 16 * F.kl_div(F.log_softmax(out / 4, 1), soft, reduction="batchmean")
            optimizer.zero_grad(set_to_none=True)
            torch.autograd.backward(loss)
            optimizer.step()

    return steps


def seconds(steps: Steps, count: int, device: torch.device) -> float:
    """Of one step, in the mean over `count`."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    steps(count)
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return (time.perf_counter() - start) / count


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda:0")
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--depths", type=int, nargs=2, default=[56, 20], help="of teacher and student")
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=list(ARMS))
    given = parser.parse_args()
    device = torch.device(given.device)
    set_determinism(False)
    rng = np.random.default_rng(0)
    count = max(4 * given.batch, 400)
    images = rng.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
    labels = np.arange(count) % 100
    report: dict[str, object] = {"batch": given.batch, "steps": given.steps, "ms": {}, "failed": {}}
    report["torchdistill"] = "installed, and not measured here" if find_spec("torchdistill") else "not installed"
    with tempfile.TemporaryDirectory() as name, ExitStack() as stack:
        folder = Path(name)
        np.savez(folder / "images.npz", train_x=images, train_y=labels, test_x=images[:100], test_y=labels[:100])
        arms: dict[str, Steps] = {}
        for arm in given.arms:
            try:
                more = ARMS[arm]
                if more is None:
                    half = "bf16" if "bf16" in arm else "fp32"
                    steps = by_hand(half, given.batch, given.depths, device, images, labels)
                else:
                    steps = of_plan(more, given.batch, given.depths, given.device, folder, stack)
                seconds(steps, WARM if device.type == "cuda" else 1, device)
                arms[arm] = steps
            except Exception as problem:
                report["failed"][arm] = f"{type(problem).__name__}: {str(problem)[:300]}"  # type: ignore[index]
        times: dict[str, list[float]] = {arm: [] for arm in arms}
        for turn in range(3):
            for arm in list(arms)[:: -1 if turn % 2 else 1]:
                times[arm].append(seconds(arms[arm], given.steps, device))
    ms = {arm: round(1000 * statistics.median(t), 3) for arm, t in times.items()}
    report["ms"] = ms
    report["over_lean"] = {a: round(t / ms[lean], 3) for a, t in ms.items()
                           if (lean := "lean bf16" if "bf16" in a else "lean") in ms}  # fmt: skip
    print(json.dumps(report), flush=True)
    if report["failed"]:
        raise SystemExit(1)


if __name__ == "__main__":
    main()
