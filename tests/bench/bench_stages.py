"""Time and memory of each phase of a ladder of stages against the same step written by hand with hooks.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_stages [--steps 8] [--batch 128] [--layout contiguous] [--alone]

ResNet-56 -> ResNet-20 on images of 32 x 32. The graph is what `kdplan run` trains: one step of `Training`, as compiled
from the plan below. The loop by hand runs the whole teacher under no_grad and the whole student, catches features with
forward hooks, and lets only the stage's own modules ask for gradients. Both see one batch; loading it is not measured.

Both run in one process by turns, timed in CPU seconds of that one-threaded process, which other processes disturb less
than the clock on the wall. They must give equal losses and equal weights, or nothing is printed. Beside the measured
ratio stand two predictions of it:

- FLOPs: kdplan's own count of the phase (`kdplan.graph.cost`) over a FlopCounterMode around the loop by hand;
- operators: the FLOPs weighed by how fast they are. Each operator of the loop by hand is timed by itself, by shapes and
  strides; the prediction is the sum of those that the graph runs, over the sum of all.

Memory is the most that tensors of one step hold at one time (storages; not weights, not the batch), counted in both.

With `--alone` each form also runs in a process of its own: the graph as `kdplan run` has it, which keeps freed memory
for the next step (`kdplan.runtime.memory`), the loop by hand as it comes. Memory is there by how much the process's
resident memory grows at its peak, with the libraries' scratch memory and the allocator's waste in it.

Goal: the measured ratio within 15% of that of the FLOPs.
"""

from __future__ import annotations

import argparse
import copy
import ctypes
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import FlopCounterMode

from kdplan.compile import Compiled, compile_source
from kdplan.data.loader import Loader
from kdplan.diagnostics.span import Source
from kdplan.graph.assemble import assemble
from kdplan.graph.cost import LiveBytes
from kdplan.graph.inspect import fresh, inspect_phase
from kdplan.graph.phase_graph import Networks
from kdplan.ir.versions import read_versions
from kdplan.runtime.loop import Job, Training
from kdplan.runtime.memory import freed_memory_kept
from kdplan.runtime.store import Store
from kdplan.runtime.streams import Streams
from kdplan.runtime.views import opened
from tests.bench.ratios import Ratios, entry

PLAN = """
param teacher_depth = 56
param student_depth = 20
param batch = 128
param channels_last = false
data images = arrays("images.npz")
recipe stagewise {
  optimizer     = sgd(lr = 0.01, momentum = 0.9)
  schedule      = plateau(factor = 0.1, patience = 5, until = 1e-5)
  epochs        = 1000
  batch         = batch
  channels_last = channels_last
}
recipe classic = stagewise { schedule = constant() }
teacher big = cifar_resnet(depth = teacher_depth, classes = images.classes) {
  phase train on images with classic { loss = cross_entropy(self.logits, labels) }
}
student small = cifar_resnet(depth = student_depth, classes = images.classes)
def distance(a, b) = squared_l2(a, b, per = place)
stages mimic of small from big on images with stagewise {
  stages = auto
  match  = distance
  head with classic { loss = cross_entropy(small.logits, labels) }
}
"""

STAGES = {
    "s1": (("conv1", "bn1"), "relu"),
    "s2": (("layer1",), "layer1"),
    "s3": (("layer2",), "layer2"),
    "s4": (("layer3",), "layer3"),
    "head": (("fc",), "fc"),
}
"""What a phase trains, and where the loop by hand puts its hooks; the head's loop needs no teacher and no hook."""


# ---- the two forms of a step


@dataclass
class Pair:
    """One phase in both forms, on copies of the same networks and on the same batch."""

    graph: Callable[[], float]
    naive: Callable[[], float]
    students: tuple[nn.Module, nn.Module]
    known: Callable[[], list[Tensor]]
    """What is there before a step: batch, weights, buffers, the optimizers' state."""
    flops: int
    """Of the graph's step, as kdplan predicts them."""
    peak: int
    """Bytes, likewise."""


