"""Open sets in plans: keys, numbers over splits and seeds, and what the tables say of both."""

from __future__ import annotations

import json
import statistics
from pathlib import Path

import pytest
import torch

from kdplan.data.dataset import open_view
from kdplan.data.protocol import ProtocolRule
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import PlanError
from kdplan.ir.expr import Version
from kdplan.ir.plan import ClassSet, Item, Measure, Network, Row, Target, Validation, View
from kdplan.nn.verification import scores, tar
from kdplan.passes.expand import expand
from kdplan.runtime.execute import run_plan
from kdplan.runtime.measures.results import MeasureResult, Number
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.networks import materialise
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.versions import Sources
from kdplan.view.tables import rich_table, texts, to_csv
from tests.passes.plans import HEAD, compiled, keys
from tests.runtime import small

OPEN = """
data digits = digits {{ protocol = templates(size = {size}, splits = {splits}) }}
recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64 }}
verticals part of digits {{ known = 0..6  new = 7..9 }}
student small = digits_net(width = 2, classes = part[known])
phase alone of small on digits[part[known]] with quick {{
  loss = cross_entropy(small.logits, labels)
  {inside}
}}
measure open of small@alone.features on digits[part[new]].test {{ tar(far = 0.1), rank(1) }}
"""


def text(size: int = 3, splits: int = 4, inside: str = "") -> str:
    return OPEN.format(size=size, splits=splits, inside=inside)


def test_a_protocol_is_no_part_of_what_trains() -> None:
    assert keys(text(3)) == keys(text(2))
    inside = "measure on digits[part[new]].test { rank(1) }"
    assert keys(text(3, inside=inside)) != keys(text(2, inside=inside)), "but of what chooses the best weights"
    assert not compiled(text()).warnings


def test_the_plan_is_written_out_with_its_protocol() -> None:
    first = compiled(text())
    written = expand(first.plan)
    assert "protocol = templates(size = 3, splits = 4)" in written
    again = compiled(written)
    assert [k.key for k in again.keys.values()] == [k.key for k in first.keys.values()]


def test_another_data_set_takes_the_protocol_over() -> None:
    base = "data more = digits { protocol = templates(size = 2) }\ndata other = more { seed = 1 }\n"
    assert compiled(HEAD + base).plan.data["other"].protocol is not None


def measured(tmp_path: Path, rows: int) -> tuple[Sources, MeasureResult]:
    plan = small.digits_plan()
    plan.data["d"].protocol = Item("templates", {"size": 3, "splits": 4})
    for seed in range(rows):
        plan.networks[f"n{seed}"] = Network(f"n{seed}", Item("digits_net", {"width": 4}), seed=seed)
    networks = [Row("n", Target([Version(f"n{s}")], "features"), {"seed": s}) for s in range(rows)]
    metrics = [Item("tar", {"far": 0.1}), Item("rank", {"k": 1}), Item("parameters")]
    plan.measures = {"t": Measure("t", networks, [View("d", "test")], metrics)}
    sources = Sources(plan, Store(tmp_path), small.keys(plan))
    (result,) = run_measures(plan, sources.keys, sources.store, RunOptions(device="cpu"))
    return sources, result


def test_numbers_of_splits_by_hand(tmp_path: Path) -> None:
    sources, result = measured(tmp_path, rows=1)
    net = materialise(sources, Version("n0")).eval()
    data = open_view(ViewSpec("digits", split="test", protocol=ProtocolRule(3, 4)), None)
    with torch.no_grad():
        features = net[:-1](data.batch(torch.arange(360))["inputs"])  # type: ignore[index]
    protocol = data.protocol()
    assert protocol is not None
    each = [tar(s, 0.1) for s in scores(features, protocol)]
    number = result.rows[0].values["last"]["tar(far = 0.1)"]
    assert number.n == 1 and number.std is None and number.splits is not None
    assert number.splits.values == [pytest.approx(each)] and number.mean == pytest.approx(statistics.fmean(each))
    assert number.splits.std == pytest.approx(statistics.stdev(each)) and number.splits.n == 4
    assert result.rows[0].values["last"]["parameters"].splits is None
    again = run_measures(sources.plan, sources.keys, sources.store, RunOptions(device="cpu"))
    assert again == [result], "as the store keeps it"
    assert MeasureResult.from_json(result.to_json()) == result


