"""Which phases share a graph, so that one of them is built for all."""

from __future__ import annotations

from kdplan.passes.keys import graph_key
from tests.passes.plans import CE, HEAD, compiled

LINE = """
generations line of {models} on digits with quick {{
  patriarch  {{ {ce} }}
  generation {{ loss = kl(self.logits, previous.logits) }}
}}
"""


def count(text: str) -> int:
    compiled_plan = compiled(text)
    return len({graph_key(compiled_plan.plan, phase) for phase in compiled_plan.plan.phases.values()})


def test_generations_are_built_once() -> None:
    same = ", ".join(["digits_net(width = 4)"] * 5)
    assert count(HEAD + LINE.format(models=same, ce=CE.replace("small", "self"))) == 2
    smaller = ", ".join(f"digits_net(width = {w})" for w in (8, 8, 4, 4, 4))
    assert count(HEAD + LINE.format(models=smaller, ce=CE.replace("small", "self"))) == 4


def test_one_teacher_twice_is_not_two_teachers() -> None:
    text = HEAD + "student small = digits_net(width = 4)\n"
    for name, seed in (("a", 1), ("b", 2)):
        text += f"teacher {name} = digits_net(width = 8) {{\n  seed = {seed}\n"
        text += f"  phase train on digits with quick {{ {CE} }}\n}}\n"
    text = text.replace("small.logits, labels", "self.logits, labels")
    for name, first, second in (("one", "a", "a"), ("two", "a", "b"), ("other", "b", "a")):
        text += f"phase {name} of small on digits with quick {{ loss = kl(small.logits, {first}.logits)"
        text += f" + kl(small.logits, {second}.logits) }}\n"
    compiled_plan = compiled(text)
    keys = {name: graph_key(compiled_plan.plan, compiled_plan.plan.phases[name]) for name in ("one", "two", "other")}
    assert keys["two"] == keys["other"] != keys["one"]
