"""One step of distillation by kdplan and by others: time, start, memory, accuracy, and what the arithmetic takes.

    python -m tests.bench.peers [--steps 20] [--batch 128] [--images 4000] [--epochs 2] [--only NAME…]

ResNet-20 teaches ResNet-8 on CIFAR-100 (in KDPLAN_DATA): cross-entropy and the softened teacher, SGD with momentum and
weight decay. The forms:

- `kdplan`: one step of `Training`, as compiled from the plan below;
- `lean`: the shortest loop by hand;
- `repdistiller`: a loop in the style of RepDistiller, with hooks, weighted criteria, and meters that read the loss and
  two accuracies in every step;
- `torchdistill`: its `DistillationBox`, configured as in its examples (`pip install kdplan[bench]`).

Steps: all forms begin with equal weights and go through the same batches by turns in one process. They must give equal
losses, to 1e-6 at first and as much again with every step, and equal weights at the end, or nothing is printed. Start
and memory: each form in a process of its own, from its begin to the end of the first step, and its peak resident memory
a few steps later. Accuracy: each form trains some epochs with the loader that it comes with. The limit is the step's
FLOPs at the best rate of a convolution that is measured here, plus the bytes that its operators read and write at the
rate of a copy that is measured here.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils.data import DataLoader
from torch.utils.flop_counter import FlopCounterMode

from tests.bench.ratios import Ratios, entry

PLAN = """
param batch = 128
param epochs = 1
param images = 4000
param teacher_seed = 0
data cifar = cifar100 { limit = images  augment = [pad_crop(32), flip()] }
recipe steps { optimizer = sgd(lr = 0.05, momentum = 0.9, weight_decay = 5e-4)  epochs = epochs  batch = batch }
teacher big = cifar_resnet(depth = 20, classes = 100)
student small = cifar_resnet(depth = 8, classes = 100)
phase distil of small on cifar with steps {
  loss = 0.1 * cross_entropy(small.logits, labels) + 0.9 * kd(small.logits, big@init.logits, temperature = 4)
}
"""
SGD = {"lr": 0.05, "momentum": 0.9, "weight_decay": 5e-4}
TEMPERATURE, HARD, SOFT = 4.0, 0.1, 0.9
Batches = Iterator[tuple[Tensor, Tensor]]


@dataclass
class Form:
    """One way of doing the work."""

    step: Callable[[Tensor, Tensor], Tensor]
    """A step on images [B, 3, 32, 32] and labels [B]; gives the loss."""
    student: nn.Module


def networks() -> tuple[nn.Module, nn.Module]:
    """The teacher, whose statistics fit its weights, and the student."""
    from kdplan.nn.models.cifar import cifar_resnet

    torch.manual_seed(0)
    teacher, student = cifar_resnet(depth=20, classes=100), cifar_resnet(depth=8, classes=100)
    with torch.no_grad():
        teacher.train()(torch.randn(64, 3, 32, 32))
    return teacher.eval().requires_grad_(False), student.train()


def kdplan() -> Form:
    """What `kdplan run` trains, from the plan."""
    from kdplan.compile import compile_source
    from kdplan.diagnostics.span import Source
    from kdplan.graph.assemble import assemble, frozen_versions
    from kdplan.graph.phase_graph import Networks
    from kdplan.runtime.loop import Job, Training
    from kdplan.runtime.store import Store
    from kdplan.runtime.streams import Streams

    class NoStreams(Streams):
        """Batches are given; only their number counts."""

        def __init__(self) -> None:
            self.steps_of_an_epoch = 10**6

        @property
        def steps(self) -> int:
            return self.steps_of_an_epoch

        @property
        def whole(self) -> list[int]:
            return [phase.recipes[0].batch_of()]

    plan = compile_source(Source("peers.kd", PLAN), Path.cwd(), data_root()).plan
    phase = plan.phases["distil"]
    teacher, student = networks()
    versions = {str(v): teacher for v in frozen_versions(phase)}
    graph = assemble(plan, phase, Networks([student], versions))
    folder = tempfile.mkdtemp()
    with Store(folder).begin("peers") as work:
        training = Training(Job("distil", graph, phase.recipes, NoStreams(), work, torch.device("cpu"), phase.seed))
    before = [0.0]

    def step(x: Tensor, y: Tensor) -> Tensor:
        training.train_step({"inputs_0": x, "labels_0": y, "indices_0": torch.arange(len(x))})
        training.step += 1
        total, sums = before[0], training.watch.sums[0].item()
        before[0] = sums
        return torch.tensor((sums - total) / len(x))

    return Form(step, student)


def lean() -> Form:
    """Nothing but what the step needs."""
    teacher, student = networks()
    optimizer = torch.optim.SGD(student.parameters(), **SGD)

    def step(x: Tensor, y: Tensor) -> Tensor:
        with torch.no_grad():
            target = F.softmax(teacher(x) / TEMPERATURE, 1)
        out = student(x)
        soft = F.kl_div(F.log_softmax(out / TEMPERATURE, 1), target, reduction="batchmean") * TEMPERATURE**2
        loss = HARD * F.cross_entropy(out, y) + SOFT * soft
        optimizer.zero_grad()
        torch.autograd.backward(loss)
        optimizer.step()
        return loss.detach()

    return Form(step, student)


class _Meter:
    """As RepDistiller's `AverageMeter`."""

    def __init__(self) -> None:
        self.sum, self.count, self.avg = 0.0, 0, 0.0

    def update(self, value: float, n: int) -> None:
        self.sum, self.count = self.sum + value * n, self.count + n
        self.avg = self.sum / self.count