def test_chances_of_splits_and_of_seeds_stand_apart(tmp_path: Path) -> None:
    _, result = measured(tmp_path, rows=3)
    number = result.rows[0].values["last"]["rank(k = 1)"]
    assert number.n == 3 and number.std == pytest.approx(statistics.stdev(number.values))
    assert number.splits is not None
    within = [statistics.variance(run) for run in number.splits.values]
    assert number.splits.std == pytest.approx(statistics.fmean(within) ** 0.5)
    _, _, ((_, cell, _, count),) = texts(result)
    assert cell.endswith("(4 splits, n = 3)") and cell.count("±") == 2 and count == "1,532"
    assert "over splits ± over seed" in str(rich_table(result).title)
    head, line = to_csv(result).splitlines()
    assert "rank(k = 1)_last_splits_std,rank(k = 1)_last_splits" in head and "parameters_last_splits" not in head
    assert head.count(",") == line.count(",")


def test_nan_in_one_split_stays(tmp_path: Path) -> None:
    number = Number.of([[1.0, float("nan")], [2.0, 3.0]])
    assert number.mean != number.mean and number.splits is not None and number.splits.std != number.splits.std


def test_best_is_chosen_by_the_mean_over_splits(tmp_path: Path) -> None:
    plan = small.digits_plan(epochs=2)
    plan.data["d"].protocol = Item("templates", {"size": 3, "splits": 3})
    plan.phases["train"].validations = [Validation(View("d", "test"), [Item("rank", {"k": 1})])]
    del plan.phases["kd"]
    run_plan(plan, small.planned(plan, {}), small.keys(plan), Store(tmp_path), RunOptions(device="cpu"))
    lines = next(tmp_path.glob("phases/*/metrics.jsonl")).read_text().splitlines()
    ranks = [line["val"]["rank(k = 1)"] for line in map(json.loads, lines) if "val" in line]
    assert len(ranks) == 2 and all(isinstance(value, float) for value in ranks)


def test_scores_of_other_classes_can_be_compared(tmp_path: Path) -> None:
    """Which is warned of, and runs: their columns are no classes of the data."""
    plan = small.digits_plan()
    plan.data["d"].protocol = Item("templates", {"splits": 2})
    plan.networks["n"] = Network("n", Item("digits_net", {"classes": 7}), classes=ClassSet("d", list(range(7))))
    views = [View("d", "test", ClassSet("d", [7, 8, 9]))]
    plan.measures = {"t": Measure("t", [Row("n", Target([Version("n")]))], views, [Item("rank", {"k": 1})])}
    (result,) = run_measures(plan, small.keys(plan), Store(tmp_path), RunOptions(device="cpu"))
    assert result.rows[0].values["last"]["rank(k = 1)"].mean > 34


def test_core_plans_are_checked_too(tmp_path: Path) -> None:
    plan = small.digits_plan()
    metrics = [Item("rank", {"k": 1})]
    plan.measures = {"t": Measure("t", [Row("n", Target([Version("big")]))], [View("d", "test")], metrics)}
    with pytest.raises(PlanError) as problem:
        run_measures(plan, small.keys(plan), Store(tmp_path), RunOptions(device="cpu"))
    assert problem.value.diagnostics[0].code == "KD0840" and "protocol" in str(problem.value)


def test_known_identities_of_a_teacher_count() -> None:
    """The student saw the known ones only; its teacher saw all."""
    plan = text().replace(
        "student small",
        "teacher big = digits_net(width = 3) {\n"
        "  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }\n}\nstudent small",
    )
    loss = "mse(fit(small.layer1, like = big.layer1), big.layer1)"
    plan = plan.replace("cross_entropy(small.logits, labels)\n", f"{loss}\n")
    (warning,) = compiled(plan).warnings
    assert warning.code == "KD0756" and "`7`, `8` and `9`" in warning.message
