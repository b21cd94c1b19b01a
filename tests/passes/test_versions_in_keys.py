"""A row of a table whose version is raised gives new keys to all that uses it, and to nothing else."""

from __future__ import annotations

from collections.abc import MutableMapping
from dataclasses import replace
from typing import Any

import pytest

from kdplan.data.catalog import SOURCES
from kdplan.data.rules import SPLITS
from kdplan.data.transforms import TRANSFORMS
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.optimizers import OPTIMIZERS, SCHEDULES
from kdplan.nn.catalog import METRICS, MODELS
from kdplan.nn.layers import GATES
from tests.passes.plans import keys

PLAN = """
data digits = digits
data parted = digits { augment = [pad_crop(8, pad = 1)]  split = per_class(train = 40, seed = 1) }
recipe plain { optimizer = adam(lr = 0.1)  epochs = 1 }
recipe waving { optimizer = sgd(lr = 0.1)  schedule = cosine  epochs = 1 }
student base = digits_net(width = 2)
student other = mlp(inputs = 64, classes = 10)
phase usual of base on digits with plain { loss = mean(base.logits) }
phase wave of base on digits with waving { loss = mean(base.logits) }
phase cut of base on parted with plain { loss = mean(base.logits) }
phase dense of other on digits with plain { loss = mean(other.logits) }
phase scored of base on digits with plain {
  loss = cross_entropy(base.logits, labels)
  measure on digits.test { ece }
}
branches one of mlp(inputs = 64, hidden = [8], classes = 10) from layers[0] on digits with plain {
  count = 2
  loss = mean(gated.logits)
}
"""


@pytest.mark.parametrize(
    ("table", "row", "changed"),
    [
        (OPTIMIZERS, "sgd", {"wave"}),
        (SCHEDULES, "cosine", {"wave"}),
        (MODELS, "mlp", {"dense", "one@train"}),
        (GATES, "gate", {"one@train"}),
        (METRICS, "ece", {"scored"}),
        (SPLITS, "per_class", {"cut"}),
        (TRANSFORMS, "pad_crop", {"cut"}),
        (FUNCTIONS, "cross_entropy", {"scored"}),
        (SOURCES, "digits", {"usual", "wave", "cut", "dense", "scored", "one@train"}),
    ],
)
def test_a_raised_version(
    table: MutableMapping[str, Any], row: str, changed: set[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly the phases that use the row have other keys."""
    before = keys(PLAN)
    monkeypatch.setitem(table, row, replace(table[row], version=table[row].version + 1))
    after = keys(PLAN)
    assert {name for name in before if before[name] != after[name]} == changed
