"""Step time of a joined, pruned and split phase against the same step written by hand with hooks.

    python -m tests.bench.bench_step [--steps 6] [--batch 128] [--compile]

Both loops run in one process, turn by turn, in CPU seconds; the median of their ratios is what counts: below 1 the
graph is faster.
"""

from __future__ import annotations

import argparse
import copy
import operator
import time
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.graph.build import Builder
from kdplan.graph.freeze import split
from kdplan.graph.prune import prune
from kdplan.nn.models.cifar import cifar_resnet
from tests.bench.ratios import Ratios, Times, by_turns, entry

Step = Callable[[Tensor, Tensor], Tensor]


@dataclass(frozen=True)
class Bench:
    """One workload: a step made by kdplan's passes, and the same by hand."""

    graph: Step
    hooks: Step


def _networks() -> tuple[nn.Module, nn.Module, nn.Module]:
    torch.manual_seed(0)
    big = cifar_resnet(depth=56, classes=100).eval().requires_grad_(False)
    small = cifar_resnet(depth=20, classes=100).train()
    return big, small, copy.deepcopy(small)


def _kd(student: Tensor, teacher: Tensor) -> Tensor:
    """Divergence of softened distributions; logits [B, C] -> scalar."""
    log_p, q = F.log_softmax(student / 4, 1), F.softmax(teacher / 4, 1)
    return F.kl_div(log_p, q, reduction="batchmean") * 16


def _finish(b: Builder, loss: torch.fx.Node, parameters: list[nn.Parameter], compiled: bool) -> Step:
    gm = prune(b.finish({"loss": loss}).graph_module).graph_module
    chosen = {id(p) for p in parameters}
    cut = split(gm, {n for n, p in gm.named_parameters() if id(p) in chosen})
    frozen, trainable_graph = cut.frozen, cut.trainable_graph
    assert frozen is not None
    run_frozen: Callable[..., dict[str, Tensor]] = torch.compile(frozen) if compiled else frozen
    run_live: Callable[..., dict[str, Tensor]] = torch.compile(trainable_graph) if compiled else trainable_graph

    def step(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            crossing = run_frozen(inputs=x, labels=y)
        return run_live(inputs=x, labels=y, **crossing)["loss"]

    return _optimized(step, parameters)


def _optimized(loss: Step, parameters: list[nn.Parameter]) -> Step:
    optimizer = torch.optim.SGD(parameters, lr=0.01, momentum=0.9)

    def step(x: Tensor, y: Tensor) -> Tensor:
        value = loss(x, y)
        optimizer.zero_grad()
        torch.autograd.backward(value)
        optimizer.step()
        return value.detach()

    return step


def features(batch: int, compiled: bool) -> Bench:
    """Stage 2 of ResNet-56 matched by stage 2 of ResNet-20: only the student up to there trains."""
    big, mine, theirs = _networks()
    b = Builder()
    x = b.input("inputs", torch.zeros(batch, 3, 32, 32))
    b.input("labels", torch.zeros(batch, dtype=torch.long))
    b.network("big", big)
    b.network("small", mine)
    loss = b.call(F.mse_loss, b.apply("small", (x,), "layer2"), b.apply("big", (x,), "layer2"))
    trainees = ("conv1", "bn1", "layer1", "layer2")
    graph = _finish(b, loss, [p for n, p in mine.named_parameters() if n.startswith(trainees)], compiled)
    caught: dict[nn.Module, Tensor] = {}
    for net in (big, theirs):
        net.get_submodule("layer2").register_forward_hook(lambda m, i, o: caught.__setitem__(m, o))

    def hooked(x: Tensor, _y: Tensor) -> Tensor:
        with torch.no_grad():
            big(x)
        theirs(x)
        return F.mse_loss(caught[theirs.get_submodule("layer2")], caught[big.get_submodule("layer2")])

    return Bench(graph, _optimized(hooked, [p for n, p in theirs.named_parameters() if n.startswith(trainees)]))


def logits(batch: int, compiled: bool) -> Bench:
    """Plain distillation: cross-entropy and the softened teacher; nothing can be pruned."""
    big, mine, theirs = _networks()
    b = Builder()
    x = b.input("inputs", torch.zeros(batch, 3, 32, 32))
    y = b.input("labels", torch.zeros(batch, dtype=torch.long))
    b.network("big", big)
    b.network("small", mine)
    out = b.apply("small", (x,), "logits")
    soft = b.call(_kd, out, b.apply("big", (x,), "logits"))
    graph = _finish(b, b.call(operator.add, b.call(F.cross_entropy, out, y), soft), list(mine.parameters()), compiled)

    def plain(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            target = big(x)
        out = theirs(x)
        return F.cross_entropy(out, y) + _kd(out, target)

    return Bench(graph, _optimized(plain, list(theirs.parameters())))


def measure(bench: Bench, batch: int, steps: int, device: torch.device) -> Times:
    """Seconds of both steps, which give equal losses."""
    g = torch.Generator().manual_seed(0)
    x = torch.randn(batch, 3, 32, 32, generator=g).to(device)
    y = torch.randint(0, 100, (batch,), generator=g).to(device)
    last: dict[str, Tensor] = {}

    def kept(name: str, step: Step) -> Callable[[], None]:
        def run() -> None:
            last[name] = step(x, y)
            if device.type == "cuda":
                torch.cuda.synchronize()

        return run

    timer = time.perf_counter if device.type == "cuda" else time.process_time
    times = by_turns(kept("graph", bench.graph), kept("hooks", bench.hooks), steps, timer)
    torch.testing.assert_close(last["graph"], last["hooks"], rtol=1e-3, atol=1e-4)
    return times


def brief() -> Ratios:
    """Both workloads over the same by hand."""
    torch.set_num_threads(1)
    work = (("stage-2 features", features), ("logits", logits))
    return {f"{n} ÷ hooks": measure(make(16, False), 16, 6, torch.device("cpu")).ratio for n, make in work}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=6)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--compile", action="store_true")
    args = parser.parse_args()
    for name, make in (("stage-2 features", features), ("logits", logits)):
        t = measure(make(args.batch, args.compile), args.batch, args.steps, torch.device("cpu"))
        print(f"{name:18} graph {t.first * 1000:8.1f} ms   hooks {t.second * 1000:8.1f} ms   ratio {t.ratio:.3f}")


if __name__ == "__main__":
    entry(main, brief)
