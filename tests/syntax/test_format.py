"""The look of a formatted plan."""

from __future__ import annotations

from pathlib import Path
from textwrap import dedent

import pytest

from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.syntax.format import format_text
from kdplan.syntax.parse import parse
from kdplan.syntax.walk import same

ROOT = Path(__file__).parents[2]


def formatted(text: str) -> str:
    once = format_text(Source("plan.kd", text))
    assert format_text(Source("plan.kd", once)) == once
    return once


def test_spaces() -> None:
    text = "student  s[i   in 0 .. 2]=net( a,b = - 1 ) {seed=fold( seed , i )batch=x [ * ]. y@ z}"
    assert formatted(text) == "student s[i in 0..2] = net(a, b = -1) { seed = fold(seed, i)  batch = x[*].y@z }\n"
    assert formatted("a = b - -c ** - (d) * (-e) for_ = [-1, - x]") == "a = b - -c ** -(d) * (-e)  for_ = [-1, -x]\n"
    assert formatted("measure m of a[*], (b) on [c] { }") == "measure m of a[*], (b) on [c] {}\n"


def test_bodies_lines_and_blank_lines_stay_as_the_author_has_them() -> None:
    text = dedent("""\


        # first


        recipe r
        {

            a = 1
          long_name = 2   b = 3


          c = 4

        } recipe s { a = 1 }
        """)
    assert formatted(text) == dedent("""\
        # first

        recipe r {
          a         = 1
          long_name = 2  b = 3

          c = 4
        }
        recipe s { a = 1 }
        """)


def test_continued_lines_and_comments() -> None:
    text = dedent("""\
        phase p of a,
              b { # head
        loss = f(
        x,   # one
           y
        )
              # why
           + g(x)   # two
           # last
        }
        # end""")
    assert formatted(text) == dedent("""\
        phase p of a,
            b {  # head
          loss = f(
            x,  # one
            y
          )
               # why
               + g(x)  # two
          # last
        }
        # end
        """)


def test_a_body_that_does_not_fit_is_broken() -> None:
    items = "  ".join(f"setting_number_{i} = value_number_{i}" for i in range(4))
    broken = formatted(f"recipe r {{ {items} }}")
    assert broken.split("\n")[:2] == ["recipe r {", "  setting_number_0 = value_number_0"]
    assert all(len(line) <= 120 for line in broken.split("\n"))


def test_empty_texts() -> None:
    assert formatted("") == ""
    assert formatted("\n\n  \n") == ""
    assert formatted("  # only a comment") == "# only a comment\n"


def test_a_plan_with_mistakes_is_not_formatted() -> None:
    with pytest.raises(PlanError):
        format_text(Source("plan.kd", "a = = b"))


@pytest.mark.parametrize("path", sorted([*ROOT.glob("plans/**/*.kd"), *ROOT.glob("examples/**/*.kd")]), ids=str)
def test_formatting_the_project_s_plans_keeps_their_trees(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert same(parse(Source("a", text)), parse(Source("b", formatted(text))))
