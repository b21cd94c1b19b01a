"""What tables call metrics: sets of classes by the words of the plan, and no two metrics alike."""

from __future__ import annotations

import pytest

from kdplan.ir.plan import Item
from kdplan.runtime.measures.labels import label_of
from tests.passes.plans import BIG, CE, HEAD, compiled

PLAN = HEAD + BIG + f"""
verticals half of digits {{ low = 0..4  high = 5..9 }}
verticals odd of digits {{ even = [0, 2, 4, 6, 8]  odd = [1, 3, 5, 7, 9] }}
def sib(g) = siblings(groups = g)
def halves = siblings(groups = half)
phase p of small on digits with quick {{ {CE} }}
"""  # fmt: skip


@pytest.mark.parametrize(
    ("written", "labels"),
    [
        ("mpvap(groups = half)", ["mpvap(groups = half)"]),
        ("mpvap(half), mpvap(groups = odd)", ["mpvap(groups = half)", "mpvap(groups = odd)"]),
        ("halves, topk(3)", ["siblings(groups = half)", "topk(k = 3)"]),
        ("siblings(groups = [[0, 1],\n      [2, 3]])", ["siblings(groups = [[0, 1], [2, 3]])"]),
        ("sib([[0, 1], [2, 3]])", ["siblings(groups = [[0, 1], [2, 3]])"]),
    ],
)
def test_sets_of_classes_have_the_words_of_the_plan(written: str, labels: list[str]) -> None:
    plan = compiled(PLAN + f"measure t of small@p on digits.test {{ {written} }}").plan
    assert [label_of(m) for m in plan.measures["t"].metrics] == labels


def test_two_metrics_of_one_function_have_two_labels() -> None:
    plan = compiled(PLAN + "measure t of small@p on digits.test { sib(half), sib(odd) }").plan
    first, second = (label_of(m) for m in plan.measures["t"].metrics)
    assert first.startswith("siblings(groups = ") and first != second


def test_long_settings_are_shortened_and_stay_apart() -> None:
    many = [[i, i + 1] for i in range(0, 60, 2)]
    first, second = (label_of(Item("siblings", {"groups": g})) for g in (many, [*many[:-1], [58, 60]]))
    assert len(first) < 80 and first != second


def test_a_plot_has_the_label_of_its_column() -> None:
    text = PLAN.replace("phase p of", "param w in [1, 2]\nphase p of").replace("loss =", "loss = w *")
    body = "siblings(groups = half), plot(x = w, y = halves)"
    (measure,) = compiled(text + f"measure t of small@p on digits.test {{ {body} }}").plan.measures.values()
    assert label_of(measure.plots[0].y) == label_of(measure.metrics[0]) == "siblings(groups = half)"
