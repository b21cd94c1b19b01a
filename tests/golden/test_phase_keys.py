"""No phase of a plan in the repository gets another key unless somebody means it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.conftest import root_for
from tests.golden.phase_keys import FILE, PLANS, ROOT, phase_keys, shown

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


def test_every_plan_has_golden_keys() -> None:
    assert sorted(GOLDEN) == [str(p) for p in PLANS]


@pytest.mark.parametrize("plan", PLANS, ids=str)
def test_keys_are_those_of_before(plan: Path, request: pytest.FixtureRequest) -> None:
    assert shown(phase_keys(plan, root_for(ROOT / plan, request))) == GOLDEN[str(plan)]
