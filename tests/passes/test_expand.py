"""`expand`: the core plan as text has the plan's keys, and expanding it again changes nothing."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdplan.compile import Compiled, compile_source
from kdplan.diagnostics.span import Source
from kdplan.ir import expr as ir
from kdplan.passes.expand import Namer, expand
from tests.conftest import root_for
from tests.passes.plans import BIG, HEAD, Model, codes, compiled, keys, models

ROOT = Path(__file__).parents[2]
FILES = sorted([*ROOT.glob("plans/**/*.kd"), *ROOT.glob("examples/**/*.kd")])


def expands(plan: Compiled, root: Path | None = None) -> str:
    """The expanded text, checked."""
    text = expand(plan.plan)
    again = compiled(text, root=root)
    assert Counter(k.key for k in again.keys.values()) == Counter(k.key for k in plan.keys.values()), text
    assert expand(again.plan) == text
    assert len(again.plan.measures) == len(plan.plan.measured())  # of claims, what they read
    assert list(again.plan.exports) == list(plan.plan.exports)
    return text


@settings(max_examples=40, deadline=None, derandomize=True)
@given(models())
def test_random_plans_keep_their_keys(model: Model) -> None:
    expands(compiled(model.text()))


@pytest.mark.parametrize("file", FILES, ids=[str(f.relative_to(ROOT)) for f in FILES])
def test_the_plans_that_are_shipped_keep_their_keys(file: Path, request: pytest.FixtureRequest) -> None:
    root = root_for(file, request)
    expands(compile_source(Source(str(file), file.read_text(encoding="utf-8")), file.parent, root), root)


def test_axes_become_parts_of_names() -> None:
    text = expands(compiled(HEAD + BIG + """
        param w in [1, 0.5]
        param seed in 0..1
        phase kd of small on digits with quick { loss = w * kd(small.logits, big.logits, temperature = 4) }
    """))  # fmt: skip
    for name in ("big_seed0_train", "big_seed1_train", "kd_w1_seed0", "kd_w0_5_seed1"):
        assert f"phase {name} of" in text
    assert "param" not in text


def test_functions_are_gone_and_logged_terms_stay() -> None:
    text = expands(compiled(HEAD + BIG + """
        def soft(net, t = 2) = kd(net.logits, big.logits, temperature = t)
        phase kd of small on digits with quick {
          def hard = cross_entropy(small.logits, labels)
          loss = hard + soft(small, t = 4)
        }
    """))  # fmt: skip
    assert "soft" not in text
    assert text.count("def hard = cross_entropy(small.logits, labels)") == 1


def test_class_sets_and_families() -> None:
    text = expands(compiled(HEAD + """
        verticals half of digits = random(parts = 2)
        verticals line of digits { disjoint = false  back = [9, 8, 7, 6, 5, 4, 3, 2, 1, 0]  low = [0, 1] }
        teacher t[v in half] = digits_net(classes = v) {
          phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
        }
        student back = digits_net(classes = line[back])
        phase kd of back on digits[line[low]] with quick { loss = mean(back.logits) }
        measure table of back@kd on digits[line[low]].test { top1 }
    """))  # fmt: skip
    assert "verticals digits_parts of digits {" in text
    assert "teacher t_vpart0 = digits_net(classes = digits_parts[0])" in text


def test_sums_keep_their_tree() -> None:
    expands(compiled(HEAD + BIG + """
        phase a of small on digits with quick {
          loss = sum(sum(mean(small.logits) for x in [1, 2]) for y in [1, 2, 3])
               + sum([1, 2, mean(small.logits)]) - (mean(small.fc) + 2) - -mean(small.fc) / 3 / 4
        }
        phase b of small on digits with quick { loss = 1 - sum(mean(small.logits) for x in 1..1500) }
        phase c of small on digits with quick { loss = (mean(small.fc) * 2) * (mean(small.fc) * 3) ** 2 ** -1 }
    """))  # fmt: skip


def test_networks_from_networks() -> None:
    text = expands(compiled(HEAD + BIG + """
        phase a of small.fc on digits with quick { loss = mean(small.logits) }
        phase b of upto(small.layer2) on digits with quick { loss = mean(small.layer2) }
        student both = merge(small@a, small@b)
        student mean_of = average(small@a, small@b)
        student copy = small@a
        phase c of both, copy on digits with quick { loss = mean(both.logits) * mean(copy.fc) }
        phase d of merge(small@a, small@b) on digits with quick { loss = mean(small.logits) }
        phase e of small on digits with quick { loss = mse(small.fc, ema(small, decay = 0.9).fc) }
        network behind = ema(small)
        phase f of small on digits with quick { loss = mse(small.fc, behind.fc) }
        phase g of behind@f on digits with quick { loss = mean(behind.fc) }
        measure table of mean_of, both@c, copy, small@d, behind@f on digits.test { top1 }
    """))  # fmt: skip
    assert "student both = merge(small@a, small@b)" in text


def test_several_streams_and_peers_with_their_own_recipes() -> None:
    text = expands(compiled(HEAD + BIG + """
        recipe slow = quick { optimizer = adam(lr = 0.01) }
        student peer = digits_net(width = 4) { seed = 7 }
        phase two of small, peer on digits, digits.unlabelled with quick, slow {
          measure of peer on digits.test { top1 }
          loss = cross_entropy(small(digits.inputs), digits.labels)
               + kl(small(digits.unlabelled.inputs).logits, detach(peer(digits.unlabelled.inputs).logits))
               + mean(peer.fc(small(digits.inputs).features))
        }
        phase after of peer@two[best] on digits with quick { loss = mean(peer.logits) }
    """))  # fmt: skip
    assert "peer.fc(small(digits.inputs).features)" in text
    assert "peer@two[best]" in text


def test_files_that_are_used_are_gone_and_python_files_stay(tmp_path: Path) -> None:
    (tmp_path / "base.kd").write_text(HEAD + BIG)
    (tmp_path / "mine.py").write_text("def net(width):\n    return None\n\n\ndef distance(a, b, k=1):\n    return a\n")
    text = expands(compiled("""
        use "base.kd" as base
        use "mine.py" as my
        student own = my.net(width = 3)
        phase p of own on base.digits with base.quick { loss = my.distance(own.logits, base.big.logits, k = 2) }
    """, tmp_path))  # fmt: skip
    assert "base.kd" not in text
    assert f'use "{tmp_path / "mine.py"}" as mine' in text


def test_names_that_tables_have_are_kept_free() -> None:
    text = expands(compiled("""
        data digits = digits
        data few = digits { fraction = 0.5  limit = 100 }
        recipe fast { optimizer = adam(lr = 1e-3)  steps = 3  keep_epochs = [] }
        student digits_net = digits_net(width = 2)
        phase adam_phase of digits_net on few with fast { loss = mean(digits_net.logits) }
    """))  # fmt: skip
    assert "data digits_data = digits" in text
    assert "student digits_net = digits_net(width = 2)" in text


def test_best_epochs_and_cycles_are_read_again() -> None:
    plan = HEAD + BIG + """
        recipe long = quick {
          epochs = 4  schedule = cosine(cycles = 2)  ema = 0.9  keep_epochs = [2]  label_smoothing = 0.1
        }
        phase p of small on digits with long { loss = cross_entropy(small.logits, labels) }
        measure table of small@p[epoch = 2], small@p[cycle = 1], small@p[ema], small@init on digits.test { top1 }
        export tiny = small@p[ema]
    """  # fmt: skip
    text = expands(compiled(plan))
    assert text.count("smoothing = 0.1") == 2
    assert keys(text)["p"] == keys(plan)["p"]


def test_names_are_words_and_each_stands_once() -> None:
    names = Namer({"kl"}).all(["a[w=-1]", "a_wm1", "kl", "3", "t.small", "init"], "phase")
    assert names == {
        "a[w=-1]": "a_wm1_phase", "a_wm1": "a_wm1", "kl": "kl_phase", "3": "phase_3", "t.small": "t_small",
        "init": "init_phase",
    }  # fmt: skip


def test_a_model_is_told_what_it_needs_once() -> None:
    text = """
