"""Lines and ensembles, trained for real on digits: starts, numbers, exports, and a line that is killed."""

from __future__ import annotations

import signal
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from kdplan.cli import main
from kdplan.compile import Compiled, compile_source
from kdplan.data.dataset import open_view
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.span import Source
from kdplan.graph.assemble import join
from kdplan.ir.expr import Version
from kdplan.runtime.export import load
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.networks import materialise, modules_of
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.processes import DEVNULL, Command
from tests.runtime.small import same

Array = NDArray[np.float64]
START = """
data digits = digits { augment = [pad_crop(8, pad = 1)] }
recipe quick { optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = 1  batch = 64 }
"""
LINE = """
generations line of digits_net(width = 2) on digits with quick {
  count = 2
  init  = fresh
  patriarch  { loss = top_score_difference(self.logits, labels, k = 5, u = 0.6) }
  generation { loss = mix(cross_entropy(self.logits, labels), kl(self.logits, previous.logits), weight = 0.6) }
}
"""
CROWD = """
verticals turned of digits { disjoint = false  back = ["9", "8", "7", "6", "5", "4", "3", "2", "1", "0"] }
teacher back = digits_net(width = 3, classes = turned[0]) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
ensemble crowd[m in 0..2] of line[0..m]
ensemble mixed of line[2], back { mean = logits }
measure t of crowd[*], mixed on digits.test { top1, cross_entropy }
export whole = crowd[2]
export joint = mixed
student small = digits_net(width = 2) { seed = 9 }
phase kd of small on digits with quick { loss = kl(small.logits, crowd[2].logits) }
"""


def run(text: str, folder: Path, name: str = "plan.kd", store: str = "store") -> Path:
    (folder / name).write_text(text)
    assert main(["run", str(folder / name), "--store", str(folder / store)]) == 0
    return folder / store


def sources(text: str, store: Path) -> tuple[Compiled, Sources]:
    compiled = compile_source(Source("plan.kd", text), Path("."))
    return compiled, Sources(compiled.plan, Store(store), compiled.keys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compiled, Sources]:
    store = run(START + LINE + CROWD, tmp_path_factory.mktemp("line"))
    return sources(START + LINE + CROWD, store)


@pytest.mark.parametrize("init", ["fresh", "same", "previous"])
def test_what_each_generation_begins_with(init: str, tmp_path: Path) -> None:
    text = START + LINE.replace("init  = fresh", f"init = {init}")
    _, src = sources(text, run(text, tmp_path))
    starts = [materialise(src, Version(f"line[generation={m}]")) for m in range(3)]
    ends = [materialise(src, Version(f"line[generation={m}]", f"line[generation={m}]@train")) for m in range(3)]
    assert [same(starts[m], starts[0]) for m in (1, 2)] == [init == "same"] * 2
    assert [same(starts[m], ends[m - 1]) for m in (1, 2)] == [init == "previous"] * 2
    assert not same(starts[1], starts[2]) or init == "same"
    assert not any(same(ends[a], ends[b]) for a, b in ((0, 1), (0, 2), (1, 2)))


def softmax(x: Array) -> Array:
    e = np.exp(x - x.max(1, keepdims=True))
    return np.asarray(e / e.sum(1, keepdims=True))


def logits(src: Sources, name: str, x: torch.Tensor) -> Array:
    with torch.no_grad():
        return materialise(src, Version(name, f"{name}@train"))(x).double().numpy()  # type: ignore[no-any-return]


def test_numbers_are_those_of_the_mean(trained: tuple[Compiled, Sources]) -> None:
    compiled, src = trained
    batch = open_view(ViewSpec("digits", split="test"), None).batch(torch.arange(360))
    y = batch["labels"].numpy()
    scores = [logits(src, f"line[generation={m}]", batch["inputs"]) for m in range(3)]
    back = logits(src, "back", batch["inputs"])[:, ::-1]
    wanted = [np.mean([softmax(s) for s in scores[: m + 1]], axis=0) for m in range(3)]
    wanted.append(softmax((scores[2] + back) / 2))
    (table,) = run_measures(compiled.plan, compiled.keys, src.store, RunOptions(device="cpu"))
    assert len(table.rows) == 4
    for row, p in zip(table.rows, wanted, strict=True):
        assert row.values["last"]["top1"].mean == pytest.approx(100 * (p.argmax(1) == y).mean())
        exact = -np.log(p[np.arange(len(y)), y]).mean()
        assert row.values["last"]["cross_entropy"].mean == pytest.approx(exact, rel=1e-5)


