"""Losses that are no number: what is known before training, and what is not."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from kdplan.compile import check_text
from kdplan.graph.compare import compare, compare_call

CODE = """
import torch


def deviation(x):
    return x.std(0).mean()


def distances(x):
    d = torch.cdist(x, x)
    return (d / d.mean()).mean()


def of_class_1(x, y):
    mask = (y == 1).float()
    return (x.mean(1) * mask).sum() / mask.sum()


def logarithm(x):
    return x.log().mean()


def ratio(x):
    return x.mean() / (x - x).sum()
"""


def codes(folder: Path, loss: str, limit: int = 129, more: str = "") -> list[str]:
    (folder / "my.py").write_text(CODE)
    text = f"""
    use "my.py" as my
    data digits = digits {{ limit = {limit} }}
    recipe quick {{ optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64  {more} }}
    student small = digits_net(width = 2)
    phase alone of small on digits with quick {{ loss = {loss} }}
    """
    return [d.code for d in check_text(text, folder=folder)]


@pytest.mark.parametrize("loss", ["my.deviation(small.logits)", "my.distances(small.logits)"])
def test_what_one_sample_does_not_have_is_an_error(tmp_path: Path, loss: str) -> None:
    assert codes(tmp_path, loss) == ["KD0615"]
    assert codes(tmp_path, loss, limit=130) == []
    assert codes(tmp_path, loss, more="drop_last = true") == []


def test_what_depends_on_the_labels_of_one_sample_is_none(tmp_path: Path) -> None:
    assert codes(tmp_path, "my.of_class_1(small.logits, labels)") == []


@pytest.mark.parametrize(
    "loss",
    [
        "my.ratio(small.logits)",
        "cross_entropy(small.logits, labels) / progress",
        "(mean(small.logits) - 100) ** 0.5",
        "mean(small.logits) / 0",
    ],
)
def test_what_is_no_number_whatever_networks_give_is_a_warning(tmp_path: Path, loss: str) -> None:
    assert codes(tmp_path, loss, limit=130) == ["KD0550"]


@pytest.mark.parametrize(
    "loss",
    [
        "my.logarithm(small.logits)",
        "mean(small.logits) ** 0.5",
        "cross_entropy(small.logits, labels) / (1 + epoch)",
        "mean(small.logits) / mean(small.fc)",
        "mean(small.logits) ** 2",
    ],
)
def test_what_some_numbers_have_is_no_warning(tmp_path: Path, loss: str) -> None:
    assert codes(tmp_path, loss, limit=130) == []


def test_what_breaks_is_the_value_or_the_gradient() -> None:
    x = (torch.ones(4, 3),)
    assert compare_call(lambda x: (x - 2).log().mean(), x, {}).broken == "value"
    assert compare_call(lambda x: (x - x).norm(dim=1).sqrt().mean(), x, {}).broken == "gradient"
    assert compare_call(lambda x: x.masked_fill(x > 0, float("-inf")), x, {}).broken == ""
    assert compare_call(lambda x: (-x).log().mean(), x, {}, real=True).broken == "value"
    assert compare_call(lambda x: x.log().mean(), (-x[0],), {}).broken == ""


class Root(torch.nn.Module):
    def __init__(self, shift: float) -> None:
        super().__init__()
        self.fc, self.shift = torch.nn.Linear(3, 2), shift

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.fc((x - self.shift).sqrt())  # type: ignore[no-any-return]


def test_a_network_that_gives_no_numbers() -> None:
    x = (torch.linspace(-1, 1, 12).reshape(4, 3),)
    assert compare(Root(9.0), x, first_trace=True).broken == "value"
    assert compare(Root(0.0), x, first_trace=True).broken == ""
    assert compare(Root(0.0), x).broken == "value"
