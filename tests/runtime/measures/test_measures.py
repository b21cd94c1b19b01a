"""Measures: each number once, rows by coordinates, means over seeds, classes in order."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save
from torch.utils.flop_counter import FlopCounterMode

from kdplan.data.dataset import open_view
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError
from kdplan.graph.inspect import fresh
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.expr import Version
from kdplan.ir.plan import ClassSet, Export, Item, Measure, Network, Plan, Row, Target, View
from kdplan.runtime.export import export_network, load
from kdplan.runtime.measures import compute, outputs
from kdplan.runtime.measures.cells import Cell, cell_key
from kdplan.runtime.measures.results import MeasureResult
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from tests.runtime.small import digits_plan, keys

BIG = Version("big", "train")
CPU = RunOptions(device="cpu")


@pytest.fixture
def sources(tmp_path: Path) -> Sources:
    """`big@train` with two different sets of weights, `last` and `best`."""
    plan = digits_plan()
    store = Store(tmp_path / "store")
    files = {}
    for snapshot, seed in (("last", 5), ("best", 6)):
        net = Network("big", plan.networks["big"].architecture, seed=seed)
        files[f"weights-0-{snapshot}.safetensors"] = save(dict(fresh(net).state_dict()))
    with store.begin("key-train") as work:
        work.commit(dict(files))
    return Sources(plan, store, keys(plan))


def table(sources: Sources, rows: list[Row], *metrics: Item, **changes: Any) -> MeasureResult:
    views = changes.pop("views", [View("d", "test")])
    sources.plan.measures = {"t": Measure("t", rows, views, list(metrics), **changes)}
    (result,) = run_measures(sources.plan, sources.keys, sources.store, CPU)
    return result


def by_hand(net: torch.nn.Module) -> float:
    batch = open_view(ViewSpec("digits", split="test"), None).batch(torch.arange(360))
    with torch.no_grad():
        hits: torch.Tensor = net(batch["inputs"]).argmax(1) == batch["labels"]
    return 100 * hits.double().mean().item()


def test_last_and_best_are_both_reported(sources: Sources) -> None:
    result = table(sources, [Row("big", Target([BIG]))], Item("top1"), Item("topk", {"k": 3}), Item("parameters"))
    values = result.rows[0].values
    assert result.metrics == ["top1", "topk(k = 3)", "parameters"] and result.views == ["d.test"]
    assert values["last"]["top1"].mean == pytest.approx(by_hand(materialise(sources, BIG)))
    best = materialise(sources, Version("big", "train", "best"))
    assert values["best"]["top1"].mean == pytest.approx(by_hand(best))
    assert values["last"]["top1"].mean != values["best"]["top1"].mean
    assert values["last"]["parameters"].mean == sum(p.numel() for p in best.parameters())


def test_a_named_snapshot_stands_alone(sources: Sources) -> None:
    result = table(sources, [Row("big", Target([Version("big", "train", "best")]))], Item("top1"))
    assert set(result.rows[0].values) == {"best"}


def test_each_number_is_measured_once(sources: Sources, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [Row("a", Target([BIG])), Row("b", Target([BIG]))]
    first = table(sources, rows, Item("top1"))

    def refused(*_: Any) -> Any:
        raise AssertionError("measured again")

    monkeypatch.setattr(compute, "measure_cells", refused)
    assert table(sources, rows, Item("top1")) == first
    with pytest.raises(PlanError, match="measured again"):
        table(sources, rows, Item("top1"), Item("ece"))


def test_equal_rows_share_one_evaluation(sources: Sources) -> None:
    cells = [Cell(Target([BIG]), View("d", "test"), Item("top1")) for _ in range(2)]
    others = [
        Cell(Target([BIG], "probabilities"), View("d", "test"), Item("top1")),
        Cell(Target([BIG]), View("d", "train"), Item("top1")),
        Cell(Target([BIG]), View("d", "test"), Item("topk", {"k": 3})),
        Cell(Target([Version("big")]), View("d", "test"), Item("top1")),
        Cell(Target([Version("big", "train", "best")]), View("d", "test"), Item("top1")),
    ]
    cell_keys = [cell_key(sources, c) for c in (*cells, *others)]
    assert cell_keys[0] == cell_keys[1] and len(set(cell_keys)) == 6


def test_seeds_are_averaged_and_other_axes_are_rows(sources: Sources) -> None:
    plan = sources.plan
    rows = []
    for seed in range(3):
        for width in (4, 8):
            name = f"n{seed}{width}"
            plan.networks[name] = Network(name, Item("digits_net", {"width": width}), seed=seed)
            rows.append(Row("n@init", Target([Version(name)]), {"seed": seed, "width": width}))
    result = table(sources, rows, Item("top1"))
    assert result.over == ["seed"] and [r.coordinates for r in result.rows] == [{"width": 4}, {"width": 8}]
    singles = [by_hand(materialise(sources, Version(f"n{seed}4"))) for seed in range(3)]
    number = result.rows[0].values["last"]["top1"]
    assert number.values == pytest.approx(singles) and number.n == 3
    assert number.std == pytest.approx(torch.tensor(singles, dtype=torch.float64).std().item())
    apart = table(sources, rows, Item("top1"), over=[])
    assert len(apart.rows) == 6 and apart.rows[0].values["last"]["top1"].std is None


def test_taps_and_joins(sources: Sources) -> None:
    batch = torch.randn(5, 1, 8, 8)
    one, two = (materialise(sources, v) for v in (BIG, Version("big")))
    data = open_view(ViewSpec("digits", split="test"), None)
    view = View("d", "test")

    def value(target: Target) -> torch.Tensor:
        with torch.no_grad():
            return outputs.joined(sources.plan, target, view, [one, two][: len(target.versions)], data)(batch)

    versions = [BIG, Version("big")]
    with torch.no_grad():
        a, b = one(batch), two(batch)
        torch.testing.assert_close(value(Target(versions, "", "probabilities")), (a.softmax(1) + b.softmax(1)) / 2)
        torch.testing.assert_close(value(Target(versions, "", "logits")), (a + b) / 2)
        assert torch.equal(value(Target(versions, "", "concat")), torch.cat([a, b], 1))
        inner: Any = one
        torch.testing.assert_close(value(Target([BIG], "layer1")), inner.layer1(inner.stem(batch)))
        torch.testing.assert_close(value(Target([BIG], "probabilities")), a.softmax(1))


def classed(sources: Sources, ids: list[int]) -> Plan:
    plan = sources.plan
    plan.networks["n"] = Network("n", Item("digits_net", {"classes": len(ids)}), classes=ClassSet("d", ids))
    return plan


def test_classes_in_another_order_are_put_in_order(sources: Sources) -> None:
    order = [3, 1, 2, 0, 4, 5, 6, 7, 9, 8]
    plan = classed(sources, order)
    order = outputs.class_order(plan, Target([Version("n")]), View("d", "test"))
    assert order is not None and [order[i] for i in order] == list(range(10))
    half = View("d", "test", ClassSet("d", [5, 7]))
    classed(sources, [7, 5])
    assert outputs.class_order(plan, Target([Version("n")]), half) == [1, 0]
    classed(sources, [5, 7])
    assert outputs.class_order(plan, Target([Version("n")]), half) is None


def test_metric_that_does_not_fit(sources: Sources) -> None:
    classed(sources, [5, 7])
    problems = [
        ([Row("n", Target([Version("n")]))], Item("top1"), View("d", "test"), "of 2 classes"),
        ([Row("b", Target([BIG]))], Item("topk", {"q": 1}), View("d", "test"), "no setting `q`"),
        ([Row("b", Target([BIG]))], Item("top1"), View("d", "test", unlabelled=True), "no labels"),
        ([Row("b", Target([BIG], "layer9"))], Item("top1"), View("d", "test"), "layer9"),
        ([Row("b", Target([BIG], "layer1"))], Item("top1"), View("d", "test"), "outputs of shape"),
    ]
    for rows, metric, view, text in problems:
        with pytest.raises(PlanError) as problem:
            table(sources, rows, metric, views=[view])
        assert problem.value.diagnostics[0].code in ("KD0840", "KD0848") and text in str(problem.value)


def test_rows_without_weights_are_left_out(sources: Sources) -> None:
    rows = [Row("small", Target([Version("small", "kd")])), Row("big", Target([BIG]))]
    assert [r.label for r in table(sources, rows, Item("top1")).rows] == ["big"]


EXITS = """
from torch import nn

