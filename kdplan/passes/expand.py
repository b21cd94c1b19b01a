"""The core plan as text: a plan without params, axes, families, functions and other files, that has the same keys."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import fields, replace
from typing import Any

from kdplan.diagnostics.span import Source
from kdplan.ir.adapted import HELD
from kdplan.ir.functions import RESERVED
from kdplan.ir.heads import HEADED, base_of
from kdplan.ir.origins import Loaded
from kdplan.ir.plan import (
    DEFAULT_RECIPE,
    ClassSet,
    Data,
    Item,
    Measure,
    Network,
    Phase,
    Plan,
    Recipe,
    Row,
    Trainee,
)
from kdplan.ir.versions import versions_of
from kdplan.passes.spell import NOWHERE, Names, Signals, Speller, call, dotted, is_word, lines, name, plain
from kdplan.syntax import ast
from kdplan.syntax.format import format_text
from kdplan.syntax.write import expression

_WORDS = frozenset({"of", "on", "with", "from", "by", "over", "as", "for", "in", "init", "seed"})
"""Names that would be read as something else."""


def expand(plan: Plan) -> str:
    """A plan's text in the core of the language.

    Compiled again it has the same keys; expanded again it is the same text. Coordinates become parts of names:
    `kd[w=5, seed=0]` is called `kd_w5_seed0`, and `big@train` is `big_train`.

    Parameters
    ----------
    plan : Plan
        A resolved plan.

    Examples
    --------
    >>> from kdplan.ir import expr as ir
    >>> from kdplan.ir.plan import Trainee, View
    >>> loss = ir.Call("cross_entropy", [ir.Tap(ir.InTraining(0), [ir.StreamField(0, "inputs")], "logits"),
    ...                                  ir.StreamField(0, "labels")])
    >>> recipe = Recipe(Item("sgd", {"lr": 0.1}), epochs=2)
    >>> plan = Plan({"d": Data("d", Item("digits"))}, {"s": Network("s", Item("digits_net"))},
    ...             {"kd[w=5]": Phase("kd[w=5]", [Trainee(ir.Version("s"))], [View("d")], [recipe], loss)})
    >>> print(expand(plan), end="")
    data d = digits
    <BLANKLINE>
    network s = digits_net { seed = 0 }
    <BLANKLINE>
    recipe recipe_1 { optimizer = sgd(lr = 0.1)  epochs = 2 }
    <BLANKLINE>
    phase kd_w5 of s on d with recipe_1 { seed = 0  loss = cross_entropy(s.logits, labels) }
    """
    return format_text(Source("expanded", _Expansion(plan).text()))


# ---- names


class Namer:
    """Gives names that are words, each once.

    >>> namer = Namer({"kl"})
    >>> namer.all(["kd[w=5, seed=0]", "kl", "big@train"], "phase")
    {'kd[w=5, seed=0]': 'kd_w5_seed0', 'kl': 'kl_phase', 'big@train': 'big_train'}
    """

    def __init__(self, taken: Iterable[str]) -> None:
        self.taken = set(taken) | _WORDS

    def all(self, wanted: Iterable[str], kind: str, allowed: Iterable[str] = ()) -> dict[str, str]:
        """A name for each of `wanted`; what is a word already keeps it, if it may. `allowed` may be taken."""
        names, may = list(wanted), set(allowed)
        free = {n for n in names if is_word(n) and (n not in self.taken or n in may)}
        self.taken |= free
        return {n: n if n in free else self.one(n, kind) for n in names}

    def one(self, wanted: str, kind: str) -> str:
        word = re.sub(r"[^A-Za-z0-9_]+", "_", wanted.replace("=", "").replace("-", "m")).strip("_") or kind
        if word[0].isdigit():
            word = f"{kind}_{word}"
        free = word
        if free in self.taken:
            free = word = f"{word}_{kind}"
        count = 2
        while free in self.taken:
            free = f"{word}_{count}"
            count += 1
        self.taken.add(free)
        return free


def _held_head(network: Network) -> Network | None:
    """The fresh network with a head that a network is grown from, if it is."""
    held = network.architecture.arguments.get("base") if network.architecture.name in HELD else None
    if not isinstance(held, list | tuple) or held[0] != HEADED or network.origin.spelled() is not None:
        return None
    return replace(network, name=f"{network.name} base", architecture=Item(*held))


class _Expansion:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.used = _networks(plan)
        self.names = Names()
        self.recipes: dict[str, tuple[str, Recipe]] = {}
        """A recipe's content -> its name; equal ones are written once."""
        self.parts: dict[str, tuple[str, list[tuple[str, list[int]]]]] = {}
        """Data set -> its verticals' name, and their parts."""
        self.bases: dict[str, str] = {}
        """Network that is grown from one with a head -> the name of that one, as only a declaration has a head."""
        self.divisions: dict[str, str] = {}
        """Measure -> the name of the verticals that it goes by."""
        self.words: set[str] = set()
        """All names that phases must not give to calls."""
        self.measures = {m.name: m for measure in plan.measured() for m in _by_views(measure) if m.rows}
        """Measures as they are written, each on one list of views; of claims, what they read: there are no axes."""
        self._scope()
        after_at = Namer(())
        self.names.phases = after_at.all(plan.phases, "phase")
        self.names_of_measures = after_at.all(self.measures, "measure")
        self.exports = after_at.all(plan.exports, "export")
        self.speller = Speller(plan, self.names)

    def _scope(self) -> None:
        """Names of one scope: data, networks, files, verticals, recipes. A table's word that the plan uses (`sgd`)
        stays free of other meanings, except where only the declaration of that name says it
        (`data digits = digits`)."""
        plan = self.plan
        heads: dict[str, list[tuple[str, str]]] = {}
        for owner, item in _items(plan):
            heads.setdefault(item.name, []).append(owner)
        logged = {n for p in plan.phases.values() for n in p.logged}
        namer = Namer({*RESERVED, *heads, *logged})
        own = {kind: [n for n, users in heads.items() if users == [(kind, n)] and n not in RESERVED | logged]
               for kind in ("data", "network")}  # fmt: skip
        self.names.data = namer.all(plan.data, "data", own["data"])
        self.names.networks = namer.all(self.used, "network", own["network"])
        for n in self.used:
            if _held_head(plan.networks[n]) is not None:
                self.bases[n] = namer.one(f"{self.names.networks[n]}_base", "network")
        for path in dict.fromkeys(_files(plan)):
            self.names.files[path] = namer.one(_stem(path), "file")
        for classes in _class_sets(plan):
            self._part(classes, namer)
        for word, measure in self.measures.items():
            if measure.parts:
                self.divisions[word] = namer.one(f"{word.rstrip(']')}_parts", "verticals")
        for phase in plan.phases.values():
            for recipe in phase.recipes:
                if repr(recipe) not in self.recipes:
                    word = namer.one(f"recipe_{len(self.recipes) + 1}", "recipe")
                    self.recipes[repr(recipe)] = (word, recipe)
        self.words = namer.taken

    def _part(self, classes: ClassSet, namer: Namer) -> None:
        at = (classes.data, tuple(classes.ids))
        if at in self.names.parts or classes.ids == list(range(len(self.plan.data[classes.data].classes))):
            return
        if classes.data not in self.parts:
            self.parts[classes.data] = (namer.one(f"{self.names.data[classes.data]}_parts", "verticals"), [])
        verticals, parts = self.parts[classes.data]
        inside = Namer({"disjoint", *(p for p, _ in parts)})
        label = classes.label if classes.label is not None else f"part{len(parts)}"
        word = label if is_word(label) and label not in inside.taken else inside.one(label, "part")
        self.names.parts[at] = (verticals, len(parts))
        parts.append((word, classes.ids))

    # ---- declarations

    def text(self) -> str:
        plan, names = self.plan, self.names
        blocks = [
            "\n".join(_use(path, alias) for path, alias in names.files.items()),
            "\n".join(self._data(d) for d in plan.data.values()),
            "\n".join(self._verticals(d) for d in self.parts),
            "\n".join(self._division(word, self.measures[n]) for n, word in self.divisions.items()),
            "\n".join(text for n in self.used for text in self._networks(plan.networks[n])),
            *(_body(f"recipe {word}", self._recipe(recipe)) for word, recipe in self.recipes.values()),
            *(self._phase(p) for p in plan.phases.values()),
            *(self._measure(m, self.names_of_measures[n]) for n, m in self.measures.items()),
            "\n".join(f"export {self.exports[n]} = {self._target(e.target)}" for n, e in plan.exports.items()),
        ]
        return "\n\n".join(b for b in blocks if b) + "\n"

    def _data(self, data: Data) -> str:
        settings = []
        if data.augment:
            settings.append(f"augment = [{', '.join(map(self.speller.item, data.augment))}]")
        if data.normalize is not None:
            settings.append(f"normalize = {expression(plain(data.normalize))}")
        if data.split is not None:
            settings.append(f"split = {self.speller.item(data.split)}")
        if data.protocol is not None:
            settings.append(f"protocol = {self.speller.item(data.protocol)}")
        for setting, default in (("fraction", 1.0), ("limit", None), ("verify", False), ("seed", 0)):
            value = getattr(data, setting)
            if value != default:
                settings.append(f"{setting} = {expression(plain(value))}")
        return _body(f"data {self.names.data[data.name]} = {self.speller.item(data.source)}", settings)

    def _verticals(self, data: str) -> str:
        verticals, parts = self.parts[data]
        settings = [f"{word} = {expression(plain(ids))}" for word, ids in parts]
        return _body(f"verticals {verticals} of {self.names.data[data]}", ["disjoint = false", *settings])

    def _division(self, word: str, measure: Measure) -> str:
        inside = Namer({"disjoint"})
        settings = ["disjoint = false"]
        for i, part in enumerate(measure.parts):
            label = inside.one(part.label if part.label is not None else f"part{i}", "part")
            settings.append(f"{label} = {expression(plain(part.ids))}")
        return _body(f"verticals {word} of {self.names.data[measure.parts[0].data]}", settings)

    def _networks(self, network: Network) -> Iterator[str]:
        base = _held_head(network)
        if base is not None:
            settings = [f"seed = {network.seed}", *self.speller.head(base)]
            yield _body(f"network {self.bases[network.name]} = {self._made(base)}", settings)
        yield self._network(network)

    def _network(self, network: Network) -> str:
        settings = [f"seed = {network.seed}", *_weights(network)]
        if network.reset:
            settings.append(f"reset = {_paths(network.reset)}")
        if network.mode != "eval":
            settings.append(f"mode = {network.mode}")
        if network.architecture.name == HEADED and network.origin.spelled() is None:
            settings += self.speller.head(network)
        return _body(f"{network.role} {self.names.networks[network.name]} = {self._made(network)}", settings)

    def _made(self, network: Network) -> str:
        spelled = network.origin.spelled()
        if spelled is not None:
            start = self.speller.origin(spelled)
            return expression(self.speller.architecture(network.architecture, base=start) if spelled.held else start)
        classes = {"classes": self.speller.classes(network.classes)} if network.classes is not None else {}
        if network.name in self.bases:
            return expression(self.speller.architecture(network.architecture, base=name(self.bases[network.name])))
        return self.speller.item(_with_weights_by_name(base_of(network.architecture)), **classes)

    def _recipe(self, recipe: Recipe) -> list[str]:
        settings = []
        for f in fields(Recipe):
            value = getattr(recipe, f.name)
            if f.name in ("span", "spans") or value == getattr(DEFAULT_RECIPE, f.name):
                continue
            if isinstance(value, Item):
                settings.append(f"{f.name} = {self.speller.item(value)}")
            elif f.name in ("precision", "frozen_precision", "layout", "norm", "frozen") or (
                f.name in ("compile", "stack") and isinstance(value, str)
            ):
                settings.append(f"{f.name} = {value}")
            else:
                settings.append(f"{f.name} = {expression(plain(value))}")
        return settings

    def _phase(self, phase: Phase) -> str:
        trainees = ", ".join(text for m in phase.trainees for text in self._trained(m))
        streams = ", ".join(expression(self.speller.view(v, split=False)) for v in phase.streams)
        recipes = ", ".join(self.recipes[repr(r)][0] for r in phase.recipes)
        namer = Namer(self.words)
        signals = Signals(self.speller, phase, lambda word: namer.one(word, "call"))
        loss = f"loss = {lines(signals.spell(phase.loss))}"
        logged = [f"def {n} = {lines(signals.spell(e))}" for n, e in phase.logged.items()]
        items = [f"seed = {phase.seed}", *(f"def {n} = {lines(e)}" for n, e in signals.calls.values()), *logged]
        for v in phase.validations:
            network = self.names.networks[phase.trainees[v.network].base.network]
            of = f" of {expression(dotted(name(network), v.path))}" if v.network or v.path else ""
            view = expression(self.speller.view(v.view, split=True))
            items.append(f"measure{of} on {view} {{ {', '.join(map(self.speller.item, v.metrics))} }}")
        items.append(loss)
        return _body(f"phase {self.names.phases[phase.name]} of {trainees} on {streams} with {recipes}", items)

    def _trained(self, trainee: Trainee) -> Iterator[str]:
        plainly = trainee.base.phase is None and trainee.base.snapshot == "last"
        base: ast.Expr = (
            name(self.names.networks[trainee.base.network]) if plainly else self.speller.version(trainee.base)
        )
        if trainee.upto:
            inner: ast.Expr = name(self.names.networks[trainee.base.network])
            since = [dotted(inner, path) for path in trainee.since]
            keywords = {"from": since[0] if len(since) == 1 else ast.List(NOWHERE, since)} if since else {}
            yield expression(call(name("upto"), [dotted(base, path) for path in trainee.upto], keywords))
        elif trainee.paths:
            yield from (expression(dotted(base, p)) for p in trainee.paths)
        else:
            yield expression(base)

    def _measure(self, measure: Measure, word: str) -> str:
        rows = [*dict.fromkeys(self._target(r.target) for r in measure.rows)]
        views = ", ".join(expression(self.speller.view(v, split=True)) for v in measure.views)
        comma, line = (",\n", "\n") if sum(map(len, rows)) > 80 else (", ", " ")
        metrics = ", ".join(map(self.speller.item, measure.metrics))
        by = f" by {self.divisions[measure.name]}" if measure.parts else ""
        # Rows are written out and have no axes any more: nothing to order, to average or to plot by.
        return f"measure {word} of{line}{comma.join(rows)}{line}{by} on {views} {{ {metrics} }}"

    def _target(self, target: Any) -> str:
        assert target.join == "single" and len(target.versions) == 1, "several versions as one have no text yet"
        return expression(dotted(self.speller.version(target.versions[0]), target.path))


