"""Data and metrics that read an axis: each row on the data of its own value, each metric a column for each value."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan.passes.expand import expand
from kdplan.runtime.measures.results import MeasureResult
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from tests.passes.plans import codes, compiled

HEAD = """
param images in [100]
data digits = digits { limit = images }
verticals V of digits { low = 0..4  high = 5..9 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64 }
student small = digits_net(width = 2)
phase p of small on digits with quick { loss = cross_entropy(small.logits, labels) }
"""


def run(tmp_path: Path, measure: str, images: str) -> MeasureResult:
    plan = compiled(HEAD + measure, params={"images": images})
    (result,) = run_measures(plan.plan, plan.keys, Store(tmp_path), RunOptions(device="cpu"))
    return result


def numbers(result: MeasureResult, **coordinates: object) -> list[float]:
    rows = [r for r in result.rows if coordinates.items() <= r.coordinates.items()]
    return [n.mean for r in rows for n in r.values["last"].values()]


@pytest.mark.parametrize("by", ["", "by images", "by V", "by V, images"])
def test_rows_are_measured_on_the_data_of_their_own_value(tmp_path: Path, by: str) -> None:
    measure = f"measure t of small@init {by} on digits.train, digits.test {{ top1, cross_entropy }}\n"
    both = run(tmp_path, measure, "[100, 300]")
    alone = [run(tmp_path, measure, one) for one in ("100", "300")]
    assert numbers(alone[0]) != numbers(alone[1])
    assert [numbers(both, images=n) for n in (100, 300)] == [numbers(a) for a in alone]
    assert both.views == ["digits.train", "digits.test"]


def test_a_version_of_one_value_is_measured_on_its_own_data_once() -> None:
    measure = "measure t of small@p, small@p[images = 300], small@init on digits.test { top1 }\n"
    rows = compiled(HEAD + measure, params={"images": "[100, 300]"}).plan.measures["t"].rows
    shown = [(r.label, r.coordinates["images"], r.views[0].data) for r in rows]
    of_data = {100: "digits[images=100]", 300: "digits[images=300]"}
    assert shown == [(label, n, of_data[n]) for label in ("small@p", "small@init") for n in (100, 300)]


def test_a_metric_is_a_column_for_each_value() -> None:
    text = "param best in [1, 3]\n" + HEAD + "measure t of small@p on digits.test { top1, topk(k = best), top1 }\n"
    (measure,) = compiled(text).plan.measures.values()
    assert [(m.name, m.arguments) for m in measure.metrics] == [("top1", {}), ("topk", {"k": 1}), ("topk", {"k": 3})]
    assert len(measure.rows) == 1


def test_a_metric_inside_a_phase_makes_the_phase_one_for_each_value() -> None:
    inside = "param best in [1, 3]\n" + HEAD.replace("{ loss", "{ measure on digits.test { topk(k = best) }  loss")
    assert list(compiled(inside).plan.phases) == ["p[best=1, images=100]", "p[best=3, images=100]"]


def test_what_a_plot_draws_follows_no_axis() -> None:
    text = "param best in [1, 3]\n" + HEAD.replace("loss =", "loss = best *")
    drawn = "measure t of small@p on digits.test { topk(3), plot(x = best, y = topk(k = best)) }\n"
    assert codes(text + drawn) == ["KD0410"]


def test_the_expanded_plan_measures_the_same() -> None:
    measure = "measure t of small@p, small@init by V on digits.train { top1 }\n"
    plan = compiled(HEAD + measure, params={"images": "[100, 300]"}).plan
    again = compiled(expand(plan)).plan
    first, second = again.measures.values()
    assert [len(m.rows) for m in (first, second)] == [4, 4]
    assert [m.views[0].data for m in (first, second)] == ["digits_images100", "digits_images300"]
    assert expand(again) == expand(plan)
