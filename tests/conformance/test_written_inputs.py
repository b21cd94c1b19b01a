"""Networks and functions that write into their inputs: images and labels stay as the data have them for all others."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kdplan.cli import main
from kdplan.data.dataset import Dataset
from kdplan.graph.build import Builder
from kdplan.graph.compare import compare
from kdplan.graph.freeze import split
from kdplan.graph.prune import prune
from kdplan.nn.ensemble import Ensemble
from kdplan.runtime.measures.outputs import output_at


def augmented(x: Tensor) -> Tensor:
    """[B, 4] -> [B, 4], with an assignment that writes."""
    x -= 0.5
    return x


def numpy(x: Tensor) -> Tensor:
    """[B, 4] -> [B, 4], behind torch's back."""
    x.detach().numpy()[:] *= 2
    return x


def rebound(x: Tensor) -> Tensor:
    """[B, 4] -> [B, 4], with other memory."""
    x.data = x.data * 2
    return x


WRITERS: dict[str, Callable[[Tensor], Tensor]] = {
    "in place": lambda x: x.sub_(0.5).div_(0.25),
    "augmented": augmented,
    "one sample": lambda x: x.__setitem__(0, x[0] + 0.3) or x,  # type: ignore[func-returns-value]
    "a view": lambda x: x.view(-1).add_(1.0).view_as(x),
    "detached": lambda x: (x.detach().mul_(2.0), x)[1],
    "data": lambda x: (x.data.mul_(2.0), x)[1],
    "masked": lambda x: x.masked_fill_(x > 0.5, 0.0),
    "functional": lambda x: F.relu(x, inplace=True),
    "copied into": lambda x: x.copy_(x.flip(0)),
    "out": lambda x: torch.mul(x, 2, out=x),
    "numpy": numpy,
    "dlpack": lambda x: (torch.from_dlpack(x.detach()).mul_(2.0), x)[1],
    "rebound": rebound,
}


class Net(nn.Module):
    """Writes into its inputs, and reads them."""

    def __init__(self, write: str, whole: bool = False) -> None:
        super().__init__()
        self.write = write
        self.fc = nn.Linear(4, 4)
        self.whole = whole

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4] -> [B, 4]."""
        if self.whole and float(x.sum()) > 1e9:  # a number decides: the module is called whole
            return x
        return self.fc(WRITERS[self.write](x)) + x


def loss(a: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """Of two outputs [B, 4] and labels [B]."""
    return F.mse_loss(a, b) + F.cross_entropy(b, y)


DATA = cast(Dataset, None)
"""No data are asked for scores."""


def nets(write: str, whole: bool) -> tuple[nn.Module, nn.Module]:
    """The network that writes, and one that reads the same inputs."""
    torch.manual_seed(0)
    return Net(write, whole), nn.Linear(4, 4)


@pytest.mark.parametrize("first", [True, False], ids=["writer first", "reader first"])
@pytest.mark.parametrize("frozen", [True, False], ids=["frozen", "trained"])
@pytest.mark.parametrize("whole", [False, True], ids=["graph", "whole"])
@pytest.mark.parametrize("write", WRITERS)
def test_others_read_the_images(write: str, whole: bool, frozen: bool, first: bool) -> None:
    """Loss and gradients are those of plain PyTorch with a copy for each network, and the batch is as before."""
    x, y = torch.rand(3, 4), torch.tensor([0, 1, 2])
    writer, reader = nets(write, whole)
    writer.requires_grad_(not frozen)
    loss(writer(x.clone()), reader(x), y).backward()
    expected = {n: p.grad for net in (writer, reader) for n, p in net.named_parameters() if p.requires_grad}
    plain = [p.grad for net in (writer, reader) for p in net.parameters()]
    assert len(expected) == (2 if frozen else 4) and any(g is not None for g in plain)

    writer, reader = nets(write, whole)
    writer.requires_grad_(not frozen)
    differs = bool(compare(writer, (x,)).differs)
    b = Builder()
    inputs, labels = b.input("inputs_0", x), b.input("labels_0", y)
    for name in ("writer", "reader") if first else ("reader", "writer"):
        b.network(name, writer if name == "writer" else reader, whole=name == "writer" and (whole or differs))
    outputs = {n: b.apply(n, (inputs,)) for n in (("writer", "reader") if first else ("reader", "writer"))}
    graph = b.finish({"loss": b.call(loss, outputs["writer"], outputs["reader"], labels)}).graph_module
    names = {f"nets.reader.{n}" for n, _ in reader.named_parameters()}
    names |= set() if frozen else {f"nets.writer.{n}" for n, _ in writer.named_parameters()}
    cut = split(prune(graph).graph_module, names)
    given = x.clone()
    cut(inputs_0=given, labels_0=y)["loss"].backward()
    ours = [p.grad for net in (writer, reader) for p in net.parameters()]
    assert all(
        torch.equal(a, c) if a is not None and c is not None else a is c for a, c in zip(plain, ours, strict=True)
    )
    assert torch.equal(given, x)


HEADS = {
    "in place": "self.l(self.r(x))",
    "assigned": "self.l(x.mul_(2))",
    "item": "self.l(self.first(x))",
    "number": "self.l(x.mul_(2)) if float(x.sum()) < 1e9 else x",
}


@pytest.mark.parametrize("head", HEADS)
def test_a_trained_network_on_a_frozen_value(head: str, tmp_path: Path) -> None:
    """It may write into what it reads; others read the frozen value, which may come from the store."""
    ends = []
    for frozen in ("live", "stored"):
        for copied in (False, True):
            folder = tmp_path / f"{frozen}{copied}"
            folder.mkdir()
            body = HEADS[head].replace("(x", "(x.clone()") if copied else HEADS[head]
            (folder / "nets.py").write_text(HEAD.format(body=body))
            (folder / "plan.kd").write_text(ON_FROZEN.format(frozen=frozen))
            assert main(["run", str(folder / "plan.kd"), "--store", str(folder / "store")]) == 0
            (weights,) = (folder / "store").glob("phases/*/weights-0-last.safetensors")
            ends.append(weights.read_bytes())
    assert len(set(ends)) == 1


HEAD = """
import torch
from torch import nn

