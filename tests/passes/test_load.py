"""Files that use one another: params, names alone, and what a mistake in them says."""

from __future__ import annotations

from pathlib import Path

from kdplan.compile import check_text
from tests.passes.plans import compiled, keys

DATA = "param seed = 0\nparam epochs = 3\ndata digits = digits\n"
RECIPE = "param epochs = 2\nrecipe quick { optimizer = sgd(lr = 0.1)  epochs = epochs  batch = 64 }\n"
PHASE = (
    "student s = digits_net(width = 2)\nphase p of s on digits with quick { loss = cross_entropy(s.logits, labels) }\n"
)
USE = 'use "data.kd"\nuse "recipe.kd"\n'


def folder(tmp_path: Path) -> Path:
    (tmp_path / "data.kd").write_text(DATA)
    (tmp_path / "recipe.kd").write_text(RECIPE)
    return tmp_path


def codes(text: str, tmp_path: Path) -> list[str]:
    return [d.code for d in check_text(text, folder=folder(tmp_path))]


def test_params_of_two_files_do_not_collide(tmp_path: Path) -> None:
    assert codes(USE + PHASE, tmp_path) == []
    assert compiled(USE + PHASE, tmp_path).plan.phases["p"].recipes[0].epochs == 2


def test_a_param_of_two_files_has_no_meaning(tmp_path: Path) -> None:
    assert codes(USE + PHASE + "recipe other = quick { epochs = 2 * epochs }", tmp_path) == ["KD0278"]
    assert codes(USE + PHASE + "def twice = 2 * epochs", tmp_path) == []  # nothing reads it
    used = (folder(tmp_path) / "both.kd").write_text(USE)
    assert used and codes('use "both.kd"\n' + PHASE + "recipe other = quick { epochs }", tmp_path) == ["KD0278"]


def test_a_file_is_told_which_param_by_its_name(tmp_path: Path) -> None:
    named = 'use "data.kd"\nuse "recipe.kd" as r\n' + PHASE.replace("with quick", "with r.quick")
    assert codes(named + "recipe other = r.quick { epochs = 2 * r.epochs }", tmp_path) == []


def test_own_params_are_meant_first(tmp_path: Path) -> None:
    own = USE + "param epochs = 7\n" + PHASE
    assert codes(own, tmp_path) == ["KD0273", "KD0273"]
    plan = compiled(own + "recipe other = quick { epochs }\nphase q of s on digits with other { loss = mean(s.fc) }",
                    tmp_path).plan  # fmt: skip
    assert [p.recipes[0].epochs for p in plan.phases.values()] == [2, 7]


def test_a_name_alone_passes_a_param_on(tmp_path: Path) -> None:
    short = 'use "data.kd" { epochs }\nuse "recipe.kd" { epochs, }\nparam epochs = 7\n' + PHASE
    assert codes(short, tmp_path) == ["KD0373"]  # nothing reads the data's
    assert compiled(short, tmp_path).plan.phases["p"].recipes[0].epochs == 7
    assert keys(short, tmp_path, params={"epochs": "9"}) != keys(short, tmp_path)


def test_names_alone_stand_before_settings(tmp_path: Path) -> None:
    long = "recipe other { epochs = epochs  batch = batch  optimizer = sgd(lr = 0.1) }\n"
    short = "recipe other { epochs, batch, optimizer = sgd(lr = 0.1) }\n"
    text = "param epochs = 2\nparam batch = 32\ndata digits = digits\n{}" + PHASE.replace("quick", "other")
    assert keys(text.replace("{}", short, 1)) == keys(text.replace("{}", long, 1))


def test_a_missing_comma_is_named() -> None:
    diagnostics = check_text("param epochs = 2\nrecipe other { epochs batch = 64  optimizer = sgd(lr = 0.1) }")
    assert [d.code for d in diagnostics] == ["KD0201"] and "epochs, batch = …" in str(diagnostics[0].help)


def test_two_files_with_seeds_need_one_seed(tmp_path: Path) -> None:
    (tmp_path / "more.kd").write_text("param seed = 3\ndata more = digits\n")
    assert codes(USE + 'use "more.kd"\n' + PHASE, tmp_path) == ["KD0278"]
    assert codes("param seed = 1\n" + USE.replace('data.kd"', 'data.kd" { seed }') + PHASE, tmp_path) == ["KD0373"]


def test_a_setting_reaches_nobody_else(tmp_path: Path) -> None:
    (tmp_path / "inner.kd").write_text(RECIPE)
    (tmp_path / "outer.kd").write_text('use "inner.kd"\ndata digits = digits\n')
    text = """use "outer.kd" as a { epochs = 3 }
use "outer.kd" as b { epochs = 4 }
use "inner.kd" as plain
student s = digits_net(width = 2)
phase p of s on a.digits with a.quick { loss = cross_entropy(s.logits, labels) }
phase q of s on b.digits with b.quick { loss = cross_entropy(s.logits, labels) }
phase r of s on b.digits with plain.quick { loss = cross_entropy(s.logits, labels) }
"""
    assert [p.recipes[0].epochs for p in compiled(text, tmp_path).plan.phases.values()] == [3, 4, 2]


def test_two_axes_of_one_name_do_not_meet(tmp_path: Path) -> None:
    (tmp_path / "a.kd").write_text("param w in [2, 3]\nstudent a = digits_net(width = w)\n")
    one = "param w in [1, 2]\ndata digits = digits\nrecipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }\n"
    phase = "phase q of x.a on digits with quick { loss = w * cross_entropy(x.a.logits, labels) }"
    assert codes('use "a.kd" as x\n' + one + phase, tmp_path) == ["KD0411"]
    assert codes('use "a.kd" as x { w }\n' + one + phase, tmp_path) == []
    (tmp_path / "b.kd").write_text("param w in [2, 3]\nstudent b = digits_net(width = w)\n")
    apart = (
        phase.replace("w * ", "") + "phase r of y.b on digits with quick { loss = cross_entropy(y.b.logits, labels) }"
    )
    assert codes('use "a.kd" as x\nuse "b.kd" as y\n' + one + apart, tmp_path) == []


def test_seeds_of_two_files_matter_only_where_they_are_read(tmp_path: Path) -> None:
    (tmp_path / "more.kd").write_text("param seed = 3\ndata more = digits\n")
    own = PHASE.replace("width = 2)", "width = 2) { seed = 5 }").replace("{ loss", "{ seed = 3  loss")
    assert codes(USE + 'use "more.kd"\n' + own, tmp_path) == []
    found = check_text(USE + 'use "more.kd"\n' + PHASE, folder=folder(tmp_path))
    assert [d.code for d in found][:1] == ["KD0278"] and found[0].span and found[0].span.file == "plan.kd"


def test_a_name_alone_that_this_file_lacks(tmp_path: Path) -> None:
    problems = check_text(
        'use "recipe.kd" { epochs }\n' + DATA.replace("param epochs = 3\n", "") + PHASE, folder=folder(tmp_path)
    )
    assert [d.code for d in problems] == ["KD0205"] and "epochs = …" in str(problems[0].help)


def test_a_slip_in_the_body_of_use_is_one_mistake(tmp_path: Path) -> None:
    assert codes('use "recipe.kd" { epochs, , }\ndata digits = digits\n' + PHASE, tmp_path) == ["KD0118"]