def _paths(paths: Iterable[str]) -> str:
    parts = [dotted(name(p.partition(".")[0]), p.partition(".")[2]) for p in paths]
    return expression(ast.List(NOWHERE, [*parts]))


def _weights(network: Network) -> list[str]:
    """The settings that say which weights a network loads; those that a library names stand in its architecture."""
    given = base_of(network.architecture).arguments.get("weights")
    part = given if isinstance(given, dict) else {}
    settings = []
    if isinstance(network.origin, Loaded):
        settings.append(f'weights = "{network.origin.path}"')
        part = network.origin.part.content()
    if "entry" in part:
        settings.append(f"entry = {expression(plain(part['entry']))}")
    if "rename" in part:
        settings.append(f"rename = {expression(plain(part['rename']))}")
    return settings + [f"{n} = {_paths(part[n])}" for n in ("only", "except") if n in part]


def _with_weights_by_name(item: Item) -> Item:
    given = item.arguments.get("weights")
    return Item(item.name, {**item.arguments, "weights": given["from"]}) if isinstance(given, dict) else item


def _body(head: str, items: list[str]) -> str:
    if not items:
        return head
    if any("\n" in i for i in items) or len(items) > 4 or sum(map(len, items)) + len(head) > 100:
        return "\n".join([head + " {", *items, "}"])
    return f"{head} {{ {'  '.join(items)} }}"


