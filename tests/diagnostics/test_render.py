"""How diagnostics look."""

from __future__ import annotations

from textwrap import dedent

from kdplan.diagnostics.render import explain, render_text, to_json
from kdplan.diagnostics.report import Diagnostic, Note
from kdplan.diagnostics.span import Source, Span

TEXT = "recipe r {\n\tepochs: 240\n}\nstudent 学生 = b\n"


def of(text: str, at: str, **more: object) -> Diagnostic:
    start = text.index(at)
    return Diagnostic("KD0106", "It is wrong.", Span(Source("a.kd", text), start, start + len(at)), **more)  # type: ignore[arg-type]


def shown(d: Diagnostic) -> str:
    return render_text([d], color=False).rsplit("\n\n", 1)[0]


def test_one_line_with_help_and_notes() -> None:
    note = Note("first\nsecond", Span(Source("b.kd", "x = y"), 4, 5))
    assert shown(of(TEXT, "r", notes=(note, Note("alone")), help="do this")) == dedent("""\
        error[KD0106]: It is wrong.
         --> a.kd:1:1
          |
        1 | recipe r {
          | ^
          = note: first
                  second
         --> b.kd:1:5
          |
        1 | x = y
          |     ^
          = note: alone
          = help: do this""")


def test_tabs_and_wide_characters_keep_the_underline_in_place() -> None:
    assert shown(of(TEXT, ":")).split("\n")[-2:] == ["2 |     epochs: 240", "  |           ^"]
    assert shown(of(TEXT, "=")).split("\n")[-2:] == ["4 | student 学生 = b", "  |              ^"]
    assert shown(of(TEXT, "学生")).split("\n")[-1] == "  |         ^^^^"


def test_a_span_of_several_lines() -> None:
    assert shown(of(TEXT, "{\n\tepochs: 240\n}")).split("\n")[1:] == [
        " --> a.kd:1:10",
        "  |",
        "1 | recipe r {",
        "  |          ^",
        "… |",
        "3 | }",
        "  | ^",
    ]


def test_a_long_line_is_cut_around_the_place() -> None:
    text = "a = [" + "one, " * 1000 + "HERE, " + "two, " * 1000 + "]"
    line, under = shown(of(text, "HERE")).split("\n")[-2:]
    assert len(line) < 130 and line.count("…") == 2
    assert line[under.index("^") : under.rindex("^") + 1] == "HERE"
    line, under = shown(of(text, text)).split("\n")[-2:]
    assert len(line) < 130 and len(under) < 130


def test_line_ends_and_odd_characters() -> None:
    assert shown(of("a = 1\r\nb", "1\r\n")).split("\n")[-2:] == ["1 | a = 1", "  |     ^"]
    assert "\x1b" not in shown(of("a = \x1b[31m b", "b"))
    assert "\x1b" not in render_text([Diagnostic("KD0106", "No span.")], color=False)
    assert shown(of("a = 1", "")).split("\n")[-1] == "  | ^"


def test_colour() -> None:
    assert "\x1b[1;31merror[KD0106]\x1b[0m" in render_text([of(TEXT, "r")], color=True)
    assert "\x1b[1;33mwarning" in render_text([of(TEXT, "r", severity="warning")], color=True)


def test_the_count() -> None:
    one, two = of(TEXT, "r"), of(TEXT, "b", severity="warning")
    assert render_text([one, two, one], color=False).endswith(
        "2 errors, 1 warning; run `kdplan explain KD0106` for details"
    )
    assert render_text([], color=False) == ""


def test_json() -> None:
    d = of(TEXT, "240\n}", help="do this", notes=(Note("also"),))
    assert to_json([d]) == [
        {
            "code": "KD0106",
            "message": "It is wrong.",
            "file": "a.kd",
            "line": 2,
            "column": 10,
            "end_line": 3,
            "end_column": 2,
            "help": "do this",
            "severity": "error",
            "notes": [
                {"text": "also", "file": None, "line": None, "column": None, "end_line": None, "end_column": None}
            ],
        }
    ]
    assert to_json([Diagnostic("KD0106", "No span.")])[0]["file"] is None


def test_explain_shows_the_answer() -> None:
    def check(text: str) -> list[Diagnostic]:
        from kdplan.diagnostics.report import Reporter
        from kdplan.syntax.parse import parse_recovering

        reporter = Reporter()
        parse_recovering(Source("example.kd", text), reporter)
        return reporter.diagnostics

    text = explain("kd0101", check)
    assert text is not None
    assert "KD0101: a colon" in text and "    2 |   epochs: 240\n" in text
    assert explain("nothing") is None


def test_many_warnings_of_one_kind_are_one() -> None:
    source = Source("a.kd", "".join(f"student s{i} = net\n" for i in range(1000)))

    def warning(i: int) -> Diagnostic:
        at = source.text.index(f"s{i} ")
        return Diagnostic("KD0350", f"`s{i}` is never used.", Span(source, at, at + 2), "Use it.", severity="warning")

    one = Diagnostic("KD0351", "Another.", severity="warning")
    shown = render_text([warning(0), one, *map(warning, range(1, 1000))], color=False)
    assert len(shown.splitlines()) < 15
    assert "`s0` is never used" in shown and "999 more like this, of `s1`, `s2`, `s3`, `s4` and 995 others" in shown
    assert "Another." in shown and "1001 warnings" in shown
    few = render_text([warning(i) for i in range(3)], color=False)
    assert "more like this" not in few and few.count("is never used") == 3
    assert len(to_json([warning(i) for i in range(1000)])) == 1000


def test_many_errors_are_all_shown() -> None:
    errors = [Diagnostic("KD0205", f"The name `n{i}` is not defined here.") for i in range(10)]
    shown = render_text(errors, color=False)
    assert shown.count("is not defined here") == 10
