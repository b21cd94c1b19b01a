"""Devices that are asked for, and what a result depends on."""

from __future__ import annotations

import pytest
import torch

from kdplan.diagnostics.report import PlanError
from kdplan.runtime.device import (
    FLOPS_PER_THREAD,
    MOST_THREADS,
    choose_device,
    environment,
    set_determinism,
    threads_for,
)


def test_device_that_is_not_there() -> None:
    with pytest.raises(PlanError) as problem:
        choose_device("cuda:63")
    assert problem.value.diagnostics[0].code == "KD0810"
    assert "cuda:63" in str(problem.value) and "cpu" in str(problem.value)


@pytest.mark.parametrize("name", ["gpu", "meta", "cpu:x"])
def test_unknown_device(name: str) -> None:
    with pytest.raises(PlanError) as problem:
        choose_device(name)
    assert problem.value.diagnostics[0].code == "KD0811"


def test_auto_takes_what_is_there() -> None:
    assert choose_device("auto").type == ("cuda" if torch.cuda.is_available() else choose_device("auto").type)
    assert choose_device("cpu") == torch.device("cpu")


def test_environment_says_whether_it_repeats() -> None:
    facts = environment(torch.device("cpu"), False)
    assert facts["deterministic"] is True and facts["torch"] == str(torch.__version__)


def test_determinism_is_switched_both_ways() -> None:
    set_determinism(True)
    assert torch.are_deterministic_algorithms_enabled()
    set_determinism(False)
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.parametrize(("flops", "threads"), [(0, 1), (1, 1), (2 * FLOPS_PER_THREAD, 2), (1e12, MOST_THREADS)])
def test_a_step_has_as_many_threads_as_it_is_worth(flops: float, threads: int) -> None:
    """Whatever the machine's number is."""
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        with pytest.raises(KeyError), threads_for(int(flops)):
            assert torch.get_num_threads() == threads
            raise KeyError
        assert torch.get_num_threads() == 3
    finally:
        torch.set_num_threads(before)
