"""What commands read: values of params, folders, and costs that are computed once."""

from __future__ import annotations

from argparse import Namespace
from pathlib import Path

import pytest

from kdplan import compile as compiler
from kdplan.cli.inputs import add_costs, compile_file, data_root, open_store, param_values
from kdplan.cli.parser import parser
from kdplan.compile import Compiled
from kdplan.diagnostics.report import PlanError
from kdplan.runtime.facts import store_facts
from kdplan.runtime.store import Store


def arguments(*line: str) -> Namespace:
    return parser().parse_args(["plan", "a.kd", *line])


@pytest.mark.parametrize("text", ["epochs", "=3", " = 3"])
def test_a_value_needs_a_name_and_an_equals_sign(text: str) -> None:
    with pytest.raises(PlanError) as error:
        param_values(["weight=1", text])
    assert [d.code for d in error.value.diagnostics] == ["KD0011"]


def test_the_last_value_of_a_param_holds_and_may_contain_equals_signs() -> None:
    assert param_values(["a=1", "a=2", "b=[x = 3]"]) == {"a": "2", "b": "[x = 3]"}


def test_an_option_goes_before_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KDPLAN_STORE", raising=False)
    monkeypatch.delenv("KDPLAN_DATA", raising=False)
    assert (open_store(arguments()).root.name, data_root(arguments())) == (".kdplan", None)
    monkeypatch.setenv("KDPLAN_STORE", "results")
    monkeypatch.setenv("KDPLAN_DATA", "sets")
    assert (open_store(arguments()).root.name, data_root(arguments())) == ("results", Path("sets"))
    given = arguments("--store", "mine", "--data", "own")
    assert (open_store(given).root.name, data_root(given)) == ("mine", Path("own"))


def test_selected_phases_reach_the_planner(folder: Path) -> None:
    planned = compile_file(arguments("--only", "train"), Store(folder / ".kdplan")).planned
    assert {n: p.action for n, p in planned.items()} == {"big@train": "run", "kd": "blocked"}


def test_costs_are_computed_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    inspected: list[list[str]] = []
    inspect = compiler.inspect

    def recorded(compiled: Compiled, names: list[str], verdicts: Store | None) -> None:
        inspected.append(names)
        inspect(compiled, names, verdicts)

    monkeypatch.setattr(compiler, "inspect", recorded)
    store, plans = Store(folder / ".kdplan"), [compile_file(arguments()) for _ in range(3)]
    add_costs(plans[0], store)
    add_costs(plans[1], store)
    assert inspected == [["big@train", "kd"], []]
    assert plans[0].planned["kd"].cost == plans[1].planned["kd"].cost is not None
    key = plans[2].planned["kd"].key
    store.keep_number("costs", key, {"parameters": 3})  # of another version
    add_costs(plans[2], store)
    assert inspected[2] == ["kd"] and plans[2].planned["kd"].cost == plans[0].planned["kd"].cost


def test_seconds_follow_from_the_highest_speed(folder: Path) -> None:
    store = Store(folder / ".kdplan")
    compiled = compile_file(arguments())
    add_costs(compiled, store)
    cost = compiled.planned["kd"].cost
    assert cost is not None and cost.seconds is None
    store.keep_speed("cpu", "k1", 1e6)
    store.keep_speed("cuda", "k2", 1e9)
    add_costs(compiled, store)
    again = compiled.planned["kd"].cost
    assert again is not None and again.seconds == pytest.approx(cost.flops_step * cost.steps / 1e9)


def test_an_empty_store_knows_nothing(tmp_path: Path) -> None:
    facts = store_facts(Store(tmp_path / "none"), tmp_path / "a.kd")
    assert not facts.has("key") and facts.previous("kd") is None and not facts.can_extend("key")