class Head(nn.Module):
    def __init__(self):
        super().__init__()
        self.r, self.l = nn.ReLU(inplace=True), nn.Linear(10, 10)

    def first(self, x):
        x[:, 0] = 1.0
        return x

    def forward(self, x):
        return {body}
"""
ON_FROZEN = """
use "nets.py" as my
data digits = digits
recipe quick {{ optimizer = sgd(lr = 0.05)  steps = 3  batch = 64 }}
teacher t = digits_net(width = 2)
student h = my.Head()
phase d of h on digits with quick {{
  frozen = {frozen}
  loss = cross_entropy(h(t@init.logits).output, labels) + kl(h(t@init.logits).output, t@init.logits)
}}
"""


def test_a_loss_that_writes_into_the_images_and_labels() -> None:
    def greedy(x: Tensor, y: Tensor) -> Tensor:
        y += 1
        return x.mul_(2).sum() * y.sum()

    b = Builder()
    x, y = torch.rand(3, 4), torch.tensor([0, 1, 2])
    inputs, labels = b.input("inputs_0", x), b.input("labels_0", y)
    terms = [b.call(greedy, inputs, labels), b.call(greedy, inputs, labels), b.call(F.cross_entropy, inputs, labels)]
    values = b.finish({str(i): t for i, t in enumerate(terms)}).graph_module(x.clone(), y.clone())
    expected = [greedy(x.clone(), y.clone()), greedy(x.clone(), y.clone()), F.cross_entropy(x, y)]
    assert [v.item() for v in values.values()] == [v.item() for v in expected]


@pytest.mark.parametrize("write", WRITERS)
def test_measures_and_ensembles(write: str) -> None:
    """Each member of an ensemble, and each measured network, has the images."""
    x = torch.rand(3, 4)
    writer, reader = nets(write, whole=False)
    with torch.no_grad():
        expected = writer(x.clone())
        given = x.clone()
        assert torch.equal(output_at(writer, "logits", DATA)(given), expected) and torch.equal(given, x)
        mean = Ensemble([writer, writer, reader], mean="logits")
        joined = torch.stack([expected, expected, reader(x)]).mean(dim=0)
        assert torch.equal(mean(given), joined) and torch.equal(given, x)
        b = Builder()
        b.network("mean", mean, whole=bool(compare(mean, (x,)).differs))
        graph = b.finish({"out": b.apply("mean", (b.input("inputs_0", x),))}).graph_module
        assert torch.allclose(graph(given)["out"], joined) and torch.equal(given, x)


PLAN = """
use "nets.py" as my
data digits = digits
recipe quick { optimizer = sgd(lr = 0.05)  epochs = 1  batch = 256 }
student t = my.Teacher()
student big = my.Teacher()
student s = my.Student()
phase warm of big on digits.train with quick { loss = cross_entropy(big.logits, labels) }
phase distil of s on digits.train with quick {
  loss = kl(s.logits, t@init.logits) + kl(s.logits, big@warm.logits) + cross_entropy(s.logits, labels)
}
measure one of s@distil, big@warm, ensemble(t@init, big@warm, s@distil) on digits.test { error }
"""
NETS = """
import torch
from torch import nn

class Teacher(nn.Module):
    def __init__(self):
        super().__init__()
        self.fc = nn.Linear(64, 10)

    def forward(self, x):
        x = {write}
        return self.fc(x.flatten(1))