model net = mlp(inputs = 64, hidden = [8])
student small = net(classes = digits.classes)
phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }
"""
    plan = compiled(HEAD + text).plan
    assert plan.networks["small"].architecture.arguments == {"inputs": 64, "hidden": [8], "classes": 10}
    assert codes(HEAD + text.replace("inputs = 64, ", "")) == ["KD0237"]


def test_branches_over_a_network_with_a_head() -> None:
    """The network with the head is declared, and the branches begin in it."""
    text = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1 }
verticals half of digits { low = 0..4  high = 5..9 }
student plain = digits_net(width = 2, classes = digits.classes) { head = fc(12) -> sc(8, by = half) }
branches one of plain from layer2 on digits with quick {
  count = 2
  loss  = sum(cross_entropy(b.logits, labels) for b in branch)
}
"""
    first = compiled(text)
    written = expand(first.plan)
    assert "head = fc(12) -> sc(8" in written
    assert [k.key for k in compiled(written).keys.values()] == [k.key for k in first.keys.values()]


PATHS = ("logits", "probabilities", "layer1", "fc", "output")
READS = st.lists(st.tuples(st.integers(0, 3), st.sampled_from(PATHS)), min_size=1, max_size=8)


def draws(text: str) -> list[tuple[str, int]]:
    """The path and the draw of every tap in the loss of phase `p`."""
    taps = [e for e in ir.walk(compiled(HEAD + BIG + text).plan.phases["p"].loss) if isinstance(e, ir.Tap)]
    return [(e.path or "output", e.call) for e in taps]