class _Soft(nn.Module):
    """As RepDistiller's `DistillKL`."""

    def forward(self, student: Tensor, teacher: Tensor) -> Tensor:
        log_p, q = F.log_softmax(student / TEMPERATURE, dim=1), F.softmax(teacher / TEMPERATURE, dim=1)
        return F.kl_div(log_p, q, reduction="sum") * TEMPERATURE**2 / student.shape[0]


def repdistiller() -> Form:
    """A list of criteria with weights, all features of both networks, and meters read in every step."""
    teacher, student = networks()
    optimizer = torch.optim.SGD(student.parameters(), **SGD)
    criteria = nn.ModuleList([nn.CrossEntropyLoss(), _Soft(), _Soft()])
    meters = [_Meter() for _ in range(3)]
    caught: dict[nn.Module, Tensor] = {}
    for net in (teacher, student):
        for name in ("layer1", "layer2", "layer3", "avgpool"):
            net.get_submodule(name).register_forward_hook(lambda m, i, o: caught.__setitem__(m, o))

    def step(x: Tensor, y: Tensor) -> Tensor:
        out = student(x)
        with torch.no_grad():
            target = teacher(x)
            target = target.detach()
        loss = HARD * criteria[0](out, y) + SOFT * criteria[1](out, target)
        top = out.topk(5, 1)[1].t().eq(y.view(1, -1))
        values = (loss.item(), top[:1].float().sum().item(), top[:5].float().sum().item())
        for meter, value in zip(meters, values, strict=True):
            meter.update(value, len(x))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        return loss.detach()

    return Form(step, student)


def torchdistill() -> Form:
    """Its own box, with hooks on the logits."""
    import logging

    logging.disable(logging.INFO)
    from torchdistill.core.distillation import get_distillation_box
    from torchdistill.core.interfaces import forward_proc  # noqa: F401  registers its functions
    from torchdistill.losses import mid_level  # noqa: F401  registers its losses

    teacher, student = networks()
    hooked = {"sequential": [], "forward_hook": {"input": [], "output": ["fc"]}, "forward_proc": "forward_batch_only"}
    paths = {f"{who}_module_{what}": value for who in ("student", "teacher")
             for what, value in (("path", "fc"), ("io", "output"))}  # fmt: skip
    kd = {"key": "KDLoss", "kwargs": paths | {"temperature": TEMPERATURE, "alpha": HARD, "beta": SOFT}}
    box: Any = get_distillation_box(
        teacher,
        student,
        {},
        {
            "num_epochs": 1,
            "teacher": hooked | {"requires_grad": False},
            "student": dict(hooked),
            "optimizer": {"key": "SGD", "kwargs": dict(SGD)},
            "criterion": {"key": "WeightedSumLoss", "kwargs": {"sub_terms": {"kd": {"criterion": kd, "weight": 1.0}}}},
        },
        torch.device("cpu"),
        None,
        False,
        1,
    )
    box.pre_epoch_process(epoch=0)

    def step(x: Tensor, y: Tensor) -> Tensor:
        loss: Tensor = box.forward_process(x, targets=y, supp_dict={})
        box.post_forward_process(loss=loss)
        return loss.detach()

    return Form(step, student)


FORMS: dict[str, Callable[[], Form]] = {
    "kdplan": kdplan, "lean": lean, "repdistiller": repdistiller, "torchdistill": torchdistill
}  # fmt: skip


def there(wanted: list[str]) -> list[str]:
    """The forms that can run here; a line for one that cannot."""
    if "torchdistill" in wanted and find_spec("torchdistill") is None:
        print("torchdistill is not installed, so it is left out: pip install kdplan[bench]", file=sys.stderr)
        return [name for name in wanted if name != "torchdistill"]
    return wanted


