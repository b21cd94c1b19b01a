"""Arguments of choices: a value of another type is an error at the value, never later."""

from __future__ import annotations

import pytest

from tests.passes.plans import BIG, CE, HEAD, codes

HALF = "verticals half of digits { low = 0..4  high = 5..9 }\n"


@pytest.mark.parametrize(
    "metric",
    ["topk(half)", "siblings(k = half)", "topk(case(a = 1))", "siblings(2, digits.classes)", "siblings(2, 3)",
     'siblings(2, "a")', "siblings(2, [[0], 1])", "mpvap(half[low])"],
)  # fmt: skip
def test_a_metric_refuses_other_types(metric: str) -> None:
    plan = HEAD + BIG + HALF + f"phase p of small on digits with quick {{ {CE} }}\n"
    assert codes(plan + f"measure t of small@p on digits.test {{ {metric} }}") == ["KD0244"]


@pytest.mark.parametrize("argument", ["lr = half", "momentum = case(a = 1)", "nesterov = half"])
def test_an_optimizer_refuses_other_types(argument: str) -> None:
    first = "" if "lr" in argument else "lr = 0.1, "
    assert codes(HEAD + HALF + f"recipe r {{ optimizer = sgd({first}{argument})  epochs = 1 }}") == ["KD0244"]


def test_a_class_set_counts_as_a_number_of_classes() -> None:
    text = HEAD + HALF + "student s = digits_net(width = half[low])\n"
    assert codes(text + f"phase p of s on digits with quick {{ {CE.replace('small', 's')} }}") == []
