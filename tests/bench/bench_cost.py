"""Predicted cost of phases against the same steps measured on real tensors.

    python -m tests.bench.bench_cost

Parameters and FLOPs should be exact, peak memory within a tenth.
"""

from __future__ import annotations

import operator
import time

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode

from kdplan.graph.build import Builder
from kdplan.graph.cost import LiveBytes, cost
from kdplan.graph.freeze import split
from kdplan.graph.prune import prune
from tests.bench.ratios import Ratios, entry
from tests.graph.networks import CASES


def measure(name: str, batch: int = 8) -> tuple[int, float, float, float, float]:
    """For a network that distils into a copy of its kind, at its tap and at its logits: parameters predicted beyond
    those trained, FLOPs and peak memory predicted over counted ones, the peak in MiB, and seconds of predicting.
    """
    case = CASES[name]
    big, small = case.make().eval(), case.make().train()
    b = Builder()
    x = b.input("inputs", torch.zeros(batch, 3, case.size, case.size))
    b.network("big", big)
    b.network("small", small)
    taps = [b.call(F.mse_loss, b.apply("small", (x,), t), b.apply("big", (x,), t)) for t in (case.tap, "logits")]
    gm = prune(b.finish({"loss": b.call(operator.add, *taps)}).graph_module).graph_module
    trainable = {n for n, _ in gm.named_parameters() if n.startswith("nets.small.")}
    start = time.perf_counter()
    said = cost(gm, trainable)
    seconds = time.perf_counter() - start
    inputs: list[Tensor] = [torch.randn(batch, 3, case.size, case.size)]
    live_bytes, counter = LiveBytes([*inputs, *gm.parameters(), *gm.buffers()]), FlopCounterMode(display=False)
    with live_bytes, counter:
        torch.autograd.backward(split(gm, trainable)(inputs=inputs[0])["loss"])
    trained = sum(p.numel() for p in small.parameters() if p.grad is not None)
    flops = said.flops_step / counter.get_total_flops()
    return said.trainable - trained, flops, said.peak_bytes / live_bytes.peak, live_bytes.peak / 2**20, seconds


def brief() -> Ratios:
    """What is predicted for the first of the networks, over what is counted."""
    name = next(iter(CASES))
    extra, flops, peak, _, _ = measure(name)
    return {"parameters beyond those trained, and 1": 1.0 + extra, "FLOPs ÷ counted": flops, "peak ÷ counted": peak}


def main() -> None:
    """A line for each network."""
    torch.manual_seed(0)
    for name in CASES:
        extra, flops, peak, mib, seconds = measure(name)
        print(
            f"{name:22} parameters {extra:+d}  FLOPs {flops:.4f}  peak {peak:.4f} of {mib:.1f} MiB  ({seconds:.2f} s)"
        )


if __name__ == "__main__":
    entry(main, brief)
