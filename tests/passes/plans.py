"""Small plans for tests: what they compile to, and a strategy that makes valid ones at random."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from hypothesis import strategies as st

from kdplan.compile import Compiled, compile_source
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source
from kdplan.ir import expr as ir
from kdplan.ir.plan import Phase

HEAD = """
data digits = digits
recipe quick { optimizer = sgd(lr = 0.1)  epochs = 1  batch = 64 }
"""
"""What most plans here start with."""

BIG = """
teacher big = digits_net(width = 8) { phase train on digits with quick { loss = cross_entropy(self.logits, labels) } }
student small = digits_net(width = 4)
"""


def compiled(text: str, folder: Path | None = None, **options: object) -> Compiled:
    return compile_source(Source("plan.kd", text), folder or Path("."), **options)  # type: ignore[arg-type]


def codes(text: str, folder: Path | None = None) -> list[str]:
    """The codes of a plan's errors."""
    try:
        compiled(text, folder)
    except PlanError as e:
        return [d.code for d in e.diagnostics]
    return []


def keys(text: str, folder: Path | None = None, **options: object) -> dict[str, str]:
    """Phase -> key."""
    return {name: k.key for name, k in compiled(text, folder, **options).keys.items()}


def bag(text: str, folder: Path | None = None) -> Counter[str]:
    return Counter(keys(text, folder).values())


KD = "phase kd of small on digits with quick { loss = kd(small.logits, big.logits, temperature = 4) }\n"
CE = "loss = cross_entropy(small.logits, labels)"


def phase(text: str, name: str, **options: Any) -> Phase:
    return compiled(HEAD + BIG + text, **options).plan.phases[name]


def calls(e: ir.Expr, function: str) -> list[ir.Call]:
    return [n for n in ir.walk(e) if isinstance(n, ir.Call) and n.function == function]


def taps(e: ir.Expr) -> list[ir.Tap]:
    return [n for n in ir.walk(e) if isinstance(n, ir.Tap)]


# ---- plans at random


@dataclass(frozen=True)
class Decl:
    """A declaration; in its text `<x>` is the name x, and `#` the number that only this declaration has."""

    kind: str
    name: str
    text: str
    number: int = 0


@dataclass(frozen=True)
class Model:
    """A plan as a list of declarations, which can be renamed, put in another order and changed in one number."""

    declarations: tuple[Decl, ...]
    names: dict[str, str] = field(default_factory=dict)

    def text(self) -> str:
        return "\n".join(self._one(d) for d in self.declarations)

    def _one(self, d: Decl) -> str:
        text = d.text.replace("#", f"{0.5 + d.number / 64}")
        for other in self.declarations:
            text = text.replace(f"<{other.name}>", self.names.get(other.name, other.name))
        return text

    def renamed(self, suffix: str) -> Model:
        return replace(self, names={d.name: d.name + suffix for d in self.declarations if d.name != "seed"})

    def reordered(self, order: list[int]) -> Model:
        return replace(self, declarations=tuple(self.declarations[i] for i in order))

    def changed(self, name: str) -> Model:
        """With another number in the declaration `name`."""
        declarations = tuple(replace(d, number=d.number + 1000) if d.name == name else d for d in self.declarations)
        return replace(self, declarations=declarations)

    def phases(self) -> list[str]:
        return [d.name for d in self.declarations if d.kind == "phase"]


TRANSFORMS = ("pad_crop(8, pad = 1)", "flip()")
SCHEDULES = ("constant()", "cosine()", "steps(at = [1])")
TEACHER = (
    "kd(<{m}>.logits, <{n}>@{p}.logits, temperature = 4)",
    "kl(student = <{m}>.logits, teacher = <{n}>@{p}.logits)",
    "mse(fit(<{m}>.layer1, like = <{n}>@{p}.layer1), <{n}>@{p}.layer1)",
    "mean(detach(<{n}>@{p}.features)) - sum(mean(x.features) for x in [<{m}>, <{m}>])",
    "cosine(<{n}>@{p}(inputs).fc, <{m}>.logits) ** 2 / 3",
    "(epoch < 3) * mean(abs(<{n}>@{p}.logits - <{m}>.logits))",
)


