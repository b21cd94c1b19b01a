"""Step time of a phase of branches against that of as many networks, and of branches run in turn against stacked ones.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_branches [--steps 8] [--device cpu] [--only steps|stacked]

Steps: one step (forward, backward, SGD) of a phase with three branches from `layer3` on, with gate and distillation, as
compiled from the plan below; and one step each of three phases of three plain networks. By turns in one process; their
ratio stands beside that of their FLOPs, which is `kdplan.graph.cost`'s count.

Stacked: what is branched alone, forward and backward in training mode, from the features that the branches share: its
copies one after another, as `kdplan.graph.branched` runs them, or all at once on stacked weights and statistics
(`torch.func.stack_module_state`, `functional_call`, `vmap`). Both must give equal logits, gradients and statistics,
within rounding, or nothing is printed. Below 1 stacking is faster.

On the CPU, seconds are those of the one-threaded process, which others disturb less than the clock on the wall.
"""

from __future__ import annotations

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn
from torch.func import functional_call, stack_module_state, vmap
from torch.nn import functional as F

from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from kdplan.graph.assemble import assemble
from kdplan.graph.inspect import fresh, inspect_phase
from kdplan.graph.phase_graph import Networks
from kdplan.nn.models import create
from tests.bench.ratios import Ratios, by_turns, entry

PLAN = """
param batch = 128
data images = arrays("images.npz")
recipe usual {
  optimizer = sgd(lr = 0.1, momentum = 0.9, nesterov = true, weight_decay = 1e-4)
  epochs    = 300
  batch     = batch
}
model net = MODEL
student plain[i in 0..2] = net {
  seed = i
  phase train on images with usual { loss = cross_entropy(self.logits, labels) }
}
branches one of net from layer3 on images with usual {
  loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels)
       + 9 * sum(kl(b.logits, gated.logits, temperature = 3) for b in branch)
}
"""
NETS = {
    "resnet20": "cifar_resnet(depth = 20, classes = 100)",
    "resnet32": "cifar_resnet(depth = 32, classes = 100)",
    "resnext29 2x16d": "cifar_resnext(depth = 29, cardinality = 2, width = 16, classes = 100)",
}
Step = Callable[[], object]


