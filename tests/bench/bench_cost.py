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
from tests.graph.networks import CASES


def compare(name: str, batch: int = 8) -> str:
    """One line for a network that distils into a copy of its kind, at its tap and at its logits."""
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
    return (
        f"{name:22} parameters {said.trainable - trained:+d}  FLOPs {said.flops_step / counter.get_total_flops():.4f}  "
        f"peak {said.peak_bytes / live_bytes.peak:.4f} of {live_bytes.peak / 2**20:.1f} MiB  ({seconds:.2f} s)"
    )


if __name__ == "__main__":
    torch.manual_seed(0)
    for each in CASES:
        print(compare(each), flush=True)
