"""Calls with the teacher first, as plans had them once, give a warning; what is meant otherwise does not."""

from __future__ import annotations

from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import pytest

from kdplan.compile import check_text
from kdplan.diagnostics.span import Source
from kdplan.syntax import ast
from kdplan.syntax.parse import parse
from kdplan.syntax.write import write
from tests.passes.plans import BIG, HEAD

ROOT = Path(__file__).parents[2]
CE = "cross_entropy(small.logits, labels)"
PEER = "student peer = digits_net(width = 3) { seed = 9 }\n"
SLOW = "network slow = ema(small)\n"
NAMED = ", or name both arguments if this order is meant."


def warned(loss: str, more: str = "", of: str = "small", folder: Path | None = None) -> list[tuple[str, str | None]]:
    """The calls that a plan with this loss is warned of, each with the help."""
    text = f"{HEAD}{BIG}{more}phase copy of {of} on digits with quick {{ loss = {loss} }}\n"
    diagnostics = check_text(text, folder=folder)
    assert {d.code for d in diagnostics} <= {"KD0363"}, [d.message for d in diagnostics]
    return [(d.span.text if d.span else "", d.help) for d in diagnostics]


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("kd(big.logits, small.logits, temperature = 4)", "kd(small.logits, big.logits, temperature = 4)"),
        ("kl(detach(big.logits), small.logits)", "kl(small.logits, detach(big.logits))"),
        ("kl(big.probabilities, small.logits)", "kl(small.logits, big.probabilities)"),
        ("kl(uniform(10), small.logits)", "kl(small.logits, uniform(10))"),
        ("kd(ensemble(big, big2).logits, small.logits)", "kd(small.logits, ensemble(big, big2).logits)"),
        ("kl(big(inputs).logits, small(inputs).logits)", "kl(small(inputs).logits, big(inputs).logits)"),
        ("kl(softmax(big.logits), softmax(small.logits))", "kl(softmax(small.logits), softmax(big.logits))"),
        ("kd(big.logits, teacher = small.logits)", "kd(small.logits, teacher = big.logits)"),
        ("kd(big.logits, 2 * small.fc)", "kd(2 * small.fc, big.logits)"),
        ("attention(big.layer1, small.layer1)", "attention(small.layer1, big.layer1)"),
        ("nst(big.layer2, small.layer2)", "nst(small.layer2, big.layer2)"),
        (
            "fsp(big.stem, big.layer2, fit(small.stem, like = big.stem), fit(small.layer2, like = big.layer2))",
            "fsp(fit(small.stem, like = big.stem), fit(small.layer2, like = big.layer2), big.stem, big.layer2)",
        ),
    ],
)
def test_the_old_order_is_a_warning_that_shows_the_new_one(old: str, new: str) -> None:
    more = "teacher big2 = digits_net(width = 5) { phase train on digits with quick " \
           "{ loss = cross_entropy(self.logits, labels) } }\n"  # fmt: skip
    assert warned(f"{CE} + {old}", more) == [(old, f"Write `{new}`{NAMED}")]
    assert warned(f"{CE} + {new}", more) == []


def test_a_function_of_the_plan_is_corrected_where_it_stands() -> None:
    more = "def learn(teacher, student) = mix(kl(teacher, student), 2, weight = 0.5)\n"
    loss = f"{CE} + learn(big.logits, small.logits)"
    assert warned(loss, more) == [("kl(teacher, student)", f"Write `kl(student, teacher)`{NAMED}")]


def test_mutual_learning_with_detached_teachers() -> None:
    old = (
        f"{CE} + kl(detach(peer.logits), small.logits)"
        " + cross_entropy(peer.logits, labels) + kl(detach(small.logits), peer.logits)"
    )
    found = warned(old, PEER, of="small, peer")
    assert [call for call, _ in found] == [
        "kl(detach(peer.logits), small.logits)",
        "kl(detach(small.logits), peer.logits)",
    ]


@pytest.mark.parametrize(
    ("loss", "of", "more"),
    [
        (f"{CE} + cross_entropy(peer.logits, labels) + kl(small.logits, peer.logits)", "small, peer", PEER),
        (f"{CE} + kl(small.logits, slow.logits)", "small", SLOW),
        (f"{CE} + attention(small.layer1, big.layer1)", "small", ""),
        (f"{CE} + kl(big.fc(fit(small.features, like = big.features)), big.logits)", "small", ""),
        (f"{CE} + mse(fit(big.layer1, like = small.layer1), small.layer1)", "small", ""),
        (f"{CE} + kd(student = big.logits, teacher = small.logits)", "small", ""),
        (f"{CE} + kl(teacher = small.logits, student = uniform(10))", "small", ""),
        (f"{CE} + attention(teacher = resize(small.stem, size = 4), student = small.layer1)", "small", ""),
        (f"{CE} + attention(resize(small.stem, size = 4), small.layer1)", "small", ""),
        (f"{CE} + kl(peer.logits, 0.5 * small.logits + 0.5 * peer.logits)", "small, peer", PEER),
    ],
)
def test_what_is_meant_gives_no_warning(loss: str, of: str, more: str) -> None:
    assert warned(loss, more, of) == []