class Net(nn.Module):
    def __init__(self):
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(1, 3, 3), nn.ReLU())
        self.exit = nn.Linear(3, 10)
        self.second = nn.Conv2d(3, 5, 3)
        self.fc = nn.Linear(5, 10)

    def forward(self, x):
        a = self.first(x)
        b = self.second(a)
        return {"early": self.exit(a.mean((2, 3))), "logits": self.fc(b.mean((2, 3)))}

def net():
    return Net()
"""


@pytest.mark.parametrize(
    ("network", "path"),
    [
        ("big", "stem"),
        ("big", "layer1"),
        ("big", "layer1.0"),
        ("big", "features"),
        ("big", ""),
        ("exits", "early"),
        ("exits", "second"),
        ("exits", ""),
        ("adapted", "layer1"),
        ("adapted", ""),
    ],
)
def test_parameters_and_flops_are_of_the_export(sources: Sources, tmp_path: Path, network: str, path: str) -> None:
    """Counted by torch on the exported module, loaded again."""
    code = tmp_path / "exits.py"
    code.write_text(EXITS)
    networks = sources.plan.networks
    networks["exits"] = Network("exits", Item(f"{code}:net"), input_shape=[1, 8, 8])
    about = {"base": ["digits_net", {"width": 2}], "behind": ["stem.conv", "layer1.0.conv"], "shape": [1, 8, 8]}
    networks["adapted"] = Network("adapted", Item(ADAPTED, about), input_shape=[1, 8, 8])
    target = Target([BIG if network == "big" else Version(network)], path)
    row = table(sources, [Row("n", target)], Item("parameters"), Item("flops")).rows[0].values["last"]
    export_network(sources, Export("x", target), tmp_path / "out")
    module = load(tmp_path / "out")
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        module(torch.zeros(1, 1, 8, 8))
    assert row["parameters"].mean == sum(p.numel() for p in module.parameters())
    assert row["flops"].mean == counter.get_total_flops()
    whole = sum(p.numel() for p in materialise(sources, target.versions[0]).parameters())
    assert not path or row["parameters"].mean < whole


def test_flops_are_of_one_sample(sources: Sources) -> None:
    sources.plan.networks["mlp"] = Network("mlp", Item("mlp", {"inputs": 64, "hidden": [32], "classes": 10}))
    result = table(sources, [Row("mlp", Target([Version("mlp")]))], Item("flops"))
    assert result.rows[0].values["last"]["flops"].mean == 2 * (64 * 32 + 32 * 10)


def test_known_numbers_need_no_torch(sources: Sources, tmp_path: Path) -> None:
    table(sources, [Row("big", Target([BIG]))], Item("top1"))
    code = (
        "import sys\n"
        "import pickle\n"
        f"plan, keys = pickle.load(open({str(tmp_path / 'plan')!r}, 'rb'))\n"
        "from kdplan.runtime.measures.table import run_measures\nfrom kdplan.runtime.store import Store\n"
        f"(found,) = run_measures(plan, keys, Store({str(tmp_path / 'store')!r}))\n"
        "assert found.rows[0].values['last']['top1'].n == 1 and 'torch' not in sys.modules\n"
    )
    import pickle

    (tmp_path / "plan").write_bytes(pickle.dumps((sources.plan, dict(sources.keys))))
    subprocess.run([sys.executable, "-c", code], check=True, cwd=Path(__file__).parents[3])
