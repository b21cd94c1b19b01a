"""The rows of losses: one order for what compares two networks."""

from __future__ import annotations

import importlib
import inspect

import pytest

from kdplan.ir.losses import LOSSES
from kdplan.ir.spec import Spec
from tests.passes.plans import BIG, HEAD, keys

TWO_NETWORKS = [s for s in LOSSES if any("teacher" in p.name for p in s.params)]


def test_these_losses_are_of_two_networks() -> None:
    assert {"kl", "kd", "attention", "nst", "fsp"} <= {s.name for s in TWO_NETWORKS}


@pytest.mark.parametrize("spec", TWO_NETWORKS, ids=lambda s: s.name)
def test_the_student_comes_first_in_plans_and_in_python(spec: Spec) -> None:
    signals = [p.name for p in spec.params if p.type == "signal"]
    half = len(signals) // 2
    assert [n.replace("student", "teacher") for n in signals[:half]] == signals[half:]
    assert all("student" in n for n in signals[:half])
    module, _, name = spec.implementation.partition(":")
    function = getattr(importlib.import_module(module), name)
    assert list(inspect.signature(function).parameters)[: len(signals)] == signals


@pytest.mark.parametrize("spec", [s for s in LOSSES if s.keyed], ids=lambda s: s.name)
def test_keys_number_every_signal_once(spec: Spec) -> None:
    assert sorted(spec.keyed) == sorted(p.name for p in spec.params if p.type == "signal")


@pytest.mark.parametrize("name", ["kl", "kd"])
def test_a_key_is_of_the_meaning_and_not_of_the_order_in_the_text(name: str) -> None:
    def key(arguments: str) -> str:
        text = f"phase p of small on digits with quick {{ loss = {name}({arguments}, temperature = 4) }}"
        return keys(HEAD + BIG + text)["p"]

    new = key("small.logits, big.logits")
    assert key("teacher = big.logits, student = small.logits") == new
    assert key("big.logits, small.logits") != new  # the old order is now the reverse divergence
    assert key("teacher = small.logits, student = big.logits") == key("big.logits, small.logits")
