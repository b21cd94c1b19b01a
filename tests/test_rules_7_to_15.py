"""Rules 7 to 15 of the language: signals, streams, recipes, networks, snapshots, types, time, code, results."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from kdplan.compile import check_text
from kdplan.ir import expr as ir
from kdplan.ir.origins import EmaOf, Merged
from kdplan.passes.expand import expand
from tests.passes.plans import BIG, HEAD, KD, calls, codes, compiled, keys, phase, taps

# ---- 7. Applying


def test_rule_7_a_tap_is_short_for_an_application_to_the_inputs() -> None:
    short = "phase x of small on digits with quick { loss = kd(small.logits, big.logits) }"
    long = "phase x of small on digits with quick { loss = kd(small(inputs).logits, big(inputs).logits) }"
    assert keys(HEAD + BIG + short) == keys(HEAD + BIG + long)


def test_rule_7_submodules_apply_to_signals() -> None:
    loss = phase(
        "phase x of small on digits with quick { loss = mean(big.fc(fit(small.features, like = big.features))) }", "x"
    ).loss
    tap = taps(loss)[0]
    assert (tap.submodule, tap.path) == ("fc", "") and isinstance(tap.inputs[0], ir.Call)


# ---- 8. Streams

TWO = "phase x of small on digits, few with quick { loss = %s }"
FEW = "data few = digits { fraction = 0.5 }\n"


def test_rule_8_fields_belong_to_streams_and_bare_fields_to_a_single_one() -> None:
    loss = phase(
        FEW + TWO % "cross_entropy(small(few.inputs).logits, few.labels) + mean(small(digits.inputs).logits)", "x"
    ).loss
    streams = {(n.stream, n.field) for n in ir.walk(loss) if isinstance(n, ir.StreamField)}
    assert streams == {(1, "inputs"), (1, "labels"), (0, "inputs")}
    assert "KD0701" in codes(HEAD + BIG + FEW + TWO % "cross_entropy(small(few.inputs).logits, labels)")
    assert codes(HEAD + BIG + TWO % "mean(small.logits)" + FEW) == ["KD0701"]


def test_rule_8_what_is_unlabelled_has_no_labels_in_any_order_of_the_streams() -> None:
    text = "phase x of small on digits.unlabelled with quick { loss = cross_entropy(small.logits, labels) }"
    assert codes(HEAD + BIG + text) == ["KD0702"]
    both = """phase x of small on %s with quick {
      loss = cross_entropy(small(digits.inputs), digits.labels) + mean(small(digits.unlabelled.inputs))
    }"""
    for on, labelled in (("digits, digits.unlabelled", 0), ("digits.unlabelled, digits", 1)):
        loss = phase(both % on, "x").loss
        assert {n.stream for n in ir.walk(loss) if isinstance(n, ir.StreamField) and n.field == "labels"} == {labelled}


def test_rule_8_data_seeds_do_not_follow_the_files_seed() -> None:
    plan = compiled(HEAD.replace("= digits", "= digits { fraction = 0.5 }") + BIG + "param seed = 5\n" + KD).plan
    assert plan.data["digits"].seed == 0 and plan.phases["kd"].seed == 5


def test_rule_8_every_stream_may_have_a_batch_size_of_its_own() -> None:
    text = FEW + TWO.replace("{ loss", "{ batch = [32, 8]  loss")
    loss = "cross_entropy(small(few.inputs).logits, few.labels) + mean(small(digits.inputs).logits)"
    recipe = phase(text % loss, "x").recipes[0]
    assert (recipe.batch, recipe.batch_of(0), recipe.batch_of(1)) == ([32, 8], 32, 8)
    assert codes(HEAD + BIG + text.replace("[32, 8]", "[32, 8, 8]") % loss) == ["KD0708"]
    assert codes(HEAD + BIG + text.replace("[32, 8]", "[32, 0]") % loss) == ["KD0243"]
    assert codes(HEAD + BIG + text.replace("[32, 8]", "[32, 0.5]") % loss) == ["KD0244"]
    across = "mse(small(few.inputs).logits, small(digits.inputs).logits)"
    assert [d.code for d in check_text(HEAD + BIG + text % across)] == ["KD0502"]


# ---- 9. Recipes


def test_rule_9_one_recipe_for_all_or_one_each() -> None:
    text = "recipe slow = quick { optimizer = adam(lr = 0.01) }\nrecipe long = quick { epochs = 9 }\n"
    text += "phase x of small, big with %s on digits { loss = mean(small.fc) + mean(big.fc) }"
    found = phase(text % "quick, slow", "x").recipes
    assert [r.optimizer.name for r in found] == ["sgd", "adam"]
    assert codes(HEAD + BIG + text % "quick, slow, slow") == ["KD0801"]
    assert codes(HEAD + BIG + text % "quick, long") == ["KD0802"]


def test_rule_9_recipes_inherit_and_bodies_override() -> None:
    text = "recipe longer = quick { steps = 7 }\n"
    text += "phase x of small on digits with longer { batch = 8  loss = mean(small.fc) }"
    found = phase(text, "x").recipes[0]
    assert (found.epochs, found.steps, found.batch, found.optimizer.name) == (None, 7, 8, "sgd")


def test_rule_9_label_smoothing_reaches_every_cross_entropy_without_its_own() -> None:
    text = "phase x of small on digits with quick { label_smoothing = 0.2  loss = %s }"
    plain, own = "cross_entropy(small.logits, labels)", "cross_entropy(small.logits, labels, smoothing = 0.5)"
    found = calls(phase(text % f"{plain} + 2 * {own}", "x").loss, "cross_entropy")
    assert [c.keywords["smoothing"].value for c in found] == [0.2, 0.5]  # type: ignore[union-attr]
    said = HEAD + BIG + f"phase x of small on digits with quick {{ loss = {plain[:-1]}, smoothing = 0.2) }}"
    assert keys(said)["x"] == keys(HEAD + BIG + text % plain)["x"]


# ---- 10. Networks from networks


def test_rule_10_networks_from_networks() -> None:
    plan = compiled(HEAD + BIG + """
        phase a of small.fc on digits with quick { loss = mean(small.logits) }
        phase b of small.layer2 on digits with quick { loss = mean(small.logits) }
        phase c of merge(small@a, small@b) on digits with quick { loss = mean(small.logits) }
        phase d of small on digits with quick { loss = mse(ema(small, decay = 0.5).fc, small.fc) }
        student copy = small@c
        student mean_of = average(small@a, small@b)
        phase e of copy on digits with quick { loss = mse(copy.fc, mean_of.fc) }
    """)  # fmt: skip
    origins = [n.origin for n in plan.plan.networks.values()]
    assert Merged([ir.Version("small", "a"), ir.Version("small", "b")]) in origins
    assert EmaOf("small", 0.5) in origins
    assert set(plan.dag.predecessors("c")) == {"a", "b"} and set(plan.dag.predecessors("e")) == {"a", "b", "c"}
    assert not list(plan.dag.predecessors("d"))


def test_rule_10_a_moving_average_is_left_by_the_phase_in_which_it_follows() -> None:
    text = (
        HEAD
        + BIG
        + """
        network mean_of = ema(small, decay = 0.9)
        phase x of small on digits with quick { loss = mse(small.fc, mean_of.fc) }
        phase y of mean_of@x on digits with quick { loss = mean(mean_of.fc) }
        phase z of small on digits with quick { loss = mean(small.fc) }
        measure table of mean_of@x, mean_of@y on digits.test { top1 }
    """
    )
    plan = compiled(text)
    assert plan.plan.phases["y"].trainees[0].base == ir.Version("mean_of", "x")
    assert codes(text + "export e = mean_of@z") == ["KD0307"]


def test_rule_10_merged_networks_must_be_alike() -> None:
    assert "KD0253" in codes(HEAD + BIG + KD + "student x = merge(small@kd, big@train)")


# ---- 11. Snapshots


def test_rule_11_snapshots_exist_where_something_keeps_them() -> None:
    text = HEAD + BIG + "phase x of small on digits with quick { %s loss = mean(small.fc) }\nexport e = small@x[%s]"
    for keeps, snapshot in (
        ("measure on digits.test { top1 }", "best"),
        ("ema = 0.9", "ema"),
        ("keep_epochs = [1]", "epoch = 1"),
    ):
        assert codes(text % (keeps, snapshot)) == []
        assert codes(text % ("", snapshot)) == ["KD0309"]
    assert compiled(text % ("", "last")).plan.exports["e"].target.versions[0].snapshot == "last"


def test_rule_11_measures_and_exports_stay_outside_keys() -> None:
    text = HEAD + BIG + KD
    assert keys(text) == keys(text + "measure m of small@kd on digits.test { top1 }\nexport e = small@kd")


# ---- 12. Types

HALVES = HEAD + """
    verticals line of digits { disjoint = false  up = [0, 1, 2]  down = [2, 1, 0]  other = [3, 4, 5] }
    teacher up = digits_net(width = 4, classes = line[up]) {
      phase train on digits[line[up]] with quick { loss = cross_entropy(self.logits, labels) }
    }
    student s = digits_net(width = 2, classes = line[%s])
    phase kd of s on digits[line[up]] with quick { loss = kl(s.logits, up.logits) }
