"""Branches trained for real on digits: steps written by hand, resuming, exports, measures."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from kdplan.cli import main
from kdplan.compile import Compiled, compile_source
from kdplan.data.dataset import open_view
from kdplan.data.loader import Loader
from kdplan.data.of_plan import view_of_data
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.graph.branched import Branched, branch_state
from kdplan.graph.inspect import fresh
from kdplan.ir.expr import Version
from kdplan.nn.models import create
from kdplan.runtime import networks
from kdplan.runtime.export import export_network, load
from kdplan.runtime.measures.compute import training_flops
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources

START = """
data digits = digits { augment = [pad_crop(8, pad = 1)] }
recipe quick { optimizer = sgd(lr = 0.05, momentum = 0.9)  epochs = 2  batch = 128 }
"""
ONE = """
branches one of digits_net(width = 3) from layer2 on digits with quick {
  count = 3
  def imitate = sum(kl(b.logits, gated.logits, temperature = 3) for b in branch)
  loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels) + 9 * imitate
  measure on digits.test { top1 }
}
"""
READ = """
measure t of one.branch[*], one.gated on digits.test { error, parameters, flops }
measure m of one.branch[*] on digits.test over seed, branch { error }
export second = one.branch[1]
export whole = one.gated
"""


def run(text: str, folder: Path, name: str = "plan.kd", store: str = "store") -> Path:
    (folder / name).write_text(text)
    assert main(["run", str(folder / name), "--store", str(folder / store)]) == 0
    return folder / store


def sources(text: str, store: Path, folder: Path = Path(".")) -> tuple[Compiled, Sources]:
    compiled = compile_source(Source("plan.kd", text), folder)
    return compiled, Sources(compiled.plan, Store(store), compiled.keys)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> tuple[Compiled, Sources]:
    store = run(START + ONE + READ, tmp_path_factory.mktemp("one"))
    return sources(START + ONE + READ, store)


class ByHand(nn.Module):
    """Three digits_nets that share all before `layer2`, and the gate, as one would write them."""

    def __init__(self, start: Branched) -> None:
        super().__init__()
        nets: list[Any] = []
        for i in range(3):
            net = create("digits_net", width=3)
            net.load_state_dict(branch_state(start.state_dict(), i))
            nets.append(net)
        self.stem, self.layer1 = nets[0].stem, nets[0].layer1
        self.tails = nn.ModuleList([nn.Sequential(n.layer2, n.avgpool, n.flatten, n.fc) for n in nets])
        self.fc, self.bn = nn.Linear(6, 3), nn.BatchNorm1d(3)
        gate = {n.removeprefix("gate."): v for n, v in start.state_dict().items() if n.startswith("gate.")}
        self.load_state_dict(gate, strict=False)

    def forward(self, x: torch.Tensor) -> tuple[list[torch.Tensor], torch.Tensor]:
        shared = self.layer1(self.stem(x))
        logits = [tail(shared) for tail in self.tails]
        weights = F.softmax(F.relu(self.bn(self.fc(shared.mean(dim=(2, 3))))), dim=1)
        return logits, torch.stack([weights[:, i, None] * z for i, z in enumerate(logits)]).sum(dim=0)


def kl(student: torch.Tensor, teacher: torch.Tensor) -> torch.Tensor:
    p, q = F.softmax(teacher / 3, dim=1), F.log_softmax(student / 3, dim=1)
    return (p * (p.log() - q)).sum(dim=1).mean()


def test_it_trains_as_a_loop_written_by_hand(trained: tuple[Compiled, Sources]) -> None:
    compiled, src = trained
    start = fresh(compiled.plan.networks["one"])
    assert isinstance(start, Branched)
    net = ByHand(start).train()
    optimizer = torch.optim.SGD(net.parameters(), lr=0.05, momentum=0.9, fused=True)
    phase = compiled.plan.phases["one@train"]
    view = view_of_data(compiled.plan.data["digits"], phase.streams[0])
    loader = Loader(open_view(view, None), 128, phase.seed, train=True)
    for epoch in range(2):
        for batch in loader.epoch(epoch):
            logits, gated = net(batch["inputs"])
            loss = torch.stack([F.cross_entropy(z, batch["labels"]) for z in [*logits, gated]]).sum()
            loss = loss + 9 * torch.stack([kl(z, gated) for z in logits]).sum()
            optimizer.zero_grad()
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    net.eval()
    x = torch.randn(50, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    end = materialise(src, Version("one", "one@train"))
    assert isinstance(end, Branched)
    with torch.no_grad():
        logits, gated = net(x)
        for one, two in zip([*logits, gated], [*end.outputs(x), end(x)], strict=True):
            torch.testing.assert_close(one, two, rtol=1e-3, atol=1e-3)


def test_measures_of_branches(trained: tuple[Compiled, Sources]) -> None:
    compiled, src = trained
    net = materialise(src, Version("one", "one@train"))
    assert isinstance(net, Branched)
    batch = open_view(view_of_data(compiled.plan.data["digits"], compiled.plan.measures["t"].views[0]), None).batch(
        torch.arange(360)
    )
    with torch.no_grad():
        wrong = [float(100 * (z.argmax(1) != batch["labels"]).float().mean()) for z in net.outputs(batch["inputs"])]
        wrong.append(float(100 * (net(batch["inputs"]).argmax(1) != batch["labels"]).float().mean()))
    table, means = run_measures(compiled.plan, compiled.keys, src.store, RunOptions(device="cpu"))
    rows = [row.values["last"] for row in table.rows]
    assert [row["error"].mean for row in rows] == pytest.approx(wrong)
    plain = create("digits_net", width=3)
    count = sum(p.numel() for p in plain.parameters())
    assert [row["parameters"].mean for row in rows][:3] == [count] * 3
    assert rows[3]["parameters"].mean == sum(p.numel() for p in net.parameters())
    assert len({row["flops"].mean for row in rows[:3]}) == 1 and rows[3]["flops"].mean > rows[0]["flops"].mean
    (mean,) = [row.values["last"]["error"] for row in means.rows]
    assert mean.n == 3
    assert mean.mean == pytest.approx(sum(wrong[:3]) / 3)
    assert mean.std == pytest.approx(float(torch.tensor(wrong[:3]).double().std()), rel=1e-4)


INSIDE = """
  measure of branch, gated on digits.test { error }
  measure of self.gate on digits.test { mean(0), mean(1), mean(2) }
