"""One training step of FC4096-SC512 over 100,000 classes in 20 verticals of unequal sizes, against other ways.

    python -m tests.bench.bench_heads [--classes 100000] [--base 9216] [--batch 64] [--steps 3] [--device cpu]

A step is forward from the base network's features, the loss against 100 targets a sample, backward, and Adagrad. The
floor is what its arithmetic and its traffic of memory take, measured by a product of matrices and a copy. `head` and
`dense` keep freed memory as `kdplan run` does, `loop` gives it back as a script by hand does; `kept loop` keeps it too.
On a machine with other work CPU seconds (of all threads) and page faults tell more than seconds.
"""

from __future__ import annotations

import argparse
import contextlib
import resource
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from kdplan.nn import sparse
from kdplan.nn.fused import fastest
from kdplan.nn.heads import Head
from kdplan.nn.optim import build_optimizer
from kdplan.runtime.memory import freed_memory_kept
from tests.bench.ratios import Ratios, entry


class Loop(nn.Module):
    """A linear layer for each vertical's units and one for its logits, put together."""

    def __init__(self, base: int, s1: int, s2: int, sizes: list[int]) -> None:
        super().__init__()
        self.top1 = nn.Linear(base, s1)
        self.top2 = nn.ModuleList(nn.Linear(s1, s2) for _ in sizes)
        self.logits = nn.ModuleList(nn.Linear(s2, n) for n in sizes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.top1(x).relu()
        return torch.cat([b(a(x).relu()) for a, b in zip(self.top2, self.logits, strict=True)], dim=1)


def unequal(classes: int, parts: int) -> list[int]:
    """Sizes that fall from the first part to the last by a factor of about 10."""
    shares = [10 ** (-i / (parts - 1)) for i in range(parts)]
    sizes = [max(1, int(classes * s / sum(shares))) for s in shares]
    sizes[0] += classes - sum(sizes)
    return sizes


def dense_loss(x: Tensor, values: Tensor, ids: Tensor) -> Tensor:
    target = torch.zeros_like(x).scatter_(1, ids, values)
    return F.binary_cross_entropy_with_logits(x, target, reduction="sum") / len(x)


def resident() -> int:
    """The most memory that the process ever had, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss


def timed(step: Callable[[], object], steps: int, device: torch.device) -> tuple[float, float, float]:
    """Medians of seconds, CPU seconds of all threads, and page faults."""
    found = []
    for _ in range(steps + 1):
        if device.type == "cuda":
            torch.cuda.synchronize()
        faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        start, cpu = time.perf_counter(), time.process_time()
        step()
        if device.type == "cuda":
            torch.cuda.synchronize()
        took = time.perf_counter() - start, time.process_time() - cpu
        found.append((*took, resource.getrusage(resource.RUSAGE_SELF).ru_minflt - faults))
    seconds, cpus, counts = zip(*found[1:], strict=True)
    return statistics.median(seconds), statistics.median(cpus), statistics.median(counts)


def floor(flops: float, traffic: float, device: torch.device) -> tuple[float, float]:
    """Seconds and CPU seconds that arithmetic and traffic take one after the other, at the speeds of this machine."""
    a, b = torch.randn(64, 4096, device=device), torch.randn(4096, 8192, device=device)
    product = timed(lambda: a @ b, 5, device)
    x = torch.empty(1 << 26, device=device)
    y = torch.empty_like(x)
    copy = timed(lambda: y.copy_(x), 3, device)
    times, bytes_ = flops / (2 * 64 * 4096 * 8192), traffic / (8 * x.numel())
    return product[0] * times + copy[0] * bytes_, product[1] * times + copy[1] * bytes_


def brief() -> Ratios:
    """A step over 5,000 classes over what its arithmetic and traffic take."""
    torch.set_num_threads(1)
    device, sizes = torch.device("cpu"), unequal(5_000, 20)
    first = [sum(sizes[:i]) for i in range(20)]
    parts = [[*range(s, s + n)] for s, n in zip(first, sizes, strict=True)]
    net = Head(1024, 5_000, [("fc", 1024, 0), ("sc", 256, 0)], parts)
    optimizer = build_optimizer("adagrad", {"lr": 0.001}, net.parameters(), **fastest("adagrad", [*net.parameters()]))
    x, values = torch.randn(64, 1024), torch.rand(64, 100)
    ids = torch.stack([torch.randperm(5_000)[:100] for _ in range(64)])

    def step() -> None:
        torch.autograd.backward(sparse.sigmoid_cross_entropy(net(x), values, ids))
        optimizer.step()
        optimizer.zero_grad()

    weights = sum(p.numel() for p in net.parameters())
    with freed_memory_kept():
        cpu = timed(step, 8, device)[1]
    flops = 2 * 64 * (3 * weights - next(net.parameters()).numel())
    return {"CPU seconds of a step ÷ arithmetic and traffic": cpu / floor(flops, 4 * 9 * weights, device)[1]}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, value in (("classes", 100_000), ("base", 9216), ("batch", 64), ("parts", 20), ("steps", 3)):
        parser.add_argument(f"--{name}", type=int, default=value)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", help="one of the ways; on the CPU memory is only right one by one")
    a = parser.parse_args()
    device = torch.device(a.device)
    sizes = unequal(a.classes, a.parts)
    first = [sum(sizes[:i]) for i in range(a.parts)]
    parts = [[*range(s, s + n)] for s, n in zip(first, sizes, strict=True)]
    x = torch.randn(a.batch, a.base, device=device)
    values = torch.rand(a.batch, 100, device=device)
    ids = torch.stack([torch.randperm(a.classes, device=device)[:100] for _ in range(a.batch)])
    fused = fastest("adagrad", [torch.zeros(1, device=device)])

    def head() -> nn.Module:
        return Head(a.base, a.classes, [("fc", 4096, 0), ("sc", 512, 0)], parts)

    def dense() -> nn.Module:
        return Head(a.base, a.classes, [("fc", 4096, 0), ("fc", 512, 0)])

    ways = {
        "head": (head, sparse.sigmoid_cross_entropy, fused, True),
        "dense": (dense, sparse.sigmoid_cross_entropy, fused, True),
        "loop": (lambda: Loop(a.base, 4096, 512, sizes), dense_loss, {}, False),
        "kept loop": (lambda: Loop(a.base, 4096, 512, sizes), dense_loss, {}, True),
    }
    for name, (make, loss, how, kept) in ways.items():
        if a.only not in ("", name):
            continue
        before = resident()
        with device:
            net = make()
        optimizer = build_optimizer("adagrad", {"lr": 0.001}, net.parameters(), **how)
        weights = sum(p.numel() for p in net.parameters())

        def step(net: nn.Module = net, loss=loss, optimizer=optimizer) -> None:  # type: ignore[no-untyped-def]
            loss(net(x), values, ids).backward()
            optimizer.step()
            optimizer.zero_grad()

        with freed_memory_kept() if kept else contextlib.nullcontext():
            seconds, cpu, faults = timed(step, a.steps, device)
        peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else resident() - before
        # what flows back ends at the features: of the first layer's three products one is not needed
        flops = 2 * a.batch * (3 * weights - next(net.parameters()).numel())
        least = floor(flops, 4 * 9 * weights, device)
        wanted = (3 * weights + a.batch * a.classes) * 4
        print(
            f"{name:9} {weights / 1e6:6.1f}M weights  {seconds:6.3f} s a step, {cpu:.3f} CPU s, {faults:.0f} faults"
            f"  floor {least[0]:.3f} s ({seconds / least[0]:.2f} x), {least[1]:.3f} CPU s ({cpu / least[1]:.2f} x)"
            f"  peak {peak / 2**30:.2f} GiB, {peak / wanted:.2f} x (weights + gradients + state + one B x N buffer)",
            flush=True,
        )
        del net, optimizer, step


if __name__ == "__main__":
    entry(main, brief)
