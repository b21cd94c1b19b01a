"""Five short runs end with the losses and weights of before: bit for bit where the processor and torch are the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.golden.runs import FILE, PLANS, processor, run

GOLDEN = json.loads(FILE.read_text(encoding="utf-8"))


@pytest.mark.parametrize("plan", PLANS, ids=lambda p: p.stem)
def test_a_run_ends_as_before(plan: Path, tmp_path: Path) -> None:
    found, golden = run(plan, tmp_path), GOLDEN[plan.stem]
    if processor() == GOLDEN["processor"]:
        assert found == golden
    assert len(found["phases"]) == len(golden["phases"])
    for name in ("loss", "size"):  # on another processor sums are rounded otherwise, and epochs magnify it
        one, two = (sorted(phase[name] for phase in side["phases"]) for side in (found, golden))
        assert one == pytest.approx(two, rel=0.02)