"""  # fmt: skip


def test_rule_12_class_sets_in_another_order_fit_and_are_other_content() -> None:
    assert codes(HALVES % "down") == [] and codes(HALVES % "up") == []
    assert keys(HALVES % "down")["kd"] != keys(HALVES % "up")["kd"]


def test_rule_12_other_class_sets_are_an_error() -> None:
    assert [d.code for d in check_text(HALVES % "other")] == ["KD0503"]
    assert check_text(HALVES % "down") == []


def test_rule_12_verticals_are_partitions_unless_they_say_otherwise() -> None:
    parts = "verticals v of digits { %s a = [0, 1, 2, 3, 4]  b = [4, 5, 6, 7, 8, 9] }"
    assert codes(HEAD + parts % "") == ["KD0262"]
    assert codes(HEAD + parts % "disjoint = false") == []


# ---- 13. Time and terms


def test_rule_13_clocks_masks_and_logged_terms() -> None:
    found = phase("""
        def later(x) = (epoch >= 2) * x
        phase x of small on digits with quick {
          def hard = cross_entropy(small.logits, labels)
          def weight = 3
          loss = later(hard) + progress * mean(detach(small.fc)) + weight * mean(reverse(small.features, weight = 0.1))
        }
    """, "x")  # fmt: skip
    assert {n.name for n in ir.walk(found.loss) if isinstance(n, ir.StepCounter)} == {"epoch", "progress"}
    assert list(found.logged) == ["hard"]
    assert calls(found.loss, "detach") and calls(found.loss, "reverse")[0].keywords["weight"] == ir.Const(0.1)


def test_rule_13_definitions_are_inlined() -> None:
    by_name = "def f(a, t = 2) = kd(a, big.logits, temperature = t)\n"
    by_name += "phase x of small on digits with quick { def l = f(small.logits) loss = l }"
    plain = "phase x of small on digits with quick { loss = kd(small.logits, big.logits, temperature = 2) }"
    assert keys(HEAD + BIG + by_name)["x"] == keys(HEAD + BIG + plain)["x"]


# ---- 14. User code


def test_rule_14_user_code_counts_by_its_source(tmp_path: Path) -> None:
    text = HEAD + BIG + 'use "%s" as my\nphase x of small on digits with quick { loss = my.loss(small.logits, labels) }'
    (tmp_path / "one.py").write_text("def loss(a, b):\n    return a.mean()\n")
    (tmp_path / "two.py").write_text("def loss(a, b):\n    return a.mean()\n")
    first, second = keys(text % "one.py", tmp_path), keys(text % "two.py", tmp_path)
    assert first == second
    (tmp_path / "two.py").write_text("def loss(a, b):\n    return a.mean() * 2\n")
    assert keys(text % "two.py", tmp_path)["x"] != first["x"]


def test_rule_14_a_function_gives_data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "own.py").write_text(
        "import numpy as np\n"
        "def few(n):\n"
        "    x = np.arange(n * 64, dtype=np.uint8).reshape(n, 1, 8, 8)\n"
        "    return {'train': (x, np.arange(n) % 3), 'test': (x, np.arange(n) % 3)}\n"
    )
    monkeypatch.chdir(tmp_path.parent)
    rest = """
    recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
    student s = digits_net(classes = own.classes) {
      phase p on own with quick { loss = cross_entropy(self.logits, labels) }
    }"""
    text = 'use "own.py" as any\ndata own = source("own.py:few", n = 12)' + rest
    used = 'use "own.py" as my\ndata own = my.few(n = 12)' + rest
    assert keys(used, tmp_path) == keys(text, tmp_path)
    told = expand(compiled(text, tmp_path).plan)
    assert f'use "{tmp_path}/own.py" as' in told
    assert {*keys(told, tmp_path.parent).values()} == {*keys(text, tmp_path).values()}
    assert codes(used.replace("my.few", "my.fewer"), tmp_path) == ["KD0719"]


# ---- 15. Measures


def test_rule_15_a_measure_has_a_row_for_every_point_of_the_axes_that_are_read() -> None:
    plan = compiled(HEAD + BIG.replace("{ phase", "{ seed = 0 phase") + """
        param w in [1, 2]
        param seed in 0..2
        phase a of small on digits with quick { loss = w * mean(small.logits) }
        phase b of small on digits with quick { loss = mean(small.fc) }
        measure table of big, small@a, small@b on digits.test { top1, cross_entropy }
    """).plan  # fmt: skip
    table = plan.measures["table"]
    assert Counter(r.label for r in table.rows) == {"big": 1, "small@a": 6, "small@b": 3}
    assert table.over == ["seed"] and [m.name for m in table.metrics] == ["top1", "cross_entropy"]
    assert {"w": 2, "seed": 1} in [r.coordinates for r in table.rows]


def test_rule_15_an_export_is_one_network() -> None:
    text = HEAD + BIG + "param w in [1, 2]\nphase a of small on digits with quick { loss = w * mean(small.logits) }\n"
    assert codes(text + "export e = small@a") == ["KD0404"]
    assert codes(text + "export e = small@a[w = 2]") == []


def test_warnings_of_conventions() -> None:
    text = HEAD + BIG + "phase x of small on digits with quick { loss = kl(small.logits, big.logits, temperature = 4) }"
    assert [d.code for d in compiled(text).warnings] == ["KD0360"]


@pytest.mark.parametrize(
    ("clauses", "over"),
    [
        ("", ["seed"]),
        ("over width", ["seed", "width"]),
        ("over width, seed", ["width", "seed"]),
        ("by seed over width", ["width"]),
        ("by seed", []),
    ],
)
def test_rule_15_means_are_over_seeds_and_what_over_names(clauses: str, over: list[str]) -> None:
    by, over_word, axes = clauses.partition("over")
    measure = f"measure t of small@kd {by} on digits.test {over_word}{axes} {{ top1 }}"
    sweep = "param seed in 0..1\nparam width in [2, 4]\n" + HEAD + BIG.replace("width = 4", "width = width") + KD
    assert compiled(sweep + measure).plan.measures["t"].over == over