def clock(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
        return time.perf_counter()
    return time.process_time()


# ---- whole steps


def whole(model: str, batch: int, device: torch.device) -> tuple[Step, Step, float]:
    """A step of each of three networks, a step of three branches, and the ratio of their FLOPs."""
    rng = np.random.default_rng(0)
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        x, y = rng.integers(0, 256, (200, 3, 32, 32), dtype=np.uint8), np.arange(200) % 100
        np.savez(folder / "images.npz", train_x=x, train_y=y, test_x=x[:100], test_y=y[:100])
        text = PLAN.replace("MODEL", NETS[model])
        plan = compile_source(Source("bench.kd", text), folder, folder, params={"batch": str(batch)}).plan
    inputs = torch.randn(batch, 3, 32, 32, generator=torch.Generator().manual_seed(0)).to(device)
    labels = (torch.arange(batch) % 100).to(device)

    def step(name: str) -> tuple[Step, int]:
        phase = plan.phases[name]
        net = fresh(plan.networks[phase.trainees[0].base.network]).to(device).train()
        made = assemble(plan, phase, Networks([net]))
        made.set_modes()
        optimizer = torch.optim.SGD(net.parameters(), lr=0.01, momentum=0.9, nesterov=True, weight_decay=1e-4)

        def run() -> None:
            loss = made.trainable_graph(inputs_0=inputs, labels_0=labels)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return run, inspect_phase(plan, phase).cost.flops_step

    singles = [step(f"plain[i={i}]@train") for i in range(3)]
    branched, flops = step("one@train")
    return lambda: [run() for run, _ in singles], branched, flops / sum(f for _, f in singles)


# ---- branches alone


class Tail(nn.Module):
    """What is branched: the last group of layers and the classifier; ``[B, C, H, W] -> [B, classes]``."""

    def __init__(self, net: nn.Module, part: str) -> None:
        super().__init__()
        self.layer, self.fc = net.get_submodule(part), net.get_submodule("fc")

    def forward(self, x: Tensor) -> Tensor:
        found: Tensor = self.fc(self.layer(x).mean(dim=(2, 3)))
        return found


def alone(tails: list[Tail], shape: tuple[int, ...], device: torch.device) -> tuple[Step, Step]:
    """Forward and backward of tails one after another, and stacked; checked to give the same."""
    x = torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(device)
    labels = (torch.arange(shape[0]) % 10).to(device)
    ours = [copy.deepcopy(t).to(device).train() for t in tails]
    theirs = [copy.deepcopy(t).to(device).train() for t in tails]
    parameters, buffers = stack_module_state(theirs)
    model = copy.deepcopy(theirs[0]).to("meta")
    one, two = (x.clone().requires_grad_() for _ in range(2))

    def called(p: dict[str, Tensor], b: dict[str, Tensor], x: Tensor) -> Tensor:
        found: Tensor = functional_call(model, (p, b), (x,))
        return found

    def loss(logits: Tensor) -> Tensor:
        """Of logits [branches, B, classes]."""
        return F.cross_entropy(logits.flatten(0, 1), labels.repeat(len(logits)))

    def in_turn() -> Tensor:
        for t in ours:
            t.zero_grad()
        logits = torch.stack([t(one) for t in ours])
        torch.autograd.backward(loss(logits))
        return logits.detach()

    def stacked() -> Tensor:
        for p in parameters.values():
            p.grad = None
        logits: Tensor = vmap(called, (0, 0, None))(parameters, buffers, two)
        torch.autograd.backward(loss(logits))
        return logits.detach()

    torch.testing.assert_close(in_turn(), stacked(), rtol=1e-3, atol=1e-3)
    torch.testing.assert_close(one.grad, two.grad, rtol=1e-2, atol=1e-4)
    for name, p in parameters.items():
        grads = [t.get_parameter(name).grad for t in ours]
        torch.testing.assert_close(torch.stack([g for g in grads if g is not None]), p.grad, rtol=1e-2, atol=1e-4)
    for name, b in buffers.items():
        torch.testing.assert_close(torch.stack([t.get_buffer(name) for t in ours]), b, rtol=1e-3, atol=1e-4)
    return in_turn, stacked


CASES = [
    ("digits_net 8", ("digits_net", {"width": 8}), "layer2", (16, 4, 4)),
    ("resnet20", ("cifar_resnet", {"depth": 20}), "layer3", (32, 16, 16)),
    ("resnet32", ("cifar_resnet", {"depth": 32}), "layer3", (32, 16, 16)),
    ("resnext29 2x16d", ("cifar_resnext", {"cardinality": 2, "width": 16}), "layer3", (512, 16, 16)),
]


def brief() -> Ratios:
    """A step of three branches over one of three networks, each for its FLOPs."""
    torch.set_num_threads(1)
    device = torch.device("cpu")
    nets, branched, flops = whole("resnet20", 16, device)
    return {"step of branches ÷ three networks, per FLOP": by_turns(branched, nets, 4, warm=1).ratio / flops}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=8)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--only", default="", choices=["", "steps", "stacked"])
    parser.add_argument("--cases", type=int, default=len(CASES), help="of networks whose branches are stacked")
    parser.add_argument("--batches", type=int, nargs="+", default=[1, 4, 16, 128])
    args = parser.parse_args()
    device = torch.device(args.device)
    if args.only != "stacked":
        for model, batch in (("resnet20", 128), ("resnet32", 128), ("resnet32", 16)):
            nets, branched, flops = whole(model, batch, device)
            t = by_turns(branched, nets, args.steps, partial(clock, device))
            print(f"{model:16} batch {batch:4}   three nets {t.second * 1e3:8.1f} ms   "
                  f"branches {t.first * 1e3:8.1f} ms   "
                  f"ratio {t.ratio:.3f}   by FLOPs {flops:.3f}", flush=True)  # fmt: skip
    if args.only != "steps":
        for name, (factory, settings), part, features in CASES[: args.cases]:
            for count in (3, 5):
                tails = [Tail(create(factory, **settings), part) for _ in range(count)]
                for batch in args.batches:
                    if batch == 1 and features[1] == 1:
                        continue
                    in_turn, stacked = alone(tails, (batch, *features), device)
                    t = by_turns(stacked, in_turn, args.steps, partial(clock, device))
                    print(f"{name:16} {count} branches   batch {batch:4}   in turn {t.second * 1e3:8.2f} ms   "
                          f"stacked {t.first * 1e3:8.2f} ms   ratio {t.ratio:.3f}", flush=True)  # fmt: skip


if __name__ == "__main__":
    entry(main, brief)
