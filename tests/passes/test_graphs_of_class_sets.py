"""Which phases are one graph to `check`: those that differ in numbers, or only in which classes they are about."""

from __future__ import annotations

from pathlib import Path

import pytest

from kdplan import compile as compiler
from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from kdplan.ir.plan import ClassSet
from kdplan.passes.keys import graph_key

START = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64 }
"""
TEACHER = """
teacher t[v in part] = digits_net(width = 2, classes = v) {
  phase train on digits[v] with quick { loss = cross_entropy(self.logits, labels) }
}
"""


def compiled(text: str) -> compiler.Compiled:
    return compile_source(Source("plan.kd", START + text), Path("."))


def keys(text: str) -> list[str]:
    plan = compiled(text).plan
    return [graph_key(plan, phase) for phase in plan.phases.values()]


def test_specialists_of_equally_many_classes_are_one_graph() -> None:
    text = "verticals part of digits { a = 0..1 b = 2..3 c = [9, 4] d = 5..8 }" + TEACHER
    a, b, c, d = keys(text)
    assert a == b == c != d


def test_they_are_built_once(monkeypatch: pytest.MonkeyPatch) -> None:
    from kdplan.graph import inspect

    built: list[str] = []
    real = inspect.inspect_phase

    def counted(plan, phase, verdicts=None):  # type: ignore[no-untyped-def]
        built.append(phase.name)
        return real(plan, phase, verdicts)

    monkeypatch.setattr(inspect, "inspect_phase", counted)
    whole = compiled("verticals part of digits { a = 0..1 b = 2..3 c = 4..5 d = 6..7 e = 8..9 }" + TEACHER)
    inspected = compiler.inspect(whole)
    assert len(built) == 1 and len(inspected) == 5
    assert len({whole.planned[name].key for name in inspected}) == 5


STUDENT = """
verticals part of digits { a = 0..1 b = 2..3 rest = 4..9 }
teacher t = digits_net(width = 2, classes = digits.classes) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student s[v in part] = digits_net(width = 2, classes = v)
phase p[v in part] of s[v] on digits[v] with quick { loss = kl(s[v].logits, t.logits) }
"""


def key_with(student: list[int], view: list[int], teacher: list[int]) -> str:
    """The key of a student's phase in which the networks and the data are about these classes."""
    plan = compiled(STUDENT).plan
    phase = next(p for p in plan.phases.values() if p.name.startswith("p"))
    networks = plan.networks
    networks[phase.trainees[0].base.network].classes = ClassSet("digits", student)
    networks["t"].classes = ClassSet("digits", teacher)
    phase.streams[0].classes = ClassSet("digits", view)
    return graph_key(plan, phase)


def test_how_sets_stand_to_one_another_counts() -> None:
    some = [0, 1], [0, 1], [0, 1]
    assert key_with(*some) == key_with([2, 3], [2, 3], [2, 3]) == key_with([7, 2], [7, 2], [7, 2])
    others = [
        key_with(*some),
        key_with([2, 3], [0, 1], [0, 1]),
        key_with([1, 0], [0, 1], [0, 1]),
        key_with([0, 2], [0, 1], [0, 1]),
        key_with([0, 1], [0, 1], [2, 3]),
        key_with([0, 1], [0, 1], [0, 1, 2]),
    ]
    assert len(set(others)) == len(others)


def test_a_set_with_all_classes_keeps_their_order() -> None:
    everything = list(range(10))
    keys = [key_with([0, 1], [0, 1], teacher) for teacher in (everything, everything[::-1])]
    keys += [key_with([2, 3], [2, 3], everything)]
    assert len(set(keys)) == 3
