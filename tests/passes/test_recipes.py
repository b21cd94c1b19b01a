"""What the recipes of one phase must share, and what they need not."""

from __future__ import annotations

import pytest

from kdplan.compile import check_text
from kdplan.diagnostics.report import Reporter
from kdplan.ir.expr import Const, Version
from kdplan.ir.plan import Item, Phase, Recipe, Trainee
from kdplan.ir.settings import OLDER, RECIPE
from kdplan.passes.recipes import OWN, SHARED, check_recipes

PLAN = """
data digits = digits {{ limit = 60 }}
recipe quick {{ optimizer = sgd(lr = 0.05)  epochs = 2  batch = 30 }}
recipe other = quick {{ {setting} }}
student a = digits_net(width = 2)
student b = digits_net(width = 3)
phase p of a, b on digits with quick, other {{
  loss = cross_entropy(a.logits, labels) + cross_entropy(b.logits, labels)
}}
"""
CHANGED = {
    "optimizer": "adam()", "schedule": "cosine()", "warmup": "1", "workers": "1", "epochs": "3", "steps": "5",
    "batch": "10", "accumulate": "2", "drop_last": "true", "clip": "5", "label_smoothing": "0.1", "ema": "0.9",
    "precision": "bf16", "frozen_precision": "bf16", "layout": "channels_last", "channels_last": "true",
    "compile": "true", "frozen": "auto", "keep_epochs": "[1]", "fold": "true", "on_nan": "skip", "threads": "2",
    "shards": "2", "norm": "sync", "stack": "2",
}  # fmt: skip


def test_every_setting_is_tried() -> None:
    assert set(CHANGED) == {s.name for s in RECIPE}
    assert {*OWN, *SHARED, *OLDER} == set(CHANGED)


@pytest.mark.parametrize("setting", CHANGED)
def test_recipes_that_disagree(setting: str) -> None:
    codes = [d.code for d in check_text(PLAN.format(setting=f"{setting} = {CHANGED[setting]}"))]
    assert set(codes) == (set() if setting in OWN else {"KD0802"})


def test_phase_without_length() -> None:
    def codes(schedule: Item, steps: int | None = None) -> list[str]:
        recipe = Recipe(Item("sgd"), schedule, steps=steps)
        reporter = Reporter()
        check_recipes(Phase("p", [Trainee(Version("a"))], [], [recipe], Const(0)), reporter)
        return [d.code for d in reporter.diagnostics]

    assert codes(Item("plateau", {"patience": 1})) == ["KD0822"]
    assert codes(Item("plateau", {"until": 1e-4})) == []
    assert codes(Item("constant"), steps=5) == []