def compiled(folder: Path, **params: str) -> Compiled:
    """The plan, with random images in `folder` for its data."""
    rng = np.random.default_rng(0)
    x, y = rng.integers(0, 256, (200, 3, 32, 32), dtype=np.uint8), np.arange(200) % 100
    np.savez(folder / "images.npz", train_x=x, train_y=y, test_x=x[:100], test_y=y[:100])
    return compile_source(Source("bench.kd", PLAN), folder, folder, params=params)


def calibrated(net: nn.Module, x: Tensor) -> nn.Module:
    """The network with running statistics of a batch, without which features of 27 blocks would grow without end."""
    norms = [m for m in net.modules() if isinstance(m, nn.BatchNorm2d)]
    for norm in norms:
        norm.momentum = None
    with torch.no_grad():
        net.train()(x)
    for norm in norms:
        norm.momentum = 0.1
    return net.eval()


def pair(made: Compiled, stage: str, folder: Path) -> Pair:
    """Both forms of a phase; neither has run yet."""
    plan, phase = made.plan, made.plan.phases[f"mimic@{stage}"]
    phase = replace(phase, recipes=[replace(r, batch=plan.phases["mimic@s1"].recipes[0].batch) for r in phase.recipes])
    recipe = phase.recipes[0]
    data = opened(plan, phase.streams[0], folder, torch.device("cpu"))
    streams = Streams([Loader(data, recipe.batch, phase.seed, train=True)])
    batch = next(iter(streams.epoch(0)))
    layout = torch.channels_last if recipe.channels_last else torch.contiguous_format
    batch["inputs_0"] = batch["inputs_0"].contiguous(memory_format=layout)
    big, small = (calibrated(fresh(plan.networks[n]), batch["inputs_0"]) for n in ("big", "small"))
    teacher, student = (copy.deepcopy(n).to(memory_format=layout) for n in (big, small))
    expected = inspect_phase(plan, phase).cost
    phase_graph = assemble(plan, phase, Networks([small], {str(v): big for v in read_versions(phase)}))
    with Store(folder / "store").begin(stage) as work:
        training = Training(
            Job(stage, phase_graph, phase.recipes, streams, work, torch.device("cpu"), phase.seed)
        )  # fmt: skip

    def graph() -> float:
        training.train_step(batch)
        training.step += 1
        return float(training.watch.sums[0])  # waits, as `loss.item()` does

    naive, optimizer = by_hand(stage, teacher, student, batch)
    optimizers = [optimizer, *training.optimisers.optimizers]

    def known() -> list[Tensor]:
        weights = [t for n in (big, small, teacher, student) for t in [*n.parameters(), *n.buffers()]]
        states = tree_leaves([state for o in optimizers for state in o.state.values()])
        return [*batch.values(), *weights, *(t for t in states if isinstance(t, Tensor))]

    return Pair(_differences(graph), naive, (small, student), known, expected.flops_step, expected.activation_bytes)


def _differences(total: Callable[[], float]) -> Callable[[], float]:
    """The mean loss of each step, from sums over all steps that are weighed by a batch which is always the same."""
    sums = [0.0, 0.0]

    def step() -> float:
        sums[:] = [sums[1], total()]
        return sums[1] - sums[0]

    return step


def by_hand(
    stage: str, teacher: nn.Module, student: nn.Module, batch: dict[str, Tensor]
) -> tuple[Callable[[], float], torch.optim.Optimizer]:
    """The step as most people write it; gives the loss times the samples, as the graph's watch counts it."""
    parts, tap = STAGES[stage]
    x, y = batch["inputs_0"], batch["labels_0"]
    caught: dict[str, Tensor] = {}
    trainable: list[nn.Parameter] = []
    for name, net in (("teacher", teacher), ("student", student)):
        net.eval().requires_grad_(False)
        net.get_submodule(tap).register_forward_hook(lambda _m, _i, out, name=name: caught.__setitem__(name, out))
    for part in parts:
        module = student.get_submodule(part).train().requires_grad_(True)
        trainable += module.parameters()
    optimizer = torch.optim.SGD(trainable, lr=0.01, momentum=0.9)

    def step() -> float:
        if stage == "head":
            loss = F.cross_entropy(student(x), y)
        else:
            with torch.no_grad():
                teacher(x)
            student(x)
            loss = (caught["student"] - caught["teacher"]).square().sum(1).mean()
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.item() * len(x)

    return step, optimizer