@st.composite
def models(draw: st.DrawFn) -> Model:
    """A valid plan on digits: one to three networks, one to four phases that read one another."""

    def pick(low: int, high: int) -> int:
        return draw(st.integers(low, high))

    out: list[Decl] = []
    if pick(0, 2) == 0:
        out.append(Decl("param", "seed", f"param seed in 0..{pick(0, 1)}"))
    if swept := pick(0, 2) == 0:
        out.append(Decl("param", "w", "param <w> in [0.25, 2]"))
    augment = ", ".join(draw(st.lists(st.sampled_from(TRANSFORMS), max_size=2)))
    out.append(Decl("data", "d", f"data <d> = digits {{ augment = [{augment}] }}"))
    halves = pick(0, 2) == 0
    if halves:
        out.append(Decl("verticals", "half", f"verticals <half> of <d> = random(parts = 2, seed = {pick(0, 3)})"))
    smooth = draw(st.sampled_from(("", "  label_smoothing = 0.1")))
    schedule = draw(st.sampled_from(SCHEDULES))
    settings = f"optimizer = sgd(lr = 0.{pick(1, 9)})  schedule = {schedule}  epochs = {pick(1, 3)}{smooth}"
    out.append(Decl("recipe", "r", f"recipe <r> {{ {settings} }}"))
    out.append(Decl("recipe", "s", f"recipe <s> = <r> {{ batch = {pick(1, 4) * 16} }}"))
    networks = []
    for i in range(pick(1, 3)):
        kind = draw(st.sampled_from(("teacher", "student", "network")))
        seed = draw(st.sampled_from(("", f"seed = fold(0, {i})", f"seed = {i}")))
        networks.append(f"n{i}")
        out.append(Decl(kind, f"n{i}", f"{kind} <n{i}> = digits_net(width = {pick(1, 6)}) {{ {seed} }}"))
    versions: list[tuple[str, str]] = []
    for i in range(pick(1, 4)):
        network, base = draw(st.sampled_from([*((n, "") for n in networks), *((n, f"@{p}") for n, p in versions)]))
        terms = [f"# * cross_entropy(<{network}>.logits, labels)"]
        if versions and pick(0, 3):
            n, p = draw(st.sampled_from(versions))
            factor = "<w> * " if swept and pick(0, 1) else ""
            term = draw(st.sampled_from(TEACHER)).format(n=n, p=p, m=network)
            terms.append(factor + f"({term})")
        part = draw(st.sampled_from(("", "", ".fc")))
        on = draw(st.sampled_from(("<d>", "<d>")))
        recipe = draw(st.sampled_from(("<r>", "<s>", "<s>")))
        logged = f"  def term{i} = {terms[-1].replace('#', '2')}" if pick(0, 2) == 0 else ""
        trainees = f"<{network}>{base}{part}"
        text = f"phase <p{i}> of {trainees} on {on} with {recipe} {{{logged}  loss = {' + '.join(terms)} }}"
        out.append(Decl("phase", f"p{i}", text, i))
        versions.append((network, f"<p{i}>"))
    rows = ", ".join(f"<{n}>@{p}" for n, p in versions)
    out.append(Decl("measure", "m", f"measure <m> of {rows} on <d>.test {{ top1, cross_entropy }}"))
    if halves:
        text = ("teacher <t>[v in <half>] = digits_net(classes = v) "
                "{ phase train on <d>[v] with <r> { loss = cross_entropy(self.logits, labels) } }")  # fmt: skip
        out.append(Decl("teacher", "t", text))
        out.append(Decl("measure", "mt", "measure <mt> of <t>[*] on <d>.test { top1 }"))
    return Model(tuple(out))
