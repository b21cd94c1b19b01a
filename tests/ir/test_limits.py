"""Limits on evaluation, as they are set on the command line."""

from __future__ import annotations

import pytest

from kdplan.diagnostics.report import PlanError
from kdplan.ir.limits import DEFAULT, MEANINGS, Limits, read_limits


def test_each_limit_can_be_set() -> None:
    limits = read_limits(
        ["instances=7", "elements = 8_000", "nodes=4", "digits=9", "memory=10", "seconds=0.5", "digits=11"]
    )
    assert limits == Limits(7, 8000, 4, 11, 10, 0.5)
    assert read_limits([]) == DEFAULT and [*MEANINGS] == [*Limits.__slots__]


@pytest.mark.parametrize(
    ("text", "why", "help"),
    [
        ("instance=3", "names no limit", "Did you mean `instances`?"),
        ("instances", "gives no number above 0", "Write, for example, `--limit instances=20000`."),
        ("instances=many", "gives no number", "Write, for example, `--limit instances=20000`."),
        ("instances=0", "gives no number above 0", "Write, for example, `--limit instances=20000`."),
        ("memory=-1", "gives no number above 0", "Write, for example, `--limit instances=20000`."),
        ("seconds=nan", "gives no number above 0", "Write, for example, `--limit instances=20000`."),
        ("seconds=inf", "gives no number above 0", "Write, for example, `--limit instances=20000`."),
    ],
)
def test_what_is_no_limit(text: str, why: str, help: str) -> None:
    with pytest.raises(PlanError) as caught:
        read_limits([text])
    (d,) = caught.value.diagnostics
    assert d.code == "KD1107" and why in d.message and text in d.message and d.help == help
