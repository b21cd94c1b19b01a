"""Measures of several networks as one, against each alone."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from kdplan.runtime.events import NoEvents
from kdplan.runtime.execute import run_plan
from kdplan.runtime.measures import stacked
from kdplan.runtime.measures.results import Number
from kdplan.runtime.measures.table import run_measures
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store import Store
from kdplan.runtime.store.sealed import read_sealed

PLAN = """
param seed in 0..2
data digits = digits { limit = 120 }
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 2  batch = 40  stack = STACK }
student small = digits_net(width = 2) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
network near[d in [0, 1, 3]] = perturbed(small, distance = d)
ensemble all = mean(small[seed = 0], small[seed = 1])
measure table of small on digits.test, digits.train { top1, cross_entropy, confusion }
measure flat of near[*] on digits.test over seed { cross_entropy, plot(x = d, y = cross_entropy) }
""".replace("ensemble all = mean(small[seed = 0], small[seed = 1])\n", "")


class Notes(NoEvents):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def note(self, text: str) -> None:
        self.notes.append(text)


def measured(stack: object, folder: Path) -> tuple[dict[str, Any], list[dict[str, Any]], list[str]]:
    """Numbers by measure, line and metric; what the store has of them; notes."""
    folder.mkdir()
    store, events = Store(folder / "store"), Notes()
    whole = compile_source(Source("plan.kd", PLAN.replace("STACK", str(stack))), folder)
    options = RunOptions(device="cpu")
    assert run_plan(whole.plan, whole.planned, whole.keys, store, options).exit_code == 0
    numbers: dict[str, Any] = {}
    for result in run_measures(whole.plan, whole.keys, store, options, events):
        for row in result.rows:
            for snapshot, values in row.values.items():
                for metric, number in values.items():
                    numbers[f"{result.name} {row.label} {row.coordinates} {row.view} {snapshot} {metric}"] = number
    records = [read_sealed(f) for f in sorted((folder / "store" / "measures").glob("*.json"))]
    return numbers, records, events.notes


def test_numbers_are_those_of_each_network_alone(tmp_path: Path) -> None:
    """Three seeds on two views, and flatness curves: nine perturbed networks in one pass."""
    alone, records, _ = measured("off", tmp_path / "a")
    assert all("stack" not in r for r in records)
    together, records, notes = measured(16, tmp_path / "b")
    assert notes == [] and {r.get("stack") for r in records} == {3, 9}
    assert together.keys() == alone.keys() != set()
    means = {name: n.mean for name, n in together.items() if isinstance(n, Number) and n.mean is not None}
    assert len(means) >= 7
    for name, mean in means.items():
        assert mean == pytest.approx(alone[name].mean, rel=1e-4, abs=1e-6), name


def test_what_does_not_stack_is_measured_one_by_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: Any) -> None:
        raise stacked.NotStackable("a stack gives other outputs")

    alone, _, _ = measured("off", tmp_path / "a")
    monkeypatch.setattr(stacked, "_compare", refuse)
    together, records, notes = measured(4, tmp_path / "b")
    assert all("stack" not in r for r in records)
    assert len({n for n in notes if n.startswith("KD1014")}) >= 1
    assert together.keys() == alone.keys()
