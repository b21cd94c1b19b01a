"""Seeds made from seeds."""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdplan.ir.seed import fold

values = st.one_of(st.integers(), st.text(), st.booleans(), st.none(), st.floats(allow_nan=False))


@given(st.integers(), st.lists(values, max_size=4))
def test_in_range_and_repeatable(seed: int, more: list[object]) -> None:
    assert 0 <= fold(seed, *more) < 2**63
    assert fold(seed, *more) == fold(seed, *more)


def test_order_nesting_and_type_matter_but_not_how_a_number_is_written() -> None:
    cases: list[tuple[Any, ...]] = [
        (0, 1),
        (1, 0),
        (0, 1, 2),
        (0, [1, 2]),
        (0, "1"),
        (0, 12),
        (0, True),
        (0, None),
        (0,),
    ]
    seen = {fold(*v) for v in cases}
    assert len(seen) == 9
    assert fold(0, 1) == fold(0, 1.0) and fold(0, {"a": 1, "b": 2}) == fold(0, {"b": 2.0, "a": 1})


def test_no_collisions_in_a_sweep() -> None:
    assert len({fold(seed, i) for seed in range(100) for i in range(100)}) == 10_000


def test_what_has_no_text_is_refused() -> None:
    with pytest.raises(TypeError):
        fold(0, object())
    with pytest.raises(TypeError, match="keys"):
        fold(0, {1: 2})


def test_the_number_is_fixed_for_ever_and_needs_no_torch() -> None:
    """Stored results depend on it: a change of this number is a change of every key."""
    code = "import sys; import kdplan.ir.seed as s, kdplan.ir.optimizers, kdplan.nn.catalog, kdplan.nn.schedules"
    code += "; print(s.fold(0, 'x', 1.5), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert out == ["8156801428086985643", "False"]
