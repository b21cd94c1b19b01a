"""A step on two processes, in shards and with `--fast`, against the same step on one.

    OMP_NUM_THREADS=1 torchrun --nproc-per-node 2 -m tests.bench.bench_shards [--rounds 15] [--batch 64] [--pieces]

All ways take turns in the same processes, one step each, and the medians of their ratios within a round count. Each
process uses one thread, so one process uses one core and two use two. On one process the batch is computed at once,
without shards; `shards, W = 1` is what the fixed order costs where nobody shares the work.
"""

from __future__ import annotations

import argparse
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack
from dataclasses import replace

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.graph.phase_graph import PhaseGraph
from kdplan.ir.plan import Recipe
from kdplan.nn.models.cifar import cifar_resnet
from kdplan.runtime.division import Division
from kdplan.runtime.follow import Following
from kdplan.runtime.loop import Training
from kdplan.runtime.ranks import Ranks
from kdplan.runtime.store import Store
from kdplan.runtime.streams import Batch
from tests.bench.ratios import Ratios, entry
from tests.runtime.small import job, recipe


class Hard(nn.Module):
    """Cross-entropy of a network."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs_0: Tensor, labels_0: Tensor) -> dict[str, Tensor]:
        return {"loss": F.cross_entropy(self.net(inputs_0), labels_0)}


class Soft(nn.Module):
    """The same with softened outputs of a teacher, which cross from the frozen graph."""

    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs_0: Tensor, labels_0: Tensor, soft: Tensor) -> dict[str, Tensor]:
        out = self.net(inputs_0)
        divergence = F.kl_div(F.log_softmax(out / 4, 1), soft, reduction="batchmean") * 16
        return {"loss": F.cross_entropy(out, labels_0) + divergence}


class Teacher(nn.Module):
    def __init__(self, net: nn.Module) -> None:
        super().__init__()
        self.net = net

    def forward(self, inputs_0: Tensor) -> dict[str, Tensor]:
        return {"soft": F.softmax(self.net(inputs_0) / 4, 1)}


def phase(name: str) -> PhaseGraph:
    """The graphs of a workload."""
    torch.manual_seed(0)
    inputs = ["inputs_0", "labels_0"]
    if name == "plain ResNet-20":
        net = cifar_resnet(depth=20, classes=10)
        graph: nn.Module = Hard(net)
        return PhaseGraph(graph, graph, [net], [dict(net.named_parameters())], trainable_inputs=inputs)
    teacher = Teacher(cifar_resnet(depth=20, classes=10).eval().requires_grad_(False))
    net = cifar_resnet(depth=8, classes=10)
    graph = Soft(net)
    root = nn.ModuleList([graph, teacher])
    own = [dict(net.named_parameters())]
    return PhaseGraph(graph, root, [net], own, teacher, trainable_inputs=[*inputs, "soft"], frozen_inputs=["inputs_0"])


def training(stack: ExitStack, name: str, settings: Recipe, ranks: Ranks, division: Division | None) -> Training:
    """A phase that trains one way; on another rank than the first, one that follows."""
    work = stack.enter_context(Store(stack.enter_context(tempfile.TemporaryDirectory())).begin("k"))
    graph = phase(name)
    made = job(work, settings, graph.networks[0], phase_graph=graph, ranks=ranks, division=division)
    return Training(made) if ranks.leads else Following(made)


def measure(name: str, rounds: int, batch: int, group: Ranks, pieces: bool) -> None:
    """Print the median time of each way, and its ratio to one process."""
    plain = recipe(batch=batch, epochs=None, steps=10**6)
    cut = replace(plain, shards=group.size)
    generator = torch.Generator().manual_seed(0)
    whole: Batch = {
        "inputs_0": torch.randn(batch, 3, 32, 32, generator=generator),
        "labels_0": torch.randint(0, 10, (batch,), generator=generator),
    }
    division = Division.of(plain, [batch], group.rank, group.size)
    mine = {n: t[division.rows(0, 0)] for n, t in whole.items()}
    with ExitStack() as stack:
        alone = Ranks()
        ways: dict[str, tuple[Training, Batch]] = {}
        if group.leads:
            ways["one process"] = training(stack, name, plain, alone, None), whole
            ways["shards, W = 1"] = training(stack, name, cut, alone, None), whole
        ways[f"shards, W = {group.size}"] = training(stack, name, cut, group, None), whole
        for label, way in (("--fast", "fast"), ("--fully-shard", "fully-shard"))[: 1 + pieces]:
            several = replace(group, way=way)
            ways[f"{label}, W = {group.size}"] = training(stack, name, plain, several, division), mine
        times: dict[str, list[float]] = {label: [] for label in ways}
        for turn in range(rounds + 2):
            for label in ("one process", "shards, W = 1", *list(ways)[-2 - pieces :]):
                dist.barrier()
                if label not in ways:
                    continue
                train, part = ways[label]
                start = time.perf_counter()
                train.train_step(part)
                train.step += 1
                if turn >= 2:
                    times[label].append(time.perf_counter() - start)
        dist.barrier()
    if group.leads:
        base = times["one process"]
        for label, own in times.items():
            ratio = statistics.median(a / b for a, b in zip(own, base, strict=True))
            print(f"{name:26} {label:22} {statistics.median(own) * 1000:8.1f} ms   ratio {ratio:.2f}", flush=True)


def brief() -> Ratios:
    """Steps of a small batch on two processes over those on one: wall seconds, as processes wait for one another."""
    command = ["-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "tests.bench.bench_shards"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, *command, "--rounds", "5", "--batch", "16"], capture_output=True, text=True,
                          env=environment, check=True)  # fmt: skip
    lines = re.findall(r"^(.{26}) (.{22}) .* ratio ([\d.]+)$", done.stdout, re.MULTILINE)
    return {
        f"{name.strip()}: {way.strip()} ÷ one process": float(r)
        for name, way, r in lines
        if way.strip() != "one process"
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--pieces", action="store_true", help="measure --fully-shard as well")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    group = Ranks.start()
    for name in ("plain ResNet-20", "ResNet-20 to ResNet-8"):
        measure(name, arguments.rounds, arguments.batch, group, arguments.pieces)
    group.leave()


if __name__ == "__main__":
    entry(main, brief)