def data_root() -> Path | None:
    """The folder of the data sets, if there is one."""
    folder = os.environ.get("KDPLAN_DATA")
    return Path(folder) if folder else None


def noise(batch: int) -> Batches:
    """Batches without end; what they show makes no step longer."""
    g = torch.Generator().manual_seed(0)
    while True:
        yield torch.randn(batch, 3, 32, 32, generator=g), torch.randint(0, 100, (batch,), generator=g)


def steps(forms: dict[str, Form], batches: Batches, count: int) -> dict[str, tuple[float, float]]:
    """CPU seconds and seconds of a step of each form, medians; they go by turns, and give equal losses and weights."""
    times: dict[str, list[tuple[float, float]]] = {name: [] for name in forms}
    names = list(forms)
    for turn in range(count + 2):
        x, y = next(batches)
        losses = {}
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            began, cpu = time.perf_counter(), time.process_time()
            losses[name] = float(forms[name].step(x, y))
            if turn >= 2:
                times[name].append((time.process_time() - cpu, time.perf_counter() - began))
        for loss in losses.values():
            assert abs(loss - losses[names[0]]) <= 1e-6 * max(1.0, abs(loss)) * (turn + 1), (turn, losses)
    first, *others = (dict(form.student.named_parameters()) for form in forms.values())
    for other in others:
        for name, p in first.items():
            torch.testing.assert_close(p, other[name], rtol=1e-3, atol=1e-4)  # steps amplify rounding
    return {name: tuple(map(statistics.median, zip(*rows, strict=True))) for name, rows in times.items()}  # type: ignore[misc]


# ---- the limit


class Traffic(TorchDispatchMode):
    """Bytes that operators read and write; views move none."""

    def __init__(self) -> None:
        super().__init__()
        self.bytes = 0

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        result = func(*args, **(kwargs or {}))
        if not func.is_view:
            tensors = [t for t in torch.utils._pytree.tree_leaves((args, kwargs, result)) if isinstance(t, Tensor)]
            self.bytes += sum(t.numel() * t.element_size() for t in {id(t): t for t in tensors}.values())
        return result


def best(work: Callable[[], object], turns: int = 5) -> float:
    """The least CPU seconds of some work."""
    seconds = []
    for _ in range(turns):
        began = time.process_time()
        work()
        seconds.append(time.process_time() - began)
    return min(seconds)


def limit(batch: int) -> float:
    """CPU seconds of a step's arithmetic at the best rate of a convolution, and of its traffic at that of a copy."""
    form, (x, y) = lean(), next(noise(batch))
    form.step(x, y)  # the optimizer's state is made in the first step
    flops, traffic = FlopCounterMode(display=False), Traffic()
    with flops:
        form.step(x, y)
    with traffic:
        form.step(x, y)
    rates = []
    for channels, size in ((16, 32), (32, 16), (64, 8), (256, 16)):
        maps, kernel = torch.randn(batch, channels, size, size), torch.randn(channels, channels, 3, 3)
        counted = 2 * batch * channels * channels * 9 * size * size
        rates.append(counted / best(lambda m=maps, k=kernel: F.conv2d(m, k, padding=1)))  # type: ignore[misc]
    a = torch.empty(1 << 24)
    b = torch.empty_like(a)
    copied = 2 * a.numel() * a.element_size() / best(lambda: b.copy_(a))
    return float(flops.get_total_flops() / max(rates) + traffic.bytes / copied)


# ---- start, memory, accuracy


def alone(name: str, batch: int, count: int) -> None:
    """Prints seconds since this process began, of the wall and of the CPU, up to the first step, and peak MiB."""
    form, batches = FORMS[name](), noise(batch)
    form.step(*next(batches))
    with open("/proc/self/stat", encoding="ascii") as file:
        ticks = int(file.read().rpartition(")")[2].split()[19])
    with open("/proc/uptime", encoding="ascii") as file:
        up = float(file.read().split()[0])
    start = up - ticks / os.sysconf("SC_CLK_TCK"), time.process_time()
    for _ in range(count):
        form.step(*next(batches))
    print(json.dumps([*start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024]))


def in_process(name: str, batch: int, count: int) -> tuple[float, float, float]:
    """`alone` in a process of its own."""
    command = [sys.executable, "-m", "tests.bench.peers", "--alone", name, "--batch", str(batch), "--steps", str(count)]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    wall, cpu, memory = json.loads(done.stdout.splitlines()[-1])
    return wall, cpu, memory