def calls_of(reads: list[tuple[int, str]], logged: bool) -> str:
    """A phase that reads values of four calls and of the network itself."""
    values = [f"mean({('small', 'a', 'b', 'c')[i]}.{path})" for i, path in reads]
    term = f"def term = {values[0]}" if logged else ""
    return f"""
        def a = small(inputs)
        phase p of small on digits with quick {{
          def b = small(inputs)
          def c = small(inputs)
          {term}
          loss = {" + ".join([*values, "term" if logged else "0 * mean(small.fc)"])}
        }}
    """


@settings(max_examples=60, deadline=None, derandomize=True)
@given(READS, st.booleans())
def test_calls_that_share_a_draw_share_it_when_they_are_written_out(reads: list[tuple[int, str]], logged: bool) -> None:
    expands(compiled(HEAD + BIG + calls_of(reads, logged)))


@pytest.mark.parametrize(
    "loss",
    [
        "mse(small(inputs).logits, small(inputs).logits) * mean(small(inputs).fc)",
        "kd(teacher = small(inputs).logits, student = small(inputs).logits)",
        "sum(mean(small(inputs).logits) for i in 1..3)",
        "sum(mse(small.fc(small(inputs).features), small.fc(small(inputs).features)) for i in 1..2)",
        "mse(*)".replace("*", ", ".join(["through(small(inputs).layer1, small.fc, from = layer1)"] * 2)),
        "mse(twice(inputs), twice(inputs))",
        "mean(small(small(inputs).conv).fc) + mean(small(small(inputs).conv).fc)",
    ],
)
def test_calls_of_calls_keep_their_keys(loss: str) -> None:
    expands(compiled(HEAD + BIG + f"""
        def twice(x) = mean(small(x).logits) + mean(small(x).logits)
        phase p of small on digits with quick {{ def again = {loss}  loss = again }}
    """))  # fmt: skip


def test_all_values_of_one_call_are_of_one_draw() -> None:
    text = """
        phase p of small on digits with quick {
          def a = small(inputs)
          def b = small(inputs)
          loss = mean(a.logits) + mean(b.layer1) + mean(b.logits) + mean(a.layer1)
        }
    """
    assert draws(text) == [("logits", 0), ("layer1", 1), ("logits", 1), ("layer1", 0)]


def test_a_definition_is_one_call_and_each_turn_of_a_comprehension_another() -> None:
    phase = "phase p of small on digits with quick {{ loss = {} }}"
    outside = "def a = small(inputs)\n" + phase.format("mean(a.logits) + mean(a.logits)")
    assert draws(outside) == [("logits", 0), ("logits", 0)]
    turns = phase.format("sum(mean(small(inputs).logits) for i in 1..3)")
    assert draws(turns) == [("logits", 0), ("logits", 1), ("logits", 2)]
    words = phase.format("mean(small(inputs).logits) + mean(small(inputs).probabilities) + mean(small(inputs))")
    assert draws(words) == [("logits", 0), ("probabilities", 1), ("logits", 2)]
    bare = phase.format("mean(small.logits) + mean(small(inputs).logits)")
    assert draws(bare) == [("logits", 0), ("logits", 0)]