# ---- what a plan holds


def _by_views(measure: Measure) -> Iterator[Measure]:
    """A measure, or one for each of the lists of views that its rows have of their own."""
    groups: dict[str, list[Row]] = {}
    for row in measure.rows:
        groups.setdefault(repr(measure.views_of(row)), []).append(row)
    for number, rows in enumerate(groups.values()):
        parts = [*{repr(r.classes): r.classes for r in rows if r.classes is not None}.values()] if measure.parts else []
        views = measure.views_of(rows[0])
        word = f"{measure.name}[{number}]" if number else measure.name
        yield replace(measure, name=word, rows=rows, views=views, parts=parts if rows[0].views else measure.parts)


def _networks(plan: Plan) -> list[str]:
    """Networks that are declared or read, each after those that its start depends on.

    Networks without a word of their own were made by an expression (`merge(…)`): they count only where something reads
    them.
    """
    networks: dict[str, None] = {}
    seen: set[str] = set()
    roots = [n for n in plan.networks if is_word(n.partition("[")[0]) or "." in n.partition("[")[0].partition("(")[0]]
    roots += [v.network for p in plan.phases.values() for v in versions_of(p)]
    results = [*(r.target for m in plan.measured() for r in m.every_row()), *(e.target for e in plan.exports.values())]
    roots += [v.network for t in results for v in t.versions]
    wanted = _closure(plan, roots)

    def visit(network: str) -> None:
        if network in seen:
            return
        seen.add(network)
        for version in plan.networks[network].origin.parents():
            visit(version.network)
            if version.phase is not None:
                for read in versions_of(plan.phases[version.phase]):
                    visit(read.network)
        networks[network] = None

    for network in plan.networks:
        if network in wanted:
            visit(network)
    return list(networks)