class Student(Teacher):
    def forward(self, x):
        return self.fc(x.flatten(1))
"""


@pytest.mark.parametrize("stored", [False, True], ids=["computed", "stored"])
def test_in_a_run(stored: bool, tmp_path: Path) -> None:
    """Two teachers normalize the images in place: weights and measures are those of teachers that copy them."""
    ends = []
    for write in ("x.sub_(0.3).mul_(4)", "x.sub(0.3).mul(4)"):
        folder = tmp_path / ("in_place" if "_" in write else "copied")
        folder.mkdir()
        (folder / "nets.py").write_text(NETS.format(write=write))
        text = PLAN.replace("  loss = kl", "  frozen = stored\n  loss = kl") if stored else PLAN
        (folder / "plan.kd").write_text(text)
        store = folder / "store"
        assert main(["run", str(folder / "plan.kd"), "--store", str(store)]) == 0
        weights = {f.read_bytes() for f in store.glob("phases/*/weights-0-last.safetensors")}
        measures = [json.loads(f.read_text())["value"] for f in store.glob("measures/*.json")]
        measured = {m["of"]: m["value"] for m in measures}
        assert len(weights) == 2 and len(measured) == 3
        ends.append((weights, measured))
    assert ends[0] == ends[1]


class Keeps(nn.Module):
    """Keeps a part of what it is given, or made of it, in a buffer that its next call writes into."""

    def __init__(self, kept: str, whole: bool) -> None:
        super().__init__()
        self.register_buffer("kept", torch.zeros(4))
        self.l1, self.l2 = nn.Linear(4, 4), nn.Linear(4, 4)
        self.whole, self.part = whole, KEPT[kept]

    def forward(self, x: Tensor) -> Tensor:
        """[B, 4] -> [B, 4]."""
        if self.whole and float(x.sum()) > 1e9:
            return x
        self.kept += 0.3
        h = self.l1(x)
        self.kept = self.part(x, h)
        return cast(Tensor, self.l2(h + self.kept))


KEPT: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "row": lambda x, h: x.detach()[0],
    "view": lambda x, h: x.detach().view(-1)[:4],
    "new": lambda x, h: x.detach().mean(0),
    "hidden": lambda x, h: h.detach()[0],
}


CASES = [
    (kept, whole, frozen, tap)
    for kept in KEPT
    for whole in (False, True)
    for frozen in (True, False)
    for tap in (False, True)
    if not (whole and tap)  # a tap below a module that is called whole comes from a hook, which gives a copy
    and (frozen or kept in ("new", "hidden"))  # plain PyTorch refuses the backward pass: it needs what was written into
]


@pytest.mark.parametrize(("kept", "whole", "frozen", "tap"), CASES)
def test_a_part_that_is_kept(kept: str, whole: bool, frozen: bool, tap: bool) -> None:
    """Two calls of one network: images and taps are as if each call had copies, loss and gradients too."""
    x, y = torch.rand(3, 4), torch.rand(3, 4)
    ends = []
    for ours in (False, True):
        torch.manual_seed(0)
        net, reader = Keeps(kept, whole), nn.Linear(4, 4)
        net.requires_grad_(not frozen)
        given = x.clone(), y.clone()
        if ours:
            b = Builder()
            inputs = [b.input(f"inputs_{i}", v) for i, v in enumerate(given)]
            b.network("net", net, whole=whole)
            b.network("reader", reader)
            of = (b.apply("net", (inputs[0],), "l1"),) if tap else ()
            values = [b.apply("net", (v,)) for v in inputs] + [b.apply("reader", (v,)) for v in (*inputs, *of)]
            loss = b.call(torch.sum, b.call(torch.cat, values))
            graph = b.finish({"loss": loss}).graph_module
            names = {f"nets.reader.{n}" for n, _ in reader.named_parameters()}
            names |= set() if frozen else {f"nets.net.{n}" for n, _ in net.named_parameters()}
            end = split(prune(graph).graph_module, names)(inputs_0=given[0], inputs_1=given[1])["loss"]
            assert torch.equal(given[0], x) and torch.equal(given[1], y)
        else:
            hidden = net.l1(x)
            read = (x, y, hidden.clone()) if tap else (x, y)
            end = torch.cat([*(net(v.clone()) for v in given), *(reader(v) for v in read)]).sum()
        end.backward()
        grads = [p.grad for n in (net, reader) for p in n.parameters()]
        ends.append((end, net.kept.clone(), grads))
    (a, kept_a, grads_a), (b_, kept_b, grads_b) = ends
    assert torch.equal(a, b_) and torch.equal(kept_a, kept_b)
    for expected, grad in zip(grads_a, grads_b, strict=True):
        assert (grad is None) == (expected is None) and (grad is None or torch.allclose(grad, expected, atol=1e-6))