"""


def test_measures_inside_see_branches_and_gate(trained: tuple[Compiled, Sources], tmp_path: Path) -> None:
    """They are what measures outside are, the first one chooses the best epoch, and training is as without them."""
    inner = ONE.replace("  measure on digits.test { top1 }\n", INSIDE)
    text = START + inner + "measure g of one.gate on digits.test { mean(0), mean(1), mean(2), mean }\n" + READ
    compiled, src = sources(text, run(text, tmp_path))
    log = [json.loads(r) for r in next(src.store.root.glob("phases/*/metrics.jsonl")).read_text().splitlines()]
    numbers = log[-1]["val"]
    names = [*(f"branch.{i}/error" for i in range(3)), "gated/error", *(f"gate/mean(unit = {i})" for i in range(3))]
    assert list(numbers) == names
    gate, table, _ = run_measures(compiled.plan, compiled.keys, src.store, RunOptions(device="cpu"))
    weights = [n.mean for n in gate.rows[0].values["last"].values()]
    assert [row.values["last"]["error"].mean for row in table.rows] == list(numbers.values())[:4]
    assert weights == pytest.approx([*list(numbers.values())[4:], 1 / 3]) and sum(weights[:3]) == pytest.approx(1)
    (summary,) = (json.loads(f.read_text()) for f in src.store.root.glob("phases/*/summary.json"))
    assert summary["best"]["score"] == min(record["val"]["branch.0/error"] for record in log)
    one, two = (materialise(s, Version("one", "one@train")).state_dict() for s in (src, trained[1]))
    assert all(torch.equal(v, two[n]) for n, v in one.items())


def test_measures_inside_of_peers_and_of_taps_have_names(tmp_path: Path) -> None:
    text = (
        START.replace("epochs = 2", "epochs = 1")
        + """
    student a = digits_net(width = 2)
    student b = digits_net(width = 3)
    phase dml of a, b on digits with quick {
      measure of b, a, b.layer1 on digits.test { mean(1) }
      measure of a on digits.train { mean(0) }
      loss = cross_entropy(b.logits, labels) + cross_entropy(a.logits, labels)
    }
    """
    )
    _, src = sources(text, run(text, tmp_path))
    log = next(src.store.root.glob("phases/*/metrics.jsonl")).read_text().splitlines()
    test = [f"digits.test/{n}/mean(unit = 1)" for n in ("b", "a", "b.layer1")]
    assert list(json.loads(log[-1])["val"]) == [*test, "digits.train/a/mean(unit = 0)"]


def test_cost_of_training(tmp_path: Path) -> None:
    """Branches cost what their graph costs, a student what it and its teacher cost, peers what all of them do."""
    text = (
        START.replace("epochs = 2", "epochs = 1")
        + ONE
        + """
    student a = digits_net(width = 3)
    student b = digits_net(width = 2)
    phase dml of a, b on digits with quick {
      loss = sum(cross_entropy(x.logits, labels) for x in [a, b])
           + kl(a.logits, detach(b.logits)) + kl(b.logits, detach(a.logits))
    }
    phase kd of b on digits with quick { loss = kl(b.logits, one.branch[0].logits) }
    ensemble both of a@dml, one.branch[1]
    measure t of one.gated, one.branch[0], a@dml, b@dml, b@kd, both, a@init on digits.test { flops, training_flops }
    """
    )
    store = run(text.replace(", a@init", ""), tmp_path)
    with pytest.raises(PlanError, match="no phase"):
        sources(text, store)
    compiled, src = sources(text.replace(", a@init", ""), store)
    (table,) = run_measures(compiled.plan, compiled.keys, src.store, RunOptions(device="cpu"))
    flops, cost = ([row.values["last"][m].mean for row in table.rows] for m in ("flops", "training_flops"))
    gated, branch, a, b = flops[:4]
    assert cost == [gated, gated, a + b, a + b, branch + b, a + b + gated]


@pytest.mark.slow
def test_costs_of_the_paper(kdplan_data: Path) -> None:
    """1e8 operations a sample, Table 3, within 0.3%: ONE of 8.29 has bottlenecks, DML of 10.10 basic blocks."""
    plan = Path(__file__).parents[2] / "plans/native_ensemble/table3.kd"
    compiled = compile_source(Source(str(plan), plan.read_text()), plan.parent, kdplan_data, params={"seed": "[0]"})
    measure = compiled.plan.measures["table3"]
    metric = next(m for m in measure.metrics if m.name == "training_flops")
    rows = {row.target.versions[0].network: row for row in measure.rows if row.coordinates.get("branch", 0) == 0}
    flops = [training_flops(compiled.plan, row.target, metric) / 1e8 for row in rows.values()]
    assert flops == pytest.approx([6.43, 2.76, 10.10, 2.28, 8.42, 8.29], rel=3e-3)


def exported(name: str, plan: Path, store: Path, out: Path) -> nn.Module:
    assert main(["export", str(plan), name, "--store", str(store), "-o", str(out), "--program"]) == 0
    assert (out / "model.pt2").is_file()
    return load(out)


def test_what_is_exported(trained: tuple[Compiled, Sources], tmp_path: Path) -> None:
    _, src = trained
    plan = tmp_path / "plan.kd"
    plan.write_text(START + ONE + READ)
    net = materialise(src, Version("one", "one@train"))
    assert isinstance(net, Branched)
    x = torch.randn(5, 1, 8, 8, generator=torch.Generator().manual_seed(0))
    second = exported("second", plan, src.store.root, tmp_path / "second")
    plain = create("digits_net", width=3)
    assert type(second) is type(plain) and second.state_dict().keys() == plain.state_dict().keys()
    about = json.loads((tmp_path / "second" / "model.json").read_text())
    assert about["architecture"] == {"factory": "digits_net", "arguments": {"width": 3}}
    assert about["parameters"] == sum(p.numel() for p in plain.parameters())
    assert about["source"]["made_of"][0]["version"] == "one@one@train"
    assert torch.equal(second(x), net.outputs(x)[1])
    assert torch.equal(exported("whole", plan, src.store.root, tmp_path / "whole")(x), net(x))


def test_a_branch_is_compared_with_what_is_exported(
    trained: tuple[Compiled, Sources], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Weights of another branch in the plain network are found out, and nothing is left behind."""
    compiled, src = trained
    monkeypatch.setattr(networks, "branch_state", lambda state, index: branch_state(state, index + 1))
    with pytest.raises(PlanError) as problem:
        export_network(src, compiled.plan.exports["second"], tmp_path / "out")
    assert problem.value.diagnostics[0].code == "KD0842"
    assert not (tmp_path / "out").exists()