PAIR = ("small.layer1", "resize(small.stem, size = 4)")


def test_a_teacher_that_learns_as_a_part_of_its_student() -> None:
    old, new = (f"attention({', '.join(pair)})" for pair in (PAIR, reversed(PAIR)))
    assert warned(f"{CE} + {old}") == [(old, f"Write `{new}`{NAMED}")]
    old = "kl(small.logits + peer.logits, peer.logits)"
    assert [call for call, _ in warned(f"{CE} + {old}", PEER, of="small, peer")] == [old]


def test_parts_of_a_network_that_the_phase_does_not_train_do_not_learn() -> None:
    """Of `small.fc` only: its features are as frozen as the teacher's."""
    loss = f"{CE} + attention(big.layer1, small.layer1)"
    text = f"{HEAD}{BIG}phase copy of small.fc on digits with quick {{ loss = {loss} }}\n"
    assert [d.code for d in check_text(text)] == ["KD0602"]  # constant, whatever the order


def test_a_learning_adapter_on_the_teacher_s_side_only() -> None:
    old = "attention(big.layer1, conv1x1(big.layer1, channels = 3))"
    assert [call for call, _ in warned(f"{CE} + {old}")] == [old]


def test_logged_terms_are_looked_at_too() -> None:
    text = f"{HEAD}{BIG}phase copy of small on digits with quick {{\n  def soft = kl(big.logits, small.logits)\n"
    assert [d.code for d in check_text(f"{text}  loss = {CE}\n}}\n")] == ["KD0363"]
    frozen = text.replace("kl(big.logits, small.logits)", "kl(big.logits, detach(small.logits))")
    assert check_text(f"{frozen}  loss = {CE}\n}}\n") == [], "a number of which nothing is learnt"


def test_phases_that_share_a_graph_are_all_warned_of() -> None:
    phases = "".join(
        f"phase p{i} of small on digits with quick {{ loss = {CE} + {i} * kd(big.logits, small.logits) }}\n"
        for i in (2, 3)
    )
    (one,) = [d for d in check_text(HEAD + BIG + phases) if d.code == "KD0363" and d.span]
    lines = [one.span.line, *(n.span.line for n in one.notes if n.span)]
    assert len(lines) == 2 and lines[0] + 1 == lines[1]


def test_a_function_of_the_user_s_with_a_student_and_a_teacher(tmp_path: Path) -> None:
    (tmp_path / "my.py").write_text(
        "def gap(student, teacher, power=2):\n    return ((student - teacher).abs() ** power).mean()\n"
        "def distance(a, b):\n    return (a - b).abs().mean()\n"
    )
    use = 'use "my.py" as my\n'
    old = "my.gap(big.logits, small.logits, power = 1)"
    assert warned(old, use, folder=tmp_path) == [(old, f"Write `my.gap(small.logits, big.logits, power = 1)`{NAMED}")]
    assert warned("my.gap(student = big.logits, teacher = small.logits)", use, folder=tmp_path) == []
    assert warned("my.gap(small.logits, teacher = big.logits)", use, folder=tmp_path) == []
    assert warned("my.distance(big.logits, small.logits)", use, folder=tmp_path) == []


# ---- the plans of the repository, as they were before


def _backwards(node: Any) -> Any:
    """A tree with the first two arguments of every `kl` and `kd` swapped."""
    if isinstance(node, list):
        return [_backwards(n) for n in node]
    if not isinstance(node, ast.Node):
        return node
    changed = replace(node, **{f.name: _backwards(getattr(node, f.name)) for f in fields(node) if f.init})
    if isinstance(changed, ast.Call) and write(changed.function) in ("kl", "kd"):
        changed = replace(changed, args=[changed.args[1], changed.args[0], *changed.args[2:]])
    return changed


@pytest.mark.parametrize(
    ("plan", "calls"),
    [
        ("plans/quickstart.kd", 1),
        ("examples/01_first_plan/plan.kd", 1),
        ("examples/02_own_network_and_loss/plan.kd", 1),
        pytest.param("examples/05_stage_by_stage/plan.kd", 2, marks=pytest.mark.slow),
        ("examples/06_open_set/plan.kd", 1),
        ("examples/07_generations/plan.kd", 1),
        pytest.param("examples/08_native_ensembles/plan.kd", 4, marks=pytest.mark.slow),
        pytest.param("examples/10_amalgamation/plan.kd", 2, marks=pytest.mark.slow),
    ],
)
def test_every_old_plan_is_warned_of(plan: str, calls: int) -> None:
    path = ROOT / plan
    tree = parse(Source(plan, path.read_text(encoding="utf-8")))
    text = write(replace(tree, items=_backwards(tree.items)))
    found = [d for d in check_text(text, ROOT, path.parent) if d.code == "KD0363"]
    again = [n for d in found for n in d.notes if n.text == "also here"]  # one message for equal calls
    assert len(found) + len(again) == calls, [d.span and d.span.text for d in found]
    assert all(d.help for d in found)
