"""Changed plans through the compiler: no traceback, no hang, little memory, and formatting keeps the tree."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from tests.fuzz.plans import fuzz

MANY = int(os.environ.get("KDPLAN_FUZZ_PLANS", "1000"))
SEED = int(os.environ.get("KDPLAN_FUZZ_SEED", "0"))


def test_a_few() -> None:
    """Without data folders: plans of absent data end early, as with a reader who lacks them."""
    counts, faults = fuzz(range(150), 0, None)
    assert counts["plans"] == 150 and faults == []


@pytest.mark.slow
def test_many(any_data: Path) -> None:
    _, faults = fuzz(range(MANY), SEED, any_data)
    assert faults == []


@pytest.mark.slow
def test_many_with_torch(any_data: Path) -> None:
    _, faults = fuzz(range(MANY // 20), SEED + 1, any_data, torch=True)
    assert faults == []