def test_a_choice_at_export_runs_nothing(trained: tuple[Compiled, Sources]) -> None:
    compiled, src = sources(START + ONE + "export third = one.branch[2]\n", trained[1].store.root)
    assert src.store.has(compiled.keys["one@train"].key)


def test_seeds(trained: tuple[Compiled, Sources]) -> None:
    _, src = trained
    plain = fresh(compile_source(Source("p.kd", "student s = digits_net(width = 3)"), Path(".")).plan.networks["s"])
    start = materialise(src, Version("one"))
    assert all(torch.equal(v, start.state_dict()[n]) for n, v in plain.state_dict().items())
    two = START + ONE.replace("count = 3", "count = 2")
    other, _ = sources(two, src.store.root)
    fewer = fresh(other.plan.networks["one"]).state_dict()
    assert all(torch.equal(v, start.state_dict()[n]) for n, v in fewer.items() if not n.startswith("gate"))


def test_going_on_from_a_branch_and_from_a_network(tmp_path: Path) -> None:
    text = (
        START.replace("epochs = 2", "epochs = 1")
        + ONE
        + """
    student next = one.branch[1] { phase more on digits with quick { loss = cross_entropy(self.logits, labels) } }
    phase tail of one.branch[2].layer2, one.branch[2].fc on digits with quick {
      loss = kl(one.branch[2].logits, detach(one.gated.logits))
    }
    branches again of next from layer2 on digits with quick {
      count = 2
      gate  = mean
      loss  = sum(cross_entropy(b.logits, labels) for b in branch)
    }
    ensemble pair of one.branch[0], again.branch[1]
    measure t of next, one@tail.branch[2], again.branch[*], again.gated, pair on digits.test { top1 }
    """
    )
    compiled, src = sources(text, run(text, tmp_path))
    one = materialise(src, Version("one", "one@train"))
    assert isinstance(one, Branched)
    assert all(
        torch.equal(v, branch_state(one.state_dict(), 1)[n])
        for n, v in materialise(src, Version("next")).state_dict().items()
    )
    tail = materialise(src, Version("one", "tail")).state_dict()
    changed = {n for n, v in one.state_dict().items() if not torch.equal(v, tail[n])}
    assert changed and all(n.startswith(("branch.2.layer2", "branch.2.fc")) for n in changed)
    begun = materialise(src, Version("again")).state_dict()
    trained_next = materialise(src, Version("next", "next@more")).state_dict()
    assert all(torch.equal(v, begun[n]) for n, v in trained_next.items())
    assert not torch.equal(begun["branch.1.fc.weight"], begun["fc.weight"])
    (table,) = run_measures(compiled.plan, compiled.keys, src.store, RunOptions(device="cpu"))
    assert len(table.rows) == 6


def test_stopped_and_resumed_it_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = run(START + ONE, tmp_path, store="whole")
    steps: list[int] = []
    step = torch.optim.SGD.step

    def stopping(self: torch.optim.SGD, *args: Any) -> Any:
        if self.param_groups[0]["params"][0].is_meta:  # a step on shapes, which predicts memory
            return step(self, *args)
        steps.append(1)
        if len(steps) == 17:
            os.kill(os.getpid(), signal.SIGINT)
        return step(self, *args)

    monkeypatch.setattr(torch.optim.SGD, "step", stopping)
    assert main(["run", str(tmp_path / "plan.kd"), "--store", str(tmp_path / "broken")]) == 75
    assert len(steps) == 17
    broken = run(START + ONE, tmp_path, store="broken")
    assert len(steps) == 24

    def left(store: Path) -> dict[str, bytes]:
        return {f"{f.parent.name}/{f.name}": f.read_bytes() for f in store.glob("phases/*/weights-*")}

    assert left(whole) == left(broken) != {}