def check(stage: str, one: Pair, steps: int = 3) -> None:
    """Both forms give equal losses, gradients, weights and running statistics.

    Raises
    ------
    AssertionError
        If they differ by more than 1e-5 of a value.
    """
    for _ in range(steps):
        torch.testing.assert_close(one.graph(), one.naive(), rtol=1e-5, atol=0.0, msg=f"the losses of {stage} differ")
        mine, theirs = (dict(s.named_parameters()) for s in one.students)
        for name, p in mine.items():
            torch.testing.assert_close(p.grad, theirs[name].grad, rtol=1e-5, atol=1e-6)
    mine, theirs = (s.state_dict() for s in one.students)
    torch.testing.assert_close(mine, theirs, rtol=1e-5, atol=1e-6)


# ---- measuring


class OperatorTimes(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """CPU seconds of each operator inside, by its name and the shapes and strides of the tensors that it reads."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.seconds: dict[Any, list[float]] = defaultdict(list)

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        key = str(func), *(_shape(v) for v in tree_leaves((args, kwargs)))
        start = time.process_time()
        result = func(*args, **(kwargs or {}))
        self.seconds[key].append(time.process_time() - start)
        return result


def _shape(value: Any) -> Any:
    return (tuple(value.shape), value.stride()) if isinstance(value, Tensor) else repr(value)


def by_operators(one: Pair, rounds: int = 3) -> tuple[float, dict[str, tuple[float, float]]]:
    """The ratio that the loop's own operators predict; seconds a step of each kind, of the graph and of the loop.

    Operators that only the graph runs (the sums that it logs) count as it takes for them.
    """
    graph, naive = OperatorTimes(), OperatorTimes()
    for _ in range(rounds):
        with graph:
            one.graph()
        with naive:
            one.naive()
    single = {key: statistics.median(t) for key, t in (graph.seconds | naive.seconds).items()}
    kinds: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for side, found in enumerate((graph, naive)):
        for key, seconds in found.seconds.items():
            kinds[_kind(key[0])][side] += single[key] * len(seconds) / rounds
    sums = [sum(k[side] for k in kinds.values()) for side in (0, 1)]
    return sums[0] / sums[1], {k: (a, b) for k, (a, b) in kinds.items()}


def _kind(operator: str) -> str:
    if "conv" in operator:
        return "convolutions backward" if "backward" in operator else "convolutions forward"
    return "batch norm" if "batch_norm" in operator else "all else"


@dataclass(frozen=True)
class Times:
    """Median CPU seconds of both forms, the median ratio turn by turn, and that of seconds on the wall."""

    graph: float
    naive: float
    ratio: float
    wall: float


def measure(one: Pair, steps: int) -> Times:
    """Both forms by turns, each first in every other turn."""
    cpu: dict[str, list[float]] = {"graph": [], "naive": []}
    wall: dict[str, list[float]] = {"graph": [], "naive": []}
    for turn in range(steps):
        forms = [("graph", one.graph), ("naive", one.naive)]
        for name, step in forms if turn % 2 else reversed(forms):
            began, start = time.perf_counter(), time.process_time()
            step()
            cpu[name].append(time.process_time() - start)
            wall[name].append(time.perf_counter() - began)
    ratios = [
        statistics.median(a / b for a, b in zip(t["graph"], t["naive"], strict=True)) for t in (cpu, wall)
    ]  # fmt: skip
    return Times(statistics.median(cpu["graph"]), statistics.median(cpu["naive"]), *ratios)


def flops(step: Callable[[], float]) -> int:
    """FLOPs of a real step, forward and backward."""
    counter = FlopCounterMode(display=False)
    with counter:
        step()
    return int(counter.get_total_flops())


def peak(step: Callable[[], float], known: Iterable[Tensor]) -> int:
    """The most bytes that the tensors of a real step hold at one time."""
    trainable_graph = LiveBytes(list(known))
    with trainable_graph:
        step()
    return trainable_graph.peak


def alone(step: Callable[[], float], steps: int) -> dict[str, float]:
    """A form in a process that has done nothing else: median CPU seconds, and the growth of its resident memory.

    The growth is that at its peak from before the first step on; Linux with glibc.
    """
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the peak is counted from here on
    before = _status("VmRSS")
    seconds = []
    for _ in range(steps + 1):
        start = time.process_time()
        step()
        seconds.append(time.process_time() - start)
    return {"seconds": statistics.median(seconds[1:]), "bytes": _status("VmHWM") - before}


def _status(field: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return 1024 * int(next(line.split()[1] for line in lines if line.startswith(field + ":")))


def in_fresh_process(stage: str, form: str, args: argparse.Namespace) -> dict[str, float]:
    """`alone` in a child."""
    command = [sys.executable, "-m", "tests.bench.bench_stages", "--only", stage, "--form", form]
    command += ["--batch", str(args.batch), "--layout", args.layout, "--steps", str(args.steps)]
    last = subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[-1]
    found: dict[str, float] = json.loads(last)
    return found


# ---- the command line


def report(stage: str, one: Pair, args: argparse.Namespace) -> None:
    """A few lines on one phase, after a check that both forms do the same."""
    check(stage, one)
    counted = one.flops / flops(one.naive)
    times = measure(one, args.steps)
    operators, kinds = by_operators(one)
    mine, theirs = peak(one.graph, one.known()), peak(one.naive, one.known())
    print(
        f"{stage:5} FLOPs {counted:.4f}  operators {operators:.4f}  measured {times.ratio:.4f} (wall {times.wall:.4f})"
        f"  measured ÷ FLOPs {times.ratio / counted:.3f}  ÷ operators {times.ratio / operators:.3f}"
        f"  CPU ms {times.graph * 1000:.0f} / {times.naive * 1000:.0f}"
    )
    print(
        f"      tensors MiB {mine / 2**20:.1f} / {theirs / 2**20:.1f} = {mine / theirs:.3f}"
        f"  (kdplan's prediction {one.peak / 2**20:.1f})"
    )
    if args.alone:
        a, b = (in_fresh_process(stage, form, args) for form in ("graph", "naive"))
        print(
            f"      alone: CPU ms {a['seconds'] * 1000:.0f} / {b['seconds'] * 1000:.0f}"
            f" = {a['seconds'] / b['seconds']:.4f}"
            f"  resident MiB {a['bytes'] / 2**20:.0f} / {b['bytes'] / 2**20:.0f} = {a['bytes'] / b['bytes']:.3f}"
        )
    for kind, (a, b) in sorted(kinds.items()):
        print(f"      {kind:22} ms {a * 1000:7.1f} / {b * 1000:7.1f}")
    sys.stdout.flush()


def brief() -> Ratios:
    """The first stage of a small ladder over the loop by hand, and over what FLOPs say."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name, freed_memory_kept():
        folder = Path(name)
        stage = next(iter(STAGES))
        one = pair(compiled(folder, teacher_depth="20", student_depth="14", batch="32"), stage, folder)
        check(stage, one)
        counted = one.flops / flops(one.naive)
        return {"first stage ÷ loop by hand": measure(one, 8).ratio, "FLOPs ÷ loop by hand": counted}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--layout", choices=("contiguous", "channels_last"), default="contiguous")
    parser.add_argument("--alone", action="store_true", help="each form also in a process of its own")
    parser.add_argument("--only", choices=STAGES, nargs="+", default=list(STAGES))
    parser.add_argument("--form", choices=("graph", "naive"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        last = str(args.layout == "channels_last").lower()
        made = compiled(folder, batch=str(args.batch), channels_last=last)
        for stage in args.only:
            one = pair(made, stage, folder)
            if args.form == "graph":
                with freed_memory_kept():
                    print(json.dumps(alone(one.graph, args.steps)))
            elif args.form == "naive":
                print(json.dumps(alone(one.naive, args.steps)))
            else:
                with freed_memory_kept():
                    report(stage, one, args)


if __name__ == "__main__":
    entry(main, brief)
