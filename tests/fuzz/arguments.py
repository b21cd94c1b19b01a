"""Every argument of every built-in, every setting and every clause, with a value of every kind in its place."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from kdplan.constructs.table import KINDS
from kdplan.diagnostics.span import Source
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS
from kdplan.ir.spec import Spec
from kdplan.resolve.choices import choices
from kdplan.syntax import ast
from kdplan.syntax.parse import parse
from kdplan.syntax.walk import walk
from kdplan.view.examples import Example, examples
from tests.fuzz.values import PLAN, VALUES


@dataclass(frozen=True)
class Place:
    """Where a value can stand: a plan in two parts, and what stands between them now."""

    name: str
    before: str
    now: str
    after: str

    def plan(self, value: str) -> str:
        """The plan with another value there, and what that value reads."""
        return _with_missing(f"{self.before}{value}{self.after}")


@cache
def places() -> list[Place]:
    """All of them."""
    return [place for example in examples() for place in _places(example)]


def _places(example: Example) -> Iterator[Place]:
    what, _, name = example.of.partition(" ")
    start = example.plan.find(example.shown)
    if start < 0:
        return
    if what == "setting":
        offset = example.shown.index("=") + 1
        yield Place(example.of, example.plan[: start + offset] + " ", example.shown[offset:].strip(),
                    example.plan[start + len(example.shown) :])  # fmt: skip
    elif what == "kind":
        yield from _clauses(example, KINDS[name].name)
    elif what != "signal":
        spec = {**FUNCTIONS, **PLAN_FUNCTIONS}.get(name) if what == "function" else choices()[what][name]
        assert spec is not None
        yield from _arguments(example, spec, start)


def _clauses(example: Example, kind: str) -> Iterator[Place]:
    """Each expression after a preposition, `=` or `in`, and each of an index."""
    tree = parse(Source("plan.kd", example.plan))
    for node in walk(tree):
        if not isinstance(node, ast.Declaration) or node.kind != kind:
            continue
        for clause in node.clauses:
            for e in clause.exprs:
                yield _at(f"{example.of} {clause.word}", example.plan, e)
        for slot in node.slots:
            yield _at(f"{example.of} [{slot.name}]", example.plan, slot.values)
        for e in node.listing or []:
            yield _at(f"{example.of} {{}}", example.plan, e)


def _arguments(example: Example, spec: Spec, start: int) -> Iterator[Place]:
    """Each argument of a call: those that it has, and those that it could have by name."""
    shown = example.shown
    calls = [n for n in walk(parse(Source("x", f"def x = {shown}"))) if isinstance(n, ast.Call)]
    call = next((c for c in calls if c.function.span.text == spec.name), None)
    plan, end = example.plan, start + len(shown)
    if call is None:
        if "(" not in shown:  # a row without arguments
            for param in spec.params:
                yield Place(f"{example.of}.{param.name}", f"{plan[:end]}({param.name} = ", "", f"){plan[end:]}")
            yield Place(f"{example.of}(…)", f"{plan[:end]}(", "", f"){plan[end:]}")
        return
    shift = start - len("def x = ")
    for i, arg in enumerate(call.args):
        name = spec.params[min(i, len(spec.params) - 1)].name if spec.params else str(i)
        yield Place(f"{example.of}.{name}", plan[: arg.span.start + shift], arg.span.text, plan[arg.span.end + shift :])
    for k in call.keywords:
        yield Place(f"{example.of}.{k.name}", plan[: k.value.span.start + shift], k.value.span.text,
                    plan[k.value.span.end + shift :])  # fmt: skip
    close = call.span.end - 1 + shift
    comma = ", " if call.args or call.keywords else ""
    given = {k.name for k in call.keywords} | {p.name for p in spec.params[: len(call.args)]}
    for param in spec.params:
        if param.name not in given:
            yield Place(f"{example.of}.{param.name}", f"{plan[:close]}{comma}{param.name} = ", "", plan[close:])
    if not call.keywords:
        yield Place(f"{example.of} and one more", f"{plan[:close]}{comma}", "", plan[close:])


def _at(name: str, plan: str, e: ast.Node) -> Place:
    return Place(name, plan[: e.span.start], e.span.text, plan[e.span.end :])


_DECLARED = re.compile(r"(?m)^(?:param|data|verticals|recipe|model|def|teacher|student|network|phase) (\w+)")
_BLOCKS = re.findall(r"(?ms)^\w.*?(?=^\w|\Z)", PLAN)


def _with_missing(plan: str) -> str:
    """The plan, and the declarations of `PLAN` whose names it does not declare."""
    own = set(_DECLARED.findall(plan))
    more = [b for b in _BLOCKS if b.startswith("use") or not own & set(_DECLARED.findall(b))]
    return "".join(more) + plan


def cases(every: bool) -> Iterator[tuple[str, str]]:
    """Names and plans: all values at each place, or for a short look one of them, another one at each."""
    kinds = [*VALUES.items()]
    for i, place in enumerate(places()):
        for kind, value in kinds if every else [kinds[i % len(kinds)]]:
            yield f"{place.name}: {kind}", place.plan(value)