def test_an_ensemble_teaches_its_mean(trained: tuple[Compiled, Sources]) -> None:
    compiled, src = trained
    phase = compiled.plan.phases["kd"]
    x = open_view(ViewSpec("digits", split="test"), None).batch(torch.arange(64))["inputs"]
    graph = join(compiled.plan, phase, modules_of(src, phase)).graph_module
    with torch.no_grad():
        loss = graph(inputs_0=x)["loss"].item()
        student = materialise(src, Version("small")).train()(x).double().numpy()
    p = np.mean([softmax(logits(src, f"line[generation={m}]", x)) for m in range(3)], axis=0)
    assert loss == pytest.approx((p * (np.log(p) - np.log(softmax(student)))).sum(1).mean(), rel=1e-4)


@pytest.mark.parametrize("name", ["whole", "joint"])
def test_one_file_is_the_whole_ensemble(name: str, trained: tuple[Compiled, Sources], tmp_path: Path) -> None:
    compiled, src = trained
    plan, out = tmp_path / "plan.kd", tmp_path / "out"
    plan.write_text(START + LINE + CROWD)
    store = str(src.store.root)
    assert main(["export", str(plan), name, "--store", store, "-o", str(out)]) == 0
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    version = compiled.plan.exports[name].target.versions[0]
    assert torch.equal(load(out)(x), materialise(src, version)(x))
    assert sorted(f.name for f in out.iterdir()) == ["model.json", "model.safetensors"]


def test_members_of_your_own_go_along(tmp_path: Path) -> None:
    (tmp_path / "net.py").write_text(
        "from torch import nn\n\ndef net(n):\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, n))\n"
    )
    text = (
        'use "net.py" as my\n'
        + START
        + """
    teacher a = my.net(n = 10) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
    teacher b = digits_net(width = 2) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
    ensemble both of a, b
    export both = both
    """
    )
    store, out = run(text, tmp_path), tmp_path / "out"
    assert main(["export", str(tmp_path / "plan.kd"), "both", "--store", str(store), "-o", str(out)]) == 0
    (tmp_path / "net.py").unlink()
    assert load(out)(torch.zeros(2, 1, 8, 8)).shape == (2, 10)


def artifacts(store: Path) -> dict[str, int]:
    return {f.parent.name: f.stat().st_mtime_ns for f in store.glob("phases/*/manifest.json")}


def test_longer_lines_and_other_weights_reuse_what_is_there(tmp_path: Path) -> None:
    store = run(START + LINE, tmp_path)
    first = artifacts(store)
    run(START + LINE.replace("count = 2", "count = 4"), tmp_path)
    longer = artifacts(store)
    assert len(first) == 3 and len(longer) == 5 and first.items() <= longer.items()
    run(START + LINE.replace("weight = 0.6", "weight = 0.5"), tmp_path)
    other = artifacts(store)
    assert len(other) == 7 and longer.items() <= other.items()


def test_a_measure_of_what_is_half_done(tmp_path: Path) -> None:
    """An ensemble whose last member is not there yet is left out, and the others are shown."""
    text = START + LINE + "ensemble crowd[m in 0..2] of line[0..m]\nmeasure t of crowd[*] on digits.test { top1 }"
    (tmp_path / "plan.kd").write_text(text)
    store = tmp_path / "store"
    arguments = ["run", str(tmp_path / "plan.kd"), "--store", str(store), "--until", "line[generation=1]@train"]
    assert main(arguments) == 0
    compiled, src = sources(text, store)
    (table,) = run_measures(compiled.plan, compiled.keys, src.store, RunOptions(device="cpu"))
    assert [row.coordinates["m"] for row in table.rows] == [0, 1]


def test_killed_in_a_generation(tmp_path: Path) -> None:
    text = START.replace("epochs = 1", "epochs = 6") + LINE.replace("count = 2", "count = 3")
    (tmp_path / "plan.kd").write_text(text)
    whole, broken = tmp_path / "whole", tmp_path / "broken"

    def begun(at_least: int) -> set[str]:
        """Phases with a checkpoint that are not done, once so many others are."""
        done = {f.parent.name for f in broken.glob("phases/*/manifest.json")}
        working = {f.parents[1].name for f in broken.glob("work/*/checkpoints/step-*")}
        return working - done if len(done) >= at_least else set()

    def start(store: Path) -> Command:
        """A run of its own."""
        arguments = ["run", str(tmp_path / "plan.kd"), "--store", str(store), "--checkpoint-seconds", "0.02"]
        return Command(arguments, stdout=DEVNULL, stderr=DEVNULL)

    assert start(whole).wait(120) == 0
    process = start(broken)
    end = time.monotonic() + 90
    while process.poll() is None and time.monotonic() < end and not begun(3):
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert begun(3), "the kill hit no checkpoint of generation 3"
    assert start(broken).wait(120) == 0

    def left(store: Path) -> dict[str, bytes]:
        return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in store.glob("phases/*/weights-*")}

    assert left(whole) == left(broken) and len(left(whole)) == 4
