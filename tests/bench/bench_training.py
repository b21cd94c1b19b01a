"""What a training step on a CPU gains, row by row: before and after by turns in one process, as ratios of medians.

    OMP_NUM_THREADS=1 python -m tests.bench.bench_training [optimizer] [layout] [fold] [batches] [compile] [--steps 7]

Below 1 the present form is faster. CPU seconds (`time.process_time`) count, so run each row with one thread.

- `optimizer`: one call for all weights against weight by weight;
- `layout`: channels last against contiguous, training alone and distillation, for the networks that plans can name.
  Those that are not above 1 belong to `FASTER` in `kdplan/passes/layout.py`;
- `fold`: a frozen network with its batch norms folded;
- `batches`: windows gathered whole and draws of an epoch made once, against one gather of pixels;
- `compile`: steps compiled against steps as they are, and the seconds that the first took. Takes minutes.
"""

from __future__ import annotations

import argparse
import copy
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn
from torch.nn import functional as F

from kdplan.data import augment
from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.transforms import transform
from kdplan.data.view import ViewSpec
from kdplan.graph.build import Builder
from kdplan.graph.folding import fold, foldings
from kdplan.graph.freeze import split
from kdplan.graph.prune import prune
from kdplan.ir.implementation import load
from kdplan.nn.catalog import MODELS
from kdplan.nn.fused import fastest, prepare
from kdplan.nn.optim import build_optimizer
from tests.bench.ratios import Ratios, entry

Call = Callable[[], object]


def ratio(before: Call, after: Call, turns: int) -> tuple[float, float]:
    """The median of `after / before`, and the median CPU seconds of `before`; both by turns, after two that warm up."""
    seconds: dict[str, list[float]] = {"before": [], "after": []}
    for turn in range(turns + 2):
        pair = [("before", before), ("after", after)]
        for name, call in pair if turn % 2 else reversed(pair):
            start = time.process_time()
            call()
            if turn >= 2:
                seconds[name].append(time.process_time() - start)
    ratios = [a / b for a, b in zip(seconds["after"], seconds["before"], strict=True)]
    return statistics.median(ratios), statistics.median(seconds["before"])


def show(row: str, of: str, before: Call, after: Call, turns: int) -> None:
    """Print one line of a row."""
    value, seconds = ratio(before, after, turns)
    print(f"{row:10} {of:52} before {seconds * 1e3:9.3f} ms   after / before {value:.3f}", flush=True)


def network(name: str, **settings: Any) -> nn.Module:
    """A network of the catalogue with fixed weights."""
    torch.manual_seed(0)
    made: nn.Module = load(MODELS[name].implementation)(**settings)
    return made


# ---- rows


def optimizer(turns: int) -> None:
    """Small and usual networks, every optimizer with a fused kernel."""
    nets = {"digits_net(width = 8)": network("digits_net", width=8), "cifar_resnet(20)": network("cifar_resnet")}
    for named, net in nets.items():
        for name, given in (("sgd", {"lr": 1e-3}), ("sgd", {"lr": 1e-3, "momentum": 0.9, "weight_decay": 5e-4}),
                            ("adam", {}), ("adamw", {}), ("adagrad", {})):  # fmt: skip
            pair = [_steps(copy.deepcopy(net), name, given, fused) for fused in (False, True)]
            momentum = " with momentum" if "momentum" in given else ""
            show("optimizer", f"20 steps of {name}{momentum}, {named}", pair[0], pair[1], turns)


def _steps(net: nn.Module, name: str, given: dict[str, Any], fused: bool) -> Call:
    """Twenty steps of an optimizer."""
    own = list(net.parameters())
    made = build_optimizer(name, given, own, **(fastest(name, own) if fused else {}))
    for p in own:
        p.grad = torch.randn_like(p)

    def steps() -> None:
        for _ in range(20):
            prepare(made)
            made.step()

    return steps


