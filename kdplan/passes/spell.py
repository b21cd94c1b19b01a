"""The core plan's values as text of the language: signals, versions, views, settings.

What is spelled here and resolved again is the same value: the same tree of nodes, the same numbers.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from kdplan.diagnostics.span import Source, Span
from kdplan.ir import expr as ir
from kdplan.ir.adapted import ADAPTED
from kdplan.ir.branches import BRANCHED, PARTS
from kdplan.ir.calls import applied, value_read
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS
from kdplan.ir.origins import EmaOf, Spelled
from kdplan.ir.plan import ClassSet, Item, Network, Phase, Plan, View
from kdplan.syntax import ast
from kdplan.syntax.write import expression

NOWHERE = Span(Source("", ""), 0, 0)
FLAT = 1000
"""A sum or product of more terms than this is several when it is read (`arithmetic.binary`)."""

_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*\Z")


@dataclass
class Names:
    """What each thing of the plan is called in the text."""

    data: dict[str, str] = field(default_factory=dict)
    networks: dict[str, str] = field(default_factory=dict)
    phases: dict[str, str] = field(default_factory=dict)
    parts: dict[tuple[str, tuple[int, ...]], tuple[str, int]] = field(default_factory=dict)
    """Data set and class numbers -> verticals declaration and position in it."""
    files: dict[str, str] = field(default_factory=dict)
    """User's Python file -> its name in the plan."""


def is_word(text: str) -> bool:
    """Whether a string can stand where the language wants a name.

    >>> is_word("layer1"), is_word("0"), is_word("kd[w=5]")
    (True, False, False)
    """
    return _WORD.match(text) is not None


# ---- plain values


def plain(value: Any) -> ast.Expr:
    """A number, text, truth value, list or record.

    >>> expression(plain([1, -0.5, "a", True, None, {"k": 2}]))
    '[1, -0.5, "a", true, none, case(k = 2)]'
    """
    if value is None or isinstance(value, bool):
        return name({True: "true", False: "false", None: "none"}[value])
    if isinstance(value, str):
        return ast.String(NOWHERE, value)
    if isinstance(value, int | float):
        return number(value)
    if isinstance(value, dict):
        return call(name("case"), [], {k: plain(v) for k, v in value.items()})
    assert isinstance(value, list | tuple), value
    return ast.List(NOWHERE, [plain(v) for v in value])


def number(value: int | float) -> ast.Expr:
    if value < 0 or repr(value).startswith("-"):
        return ast.Negate(NOWHERE, ast.Number(NOWHERE, -value))
    return ast.Number(NOWHERE, value)


def name(word: str) -> ast.Name:
    return ast.Name(NOWHERE, word)


def attr(base: ast.Expr, word: str) -> ast.Expr:
    return ast.Attr(NOWHERE, base, word, NOWHERE)


def call(function: ast.Expr, args: list[ast.Expr], keywords: dict[str, ast.Expr]) -> ast.Call:
    return ast.Call(NOWHERE, function, args, [ast.Keyword(NOWHERE, k, NOWHERE, v) for k, v in keywords.items()])


def dotted(base: ast.Expr, path: str) -> ast.Expr:
    """`base` with a path behind it: words after dots, numbers and other keys between square brackets.

    >>> expression(dotted(name("small"), "layer1.0.conv1"))
    'small.layer1[0].conv1'
    """
    for step in path.split(".") if path else []:
        if is_word(step):
            base = attr(base, step)
        else:
            key: ast.Expr = ast.Number(NOWHERE, int(step)) if step.isdecimal() else ast.String(NOWHERE, step)
            base = ast.Pick(NOWHERE, base, [key])
    return base


def _path(path: str) -> ast.Expr:
    """A path within a network, which begins with a word."""
    first, _, rest = path.partition(".")
    return dotted(name(first), rest)


def written(path: str) -> str:
    """A path within a network, as a plan writes it.

    >>> written("branch.0.layer1")
    'branch[0].layer1'
    """
    return expression(_path(path))


