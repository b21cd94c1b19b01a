"""Functions of plans: each row of the table has its rule."""

from __future__ import annotations

from kdplan.ir.functions import PLAN_FUNCTIONS
from kdplan.resolve.plan_functions import _FUNCTIONS


def test_each_row_has_a_rule() -> None:
    assert set(_FUNCTIONS) == set(PLAN_FUNCTIONS)
