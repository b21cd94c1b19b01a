"""A file that is no plan gives a clear message soon."""

from __future__ import annotations

import random
import string
import time

import pytest

from kdplan.diagnostics.report import Diagnostic, PlanError
from kdplan.diagnostics.span import Source
from kdplan.syntax.parse import parse

MILLION = 1_000_000


def answer(text: str, seconds: float = 5) -> list[Diagnostic]:
    begin = time.process_time()
    with pytest.raises(PlanError) as caught:
        parse(Source("noise.kd", text))
    assert time.process_time() - begin < seconds
    assert 1 <= len(caught.value.diagnostics) <= 20
    return caught.value.diagnostics


@pytest.mark.parametrize(
    "text",
    [
        "student a = " + "(" * MILLION,
        "student a = " + "(" * MILLION + "x" + ")" * MILLION,
        "student a = " + "[" * MILLION,
        "a {" * MILLION,
        "student a = " + "-" * MILLION + "1",
        "student a = " + "2 ** " * (MILLION // 2) + "1",
        "student a = b" + ".c" * MILLION,
        "student a = b" + "[0].c" * (MILLION // 2),
        "student a = b" + "(x).c" * (MILLION // 2),
        "student a = " + "f(" * MILLION,
    ],
    ids=["open", "matched", "square", "braces", "minus", "powers", "dots", "picks", "calls", "applied"],
)
def test_a_million_levels(text: str) -> None:
    assert [d.code for d in answer(text)] == ["KD0114"]


@pytest.mark.parametrize("text", ["[" * MILLION, ")" * MILLION, "'" * MILLION, '"' * MILLION, "\0" * MILLION])
def test_one_character_a_million_times(text: str) -> None:
    answer(text)


def test_random_characters() -> None:
    draw = random.Random(1)
    answer("".join(draw.choices(string.printable, k=2 * MILLION)))
    answer(bytes(draw.choices(range(256), k=2 * MILLION)).decode("latin-1"))


def test_ten_megabytes() -> None:
    (one,) = answer("noise of no kind " * 600_000)
    assert one.code == "KD0120" and "10,200,000 characters" in one.message


def test_a_tower_just_below_the_limit_is_a_plan() -> None:
    assert parse(Source("deep.kd", "a = " + "(" * 150 + "x" + ")" * 150)).items