# ---- what has a name


class Speller:
    """Spells what stands in a plan, with `names` for what it refers to."""

    def __init__(self, plan: Plan, names: Names) -> None:
        self.plan = plan
        self.names = names

    def item(self, item: Item, **replaced: ast.Expr) -> str:
        """`sgd(lr = 0.1)`; `replaced` are arguments that are spelled otherwise than by their value."""
        return expression(self.architecture(item, **replaced))

    def architecture(self, item: Item, **replaced: ast.Expr) -> ast.Expr:
        """An item's expression; of a network with branches, `base` may be replaced too."""
        if item.name == BRANCHED:
            return self._branched(item, **replaced)
        if item.name == ADAPTED:
            return self._adapted(item, **replaced)
        arguments = {k: replaced.get(k) or plain(v) for k, v in item.arguments.items()}
        file, colon, function = item.name.rpartition(":")
        if colon:
            return call(attr(name(self.names.files[file]), function), [], arguments)
        return call(name(item.name), [], arguments) if arguments else name(item.name)

    def _branched(self, item: Item, base: ast.Expr | None = None, **replaced: ast.Expr) -> ast.Expr:
        plain_one, gate = (Item(*item.arguments[p]) for p in PARTS)
        keywords = {
            "from": _path(item.arguments["at"]),
            "count": plain(item.arguments["count"]),
            "gate": self.architecture(gate),
            "shape": plain(item.arguments["shape"]),
        }
        return call(name("branched"), [base or self.architecture(plain_one, **replaced)], keywords)

    def _adapted(self, item: Item, base: ast.Expr | None = None, **replaced: ast.Expr) -> ast.Expr:
        keywords = {
            "behind": ast.List(NOWHERE, [_path(p) for p in item.arguments["behind"]]),
            "shape": plain(item.arguments["shape"]),
        }
        if item.arguments.get("entries") is not None:
            path, of = item.arguments["entries"]
            keywords["entries"] = ast.List(NOWHERE, [_path(path), plain(of)])
        return call(name("adapted"), [base or self.architecture(Item(*item.arguments["base"]), **replaced)], keywords)

    def classes(self, classes: ClassSet) -> ast.Expr:
        """`digits.classes` where it is all of them in their order, else a part of the verticals that hold them."""
        if classes.ids == list(range(len(self.plan.data[classes.data].classes))):
            return attr(name(self.names.data[classes.data]), "classes")
        verticals, position = self.names.parts[classes.data, tuple(classes.ids)]
        return ast.Pick(NOWHERE, name(verticals), [ast.Number(NOWHERE, position)])

    def view(self, view: View, split: bool) -> ast.Expr:
        """`digits[half[0]].unlabelled.test`; `split` says whether `train` is spelled too."""
        expr: ast.Expr = name(self.names.data[view.data])
        if view.classes is not None:
            expr = ast.Pick(NOWHERE, expr, [self.classes(view.classes)])
        if view.unlabelled:
            expr = attr(expr, "unlabelled")
        return attr(expr, view.split) if split or view.split != "train" else expr

    def version(self, version: ir.Version) -> ast.Expr:
        """`small@kd[best]`; a moving average that has not been left by a phase yet goes by its bare name."""
        if version.phase is None and isinstance(self.plan.networks[version.network].origin, EmaOf):
            return name(self.names.networks[version.network])
        phase = self.names.phases[version.phase] if version.phase is not None else "init"
        expr: ast.Expr = ast.Version(NOWHERE, name(self.names.networks[version.network]), phase, NOWHERE)
        if version.snapshot == "last":
            return expr
        axis, equal, value = version.snapshot.partition("=")
        pick = ast.Coordinate(NOWHERE, axis, ast.Number(NOWHERE, int(value))) if equal else name(version.snapshot)
        return ast.Pick(NOWHERE, expr, [pick])

    def origin(self, spelled: Spelled) -> ast.Expr:
        """`perturbed(small@kd, distance = 2, seed = 0)`, `small@kd.branch[1]`: what a network is made of."""
        networks = [name(self.names.networks[n]) if isinstance(n, str) else self.version(n) for n in spelled.networks]
        if not spelled.function:
            return dotted(networks[0], spelled.path)
        words = {p.name for p in PLAN_FUNCTIONS[spelled.function].params if p.choices}
        settings = {k: name(v) if k in words else plain(v) for k, v in spelled.settings.items()}
        return call(name(spelled.function), networks, settings)

    def head(self, network: Network) -> list[str]:
        """`head` and `logit_scale` of a network that has them, as settings."""
        arguments = network.architecture.arguments
        own = network.classes.ids if network.classes is not None else range(arguments["classes"])
        by = plain([[own[i] for i in part] for part in arguments.get("parts", [])])
        layers = []
        for kind, size, shared in arguments["layers"]:
            more = {"by": by} | ({"shared": plain(shared)} if shared else {}) if kind == "sc" else {}
            layers.append(call(name(kind), [plain(size)], more))
        settings = (
            [f"head = {expression(ast.Chain(NOWHERE, [*layers]) if len(layers) > 1 else layers[0])}"] if layers else []
        )
        logit_scale = arguments.get("logit_scale")
        if logit_scale is not None:
            words = {k: name(v) if isinstance(v, str) else plain(v) for k, v in logit_scale.items() if k != "name"}
            settings.append(f"logit_scale = {expression(call(name(logit_scale['name']), [], {'by': by, **words}))}")
        return settings