CASES: list[tuple[str, dict[str, Any], tuple[int, int, int], int]] = [
    ("cifar_resnet", {"depth": 20}, (3, 32, 32), 64),
    ("cifar_resnet", {"depth": 8, "channels": 1}, (1, 8, 8), 64),
    ("cifar_wide_resnet", {"depth": 10}, (3, 32, 32), 32),
    ("cifar_resnext", {"depth": 11, "width": 16, "cardinality": 4}, (3, 32, 32), 8),
    ("cifar_vgg", {"depth": 8, "width": 0.25}, (3, 32, 32), 64),
    ("cifar_densenet", {"depth": 22}, (3, 32, 32), 16),
    ("digits_net", {"width": 2}, (1, 8, 8), 64),
    ("digits_net", {"width": 16}, (1, 8, 8), 64),
    ("alexnet", {"width": 0.25}, (3, 224, 224), 4),
    ("bn_inception", {}, (3, 112, 112), 2),
    ("torchvision", {"name": "resnet18", "classes": 10}, (3, 64, 64), 8),
    ("torchvision", {"name": "mobilenet_v2", "classes": 10}, (3, 64, 64), 8),
]


def layout(turns: int) -> None:
    """Training steps of one network, and of a student with a teacher of its own kind."""
    for name, given, shape, batch in CASES:
        for kd in (False, True):
            pair = []
            for last in (False, True):
                net, teacher = network(name, **given).train(), network(name, **given).eval()
                x, y = torch.randn(batch, *shape), torch.randint(0, 10, (batch,))
                if last:
                    net, teacher = (m.to(memory_format=torch.channels_last) for m in (net, teacher))
                    x = x.contiguous(memory_format=torch.channels_last)
                pair.append(_trained(net, x, y, teacher if kd else None))
            what = "distilled" if kd else "trained"
            settings = ", ".join(f"{k} = {v}" for k, v in given.items())
            show("layout", f"{what}: {name}({settings})", pair[0], pair[1], turns)


def _trained(net: nn.Module, x: Tensor, y: Tensor, teacher: nn.Module | None) -> Call:
    own = list(net.parameters())
    sgd = build_optimizer("sgd", {"lr": 1e-3, "momentum": 0.9}, own, **fastest("sgd", own))

    def step() -> None:
        sgd.zero_grad()
        out = net(x)
        loss = F.cross_entropy(out, y)
        if teacher is not None:
            with torch.no_grad():
                soft = F.softmax(teacher(x), 1)
            loss = loss + F.kl_div(F.log_softmax(out, 1), soft, reduction="batchmean")
        torch.autograd.backward(loss)
        prepare(sgd)
        sgd.step()

    return step


def folding(turns: int) -> None:
    """The frozen graph of a distillation, alone and as part of its step."""
    for last in (False, True):
        big, small = network("cifar_resnet", depth=56).eval().requires_grad_(False), network("cifar_resnet", depth=20)
        b = Builder()
        x = b.input("inputs", torch.zeros(16, 3, 32, 32))
        b.network("big", big)
        b.network("small", small.train())
        loss = b.call(F.mse_loss, b.apply("small", (x,), "logits"), b.apply("big", (x,), "logits"))
        joined = b.finish({"loss": loss})
        gm = prune(joined.graph_module).graph_module
        chosen = {id(p) for p in small.parameters()}
        cut = split(gm, {n for n, p in gm.named_parameters() if id(p) in chosen})
        assert cut.frozen is not None
        folded = fold(gm, cut.frozen, foldings(gm, cut.frozen, joined.training, chosen).pairs)
        images = torch.randn(16, 3, 32, 32)
        if last:
            gm.to(memory_format=torch.channels_last)
            images = images.contiguous(memory_format=torch.channels_last)
        one, other = (_frozen(g, images) for g in (cut.frozen, folded))
        word = "channels last" if last else "contiguous"
        show("fold", f"frozen ResNet-56 alone, {word}", one, other, turns)
        one, other = (
            _distilled(g, cut.trainable_graph, list(small.parameters()), images) for g in (cut.frozen, folded)
        )
        show("fold", f"step of ResNet-56 -> ResNet-20, {word}", one, other, turns)


def _frozen(graph: fx.GraphModule, images: Tensor) -> Call:
    def call() -> Mapping[str, Tensor]:
        with torch.no_grad():
            values: Mapping[str, Tensor] = graph(inputs=images)
            return values

    return call