def usual_loader(root: Path, batch: int, images: int) -> DataLoader[tuple[Tensor, Tensor]]:
    """Training images as scripts read them: torchvision's data set and transforms, torch's loader."""
    from torchvision.transforms import v2

    from kdplan.data.dataset import open_view
    from kdplan.data.view import ViewSpec

    data = open_view(ViewSpec("cifar100", limit=images), root)
    mean, std = (t.flatten().tolist() for t in data._normal or ())
    change = v2.Compose([v2.RandomCrop(32, 4), v2.RandomHorizontalFlip(), v2.ToDtype(torch.float32, scale=True),
                         v2.Normalize(mean, std)])  # fmt: skip
    assert data.labels is not None
    labels = data.labels.tolist()
    pairs = [(data._inputs[i], labels[i]) for i in range(len(data))]  # type: ignore[attr-defined]
    return DataLoader(pairs, batch, shuffle=True, drop_last=False,
                      collate_fn=lambda rows: (torch.stack([change(x) for x, _ in rows]),
                                               torch.tensor([y for _, y in rows])))  # fmt: skip


def own_loader(root: Path, batch: int, images: int, epoch: int) -> Batches:
    """The same images as kdplan reads them."""
    from kdplan.data.dataset import open_view
    from kdplan.data.loader import Loader
    from kdplan.data.transforms import transform
    from kdplan.data.view import ViewSpec

    view = ViewSpec("cifar100", limit=images, augment=(transform("pad_crop", [32]), transform("flip")))
    for one in Loader(open_view(view, root), batch, 0, True).epoch(epoch):
        yield one["inputs"], one["labels"]


def accuracy(name: str, root: Path, batch: int, images: int, epochs: int) -> tuple[float, float]:
    """Top-1 on 2,000 test images after some epochs, and CPU seconds of a step with its loader."""
    from kdplan.data.dataset import open_view
    from kdplan.data.view import ViewSpec

    torch.manual_seed(1)
    form, count, began = FORMS[name](), 0, time.process_time()
    loader = usual_loader(root, batch, images) if name != "kdplan" else None
    for epoch in range(epochs):
        for x, y in loader if loader is not None else own_loader(root, batch, images, epoch):
            form.step(x, y)
            count += 1
    seconds = (time.process_time() - began) / count
    test = open_view(ViewSpec("cifar100", split="test", limit=2000), root).batch(torch.arange(2000))
    with torch.no_grad():
        right = form.student.eval()(test["inputs"]).argmax(1) == test["labels"]
    return float(right.float().mean()), seconds


# ---- the command line


def brief() -> Ratios:
    """CPU seconds of a step of kdplan over those of the others, and over the limit."""
    torch.set_num_threads(1)
    forms = {name: FORMS[name]() for name in there(list(FORMS))}
    times = {name: cpu for name, (cpu, _) in steps(forms, noise(32), 8).items()}
    found = {f"step of kdplan ÷ {name}": times["kdplan"] / cpu for name, cpu in times.items() if name != "kdplan"}
    return found | {"step of kdplan ÷ limit": times["kdplan"] / limit(32)}


def main() -> None:
    """Print a table, a line for each form."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=20)
    parser.add_argument("--batch", type=int, default=128)
    parser.add_argument("--images", type=int, default=4000)
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--only", nargs="+", choices=FORMS, default=list(FORMS))
    parser.add_argument("--alone", choices=FORMS, help=argparse.SUPPRESS)
    given = parser.parse_args()
    torch.set_num_threads(1)
    if given.alone:
        alone(given.alone, given.batch, given.steps)
        return
    root = data_root()
    names = there(given.only)
    times = steps({name: FORMS[name]() for name in names}, noise(given.batch), given.steps)
    least = limit(given.batch)
    base = times[names[0]][0]
    print(f"limit: {least * 1e3:.1f} CPU ms a step; one thread, batch {given.batch}")
    for name, (cpu, wall) in times.items():
        wall_start, cpu_start, memory = in_process(name, given.batch, 3)
        line = (
            f"{name:13} CPU {cpu * 1e3:7.1f} ms ({base / cpu:.3f} {names[0]} ÷ it, {cpu / least:.2f} x limit)"
            f"  wall {wall * 1e3:7.1f} ms  first step after {wall_start:5.1f} s, {cpu_start:5.1f} CPU s"
            f"  peak {memory:5.0f} MiB"
        )
        if root is not None:
            top, whole = accuracy(name, root, given.batch, given.images, given.epochs)
            line += f"  with loader {whole * 1e3:7.1f} CPU ms  top-1 {top:.3f} after {given.epochs} epochs"
        print(line, flush=True)
    if root is None:
        print("no accuracy: CIFAR-100 is read from KDPLAN_DATA, which is not set")


if __name__ == "__main__":
    entry(main, brief)