def _closure(plan: Plan, roots: list[str]) -> set[str]:
    wanted: set[str] = set()
    waiting = list(roots)
    while waiting:
        network = waiting.pop()
        if network not in wanted:
            wanted.add(network)
            waiting.extend(v.network for v in plan.networks[network].origin.parents())
    return wanted


def _items(plan: Plan) -> Iterator[tuple[tuple[str, str], Item]]:
    """Every choice from a table that the text will name, with the declaration in whose head it stands, if any."""
    for data in plan.data.values():
        yield ("data", data.name), data.source
        for item in [*data.augment, *(i for i in (data.split, data.protocol) if i)]:
            yield ("", ""), item
    for network in plan.networks.values():
        spelled = network.origin.spelled()
        grown = spelled is not None and spelled.held
        held = HELD.get(network.architecture.name)
        if held and (grown or spelled is None):
            arguments = network.architecture.arguments
            yield from ((("", ""), base_of(Item(*arguments[p]))) for p in held if not (p == "base" and grown))
        elif spelled is None:
            yield ("network", network.name), base_of(network.architecture)
    for phase in plan.phases.values():
        for recipe in phase.recipes:
            yield ("", ""), recipe.optimizer
            yield ("", ""), recipe.schedule
        for v in phase.validations:
            yield from ((("", ""), m) for m in v.metrics)
    for measure in plan.measured():
        yield from ((("", ""), m) for m in measure.metrics)


def _stem(code: str) -> str:
    return re.split(r"[/\\]", code)[-1].removesuffix(".py") if code.endswith(".py") else code.rpartition(".")[2]


def _use(code: str, alias: str) -> str:
    return f'use {"" if code.endswith(".py") else "package "}"{code}" as {alias}'


def _files(plan: Plan) -> Iterator[str]:
    """The user's Python files and packages that items and losses call."""
    names = [item.name for _, item in _items(plan)]
    names += [f for p in plan.phases.values() for f in p.code]
    yield from (n.rpartition(":")[0] for n in names if ":" in n)


def _class_sets(plan: Plan) -> Iterator[ClassSet]:
    sets = [n.classes for n in plan.networks.values()]
    for phase in plan.phases.values():
        sets += [v.classes for v in [*phase.streams, *(v.view for v in phase.validations)]]
    sets += [v.classes for m in plan.measured() for v in m.every_view()]
    yield from (s for s in sets if s is not None)