def _distilled(graph: fx.GraphModule, live: nn.Module, own: list[nn.Parameter], images: Tensor) -> Call:
    sgd = build_optimizer("sgd", {"lr": 1e-3, "momentum": 0.9}, own, **fastest("sgd", own))
    frozen = _frozen(graph, images)

    def step() -> None:
        sgd.zero_grad()
        torch.autograd.backward(live(inputs=images, **frozen())["loss"])  # type: ignore[arg-type]
        prepare(sgd)
        sgd.step()

    return step


def batches(turns: int) -> None:
    """An epoch of digits, as it comes and augmented; and the augmentation of a batch of CIFAR's size."""

    def by_pixels(x: Tensor, args: Mapping[str, Any], draws: augment.Draws) -> Tensor:
        size, pad = args["size"], args.get("pad", 0)
        a, b, _, _ = draws.words()
        h, w = x.shape[2] + 2 * pad, x.shape[3] + 2 * pad
        top, left = augment.below(a, h - size + 1) - pad, augment.below(b, w - size + 1) - pad
        return augment.crop(x, top, left, (size, size), args.get("fill", 0))

    def before(call: Call) -> Call:
        def changed() -> None:
            present = augment.load
            augment.load = lambda name: by_pixels if name.endswith(":pad_crop") else present(name)  # type: ignore[attr-defined]
            try:
                call()
            finally:
                augment.load = present  # type: ignore[attr-defined]

        return changed

    steps = (transform("pad_crop", [8], {"pad": 1}), transform("flip"))
    loader = Loader(open_view(ViewSpec("digits", augment=steps), None), 64, 0, train=True)
    epochs = iter(range(10**9))

    def epoch() -> None:
        for _ in loader.epoch(next(epochs)):
            pass

    show("batches", f"epoch of digits, {loader.steps_per_epoch} augmented batches", before(epoch), epoch, turns)
    plain = Loader(open_view(ViewSpec("digits"), None), 64, 0, train=True)
    start, count = time.process_time(), 0
    for number in range(20):
        count += sum(1 for _ in plain.epoch(number))
    print(f"batches    a batch of digits as it comes takes {(time.process_time() - start) / count * 1e6:.0f} us")
    images, index = torch.randint(0, 256, (128, 3, 32, 32), dtype=torch.uint8), torch.arange(128)
    numbers, cifar = augment.HeldNumbers(128, index.device, 0, 0), [(0, transform("pad_crop", [32], {"pad": 4}))]

    def crops() -> None:
        augment.augment(images, cifar, index, numbers)

    show("batches", "pad_crop of 128 images of 32 x 32", before(crops), crops, turns)


def compiling(turns: int) -> None:
    """A distillation step."""
    teacher, net = network("cifar_resnet", depth=20).eval(), network("cifar_resnet", depth=8).train()
    x, y = torch.randn(64, 3, 32, 32), torch.randint(0, 10, (64,))
    quick = torch.compile(copy.deepcopy(net), dynamic=False)
    quick_teacher = torch.compile(teacher, dynamic=False)
    one, other = _trained(net, x, y, teacher), _trained(quick, x, y, quick_teacher)  # type: ignore[arg-type]
    start = time.process_time()
    other()
    print(f"compile    the first step took {time.process_time() - start:.0f} CPU s")
    show("compile", "step of ResNet-20 -> ResNet-8", one, other, turns)


ROWS = {"optimizer": optimizer, "layout": layout, "fold": folding, "batches": batches, "compile": compiling}


def brief() -> Ratios:
    """Optimizers of a small network, fused over one weight after another."""
    torch.set_num_threads(1)
    ratios = {}
    for name, given in (("sgd", {"lr": 1e-3, "momentum": 0.9}), ("adam", {})):
        pair = [_steps(network("digits_net", width=8), name, given, fused) for fused in (False, True)]
        ratios[f"20 steps of {name}: fused ÷ not"] = ratio(pair[0], pair[1], 15)[0]
    return ratios


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("rows", nargs="*", choices=[*ROWS, []], default=["optimizer", "layout", "fold", "batches"])
    parser.add_argument("--steps", type=int, default=7)
    given = parser.parse_args()
    for row in given.rows:
        ROWS[row](given.steps)


if __name__ == "__main__":
    entry(main, brief)