class Signals:
    """Spells the signals of one phase. Calls of a network that share draws of random numbers get a name."""

    def __init__(self, speller: Speller, phase: Phase, name: Callable[[str], str]) -> None:
        """`name` gives a free name that begins with a word."""
        self.speller = speller
        self.phase = phase
        self.name = name
        self.alone = len(phase.streams) == 1
        taps = [e for root in (phase.loss, *phase.logged.values()) for e in ir.walk(root) if isinstance(e, ir.Tap)]
        seen = Counter((applied(e), value_read(e)) for e in taps if self._may_draw(e) and not self._is_bare(e))
        self.drawn = {applied(e) for e in taps if e.call} | {at for (at, _), count in seen.items() if count > 1}
        self.calls: dict[tuple[str, int], tuple[str, ast.Expr]] = {}
        """What is applied, and the number of the draw -> a name and the call."""

    def spell(self, e: ir.Expr) -> ast.Expr:
        """A signal's text; names of calls that it needs are in `calls` then."""
        if isinstance(e, ir.Const):
            return plain(e.value)
        if isinstance(e, ir.StepCounter):
            return name(e.name)
        if isinstance(e, ir.StreamField):
            if self.alone:
                return name(e.field)
            return attr(self.speller.view(self.phase.streams[e.stream], split=False), e.field)
        if isinstance(e, ir.Tap):
            return self.tap(e)
        if isinstance(e, ir.Call):
            return self.call(e)
        return self.op(e)

    def tap(self, e: ir.Tap) -> ast.Expr:
        """`small.layer2`, or `small.fc(x)` where it is applied to something else than the batch's images."""
        names = self.speller.names
        if isinstance(e.of, ir.InTraining):
            base: ast.Expr = name(names.networks[self.phase.trainees[e.of.slot].base.network])
        else:
            base = self.speller.version(e.of)
        drawn = applied(e) in self.drawn
        if self._is_bare(e) and not drawn:
            return dotted(base, e.path or "output")
        applies = self._call(e, base, drawn)
        return applies if e.since else dotted(applies, e.path)

    def _is_bare(self, e: ir.Tap) -> bool:
        """Whether a tap can be written without a call."""
        usual = self.alone and e.inputs == [ir.StreamField(0, "inputs")] and not e.submodule and not e.since
        return usual and not e.path.partition(".")[0].isdecimal()

    def _may_draw(self, e: ir.Tap) -> bool:
        return isinstance(e.of, ir.InTraining) or self.speller.plan.networks[e.of.network].mode != "eval"

    def _call(self, e: ir.Tap, base: ast.Expr, drawn: bool) -> ast.Expr:
        """The call that a tap is a value of; its name where other calls draw other numbers."""
        at = (applied(e), e.call)
        if at in self.calls:
            return name(self.calls[at][0])
        inputs = [self.spell(i) for i in e.inputs]
        if e.since:
            since = {"from": dotted(name(expression(base).partition("@")[0]), e.since)}
            value = call(name("through"), [*inputs, dotted(base, e.path or "output")], since)
        else:
            value = call(dotted(base, e.submodule), inputs, {})
        if not drawn:
            return value
        word = expression(base).partition("@")[0]
        self.calls[at] = (self.name(f"{word}_call{e.call}"), value)
        return name(self.calls[at][0])

    def call(self, e: ir.Call) -> ast.Expr:
        keywords = {k: self.spell(v) for k, v in e.keywords.items()}
        args = [self.spell(a) for a in e.args]
        file, colon, function = e.function.rpartition(":")
        if colon:
            return call(attr(name(self.speller.names.files[file]), function), args, keywords)
        words = [p.name for p in FUNCTIONS[e.function].params if p.choices]
        keywords |= {k: name(v.value) for k, v in e.keywords.items() if k in words}  # type: ignore[union-attr, arg-type]
        signals = [p for p in FUNCTIONS[e.function].params if p.type == "signal"]
        if FUNCTIONS[e.function].more:
            first = [p.name for p in FUNCTIONS[e.function].params if p.type != "signal"]
            return call(name(e.function), [*(keywords[n] for n in first), *args], {})
        if tuple(signals) != FUNCTIONS[e.function].params[: len(signals)]:
            keywords |= {p.name: a for p, a in zip(signals, args, strict=True)}
            args = []
        return call(name(e.function), args, keywords)

    def op(self, e: ir.Op) -> ast.Expr:
        if e.op == "list":
            return ast.List(NOWHERE, [self.spell(a) for a in e.args])
        if e.op == "neg":
            return ast.Negate(NOWHERE, self.spell(e.args[0]))
        if e.op == "+" and _written_as_call(e):
            return call(name("sum"), [self.spell(a) for a in e.args], {})
        expr = self.spell(e.args[0])
        for a in e.args[1:]:
            op: str = e.op
            if op == "+" and isinstance(a, ir.Op) and a.op == "neg":
                op, a = "-", a.args[0]
            elif op == "+" and _is_number(a) and a.value < 0:  # type: ignore[union-attr, operator]
                op, a = "-", ir.Const(-a.value)  # type: ignore[union-attr, operator]
            expr = ast.Binary(NOWHERE, op, expr, self.spell(a))
        return expr


def _is_number(e: ir.Expr) -> bool:
    return isinstance(e, ir.Const) and isinstance(e.value, int | float) and not isinstance(e.value, bool)


def _written_as_call(e: ir.Op) -> bool:
    """Whether `a + b + …` would be read as another tree: `(a + b) + c` is one sum of three, and `1 + 2` is 3."""
    first = e.args[0]
    joined = isinstance(first, ir.Op) and first.op == "+" and len(first.args) < FLAT
    return joined or len(e.args) > FLAT or (_is_number(first) and _is_number(e.args[1]))


def lines(node: ast.Expr, width: int = 100) -> str:
    """An expression's text; a long sum with each of its terms on a line of its own."""
    text = expression(node)
    if len(text) <= width or not (isinstance(node, ast.Binary) and node.op in "+-"):
        return text
    tail: list[str] = []
    while isinstance(node, ast.Binary) and node.op in ("+", "-"):
        tail.append(expression(ast.Binary(NOWHERE, node.op, name("x"), node.right))[2:])
        node = node.left
    return "\n".join([expression(node), *reversed(tail)])
