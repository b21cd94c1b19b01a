"""Content keys: what a phase is, as a hash, and the parts that it was made from.

Names, comments, layout and order enter no key; everything that can change the trained weights does. Each part is kept
as a `Component` with its span, so that "why does this run?" is a comparison.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections import ChainMap
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import Any

import networkx as nx

from kdplan.data.rules import PROTOCOLS, SPLITS
from kdplan.data.transforms import TRANSFORMS
from kdplan.ir import expr as ir
from kdplan.ir.adapted import HELD
from kdplan.ir.branches import split
from kdplan.ir.dag import CODE_IN, Component, PhaseKey
from kdplan.ir.expr import number_text
from kdplan.ir.functions import FUNCTIONS
from kdplan.ir.heads import HEADED
from kdplan.ir.lengths import extendable
from kdplan.ir.optimizers import OPTIMIZERS, SCHEDULES
from kdplan.ir.outputs import is_output, is_scores
from kdplan.ir.plan import DEFAULT_RECIPE, ClassSet, Data, Item, Network, Phase, Plan, Recipe, View
from kdplan.ir.policies import POLICIES
from kdplan.ir.snapshots import kept_epochs
from kdplan.ir.spec import Spec
from kdplan.ir.user_code import files_of
from kdplan.ir.versions import makers, slot_of, versions_of
from kdplan.nn.catalog import METRICS, MODELS
from kdplan.nn.layers import GATES
from kdplan.passes.dag import order
from kdplan.passes.layout import layout

FORMAT = 1
"""Raised when phases trained by an older kdplan must not be reused at all."""

_BUILT: Mapping[str, Spec] = ChainMap(MODELS, GATES)
_RECIPES: Mapping[str, Mapping[str, Spec]] = {
    "optimizer": OPTIMIZERS,
    "schedule": SCHEDULES,
    "on_nan": POLICIES,
}

_IRRELEVANT = frozenset({"span", "spans", "workers", "label_smoothing", "layout"})
"""Recipe fields that do not change what is trained, or stand elsewhere in the key."""

_REVISED = {"compile": " 2"}
"""Recipe fields whose meaning changed, with their versions: short batches were compiled, too."""


def keys(plan: Plan, dag: nx.DiGraph[str]) -> dict[str, PhaseKey]:
    """The key of every phase of a plan, in topological order.

    Two phases with the same key are one piece of work, whatever they are called and in whichever plan they stand.
    """
    hasher = _Hasher(plan)
    for name in order(dag):
        hasher.add(plan.phases[name])
    return {name: hasher.done[name] for name in plan.phases}


def content(plan: Plan, keys: Mapping[str, PhaseKey], version: ir.Version) -> str:
    """What a version's weights are, as a string: equal for versions that are the same whatever they are called."""
    return _Weights(plan, keys).version(version)


def view_content(data: Data, view: View) -> str:
    """What the samples of a view of `data` are, as a string; labels or not is no part of it."""
    return json.dumps(_view(data, view), sort_keys=True)


def graph_key(plan: Plan, phase: Phase) -> str:
    """What a phase's graph and cost depend on: weights, seeds, learning rates and factors left out.

    Phases of a sweep that differ in numbers only share it, and need to be built once to be checked. So do phases of
    other classes, where these are as many and stand to one another in the same way.
    """
    numbers = _ClassNumbers(plan, phase)
    parts: list[Any] = []
    for trainee in phase.trainees:
        parts.append(
            [
                architecture(plan.networks[trainee.base.network]),
                numbers.of(plan.networks[trainee.base.network].classes),
                sorted(trainee.paths),
                sorted(trainee.upto),
                sorted(trainee.since),
            ]
        )
    for v in phase.streams:
        content = _view(plan.data[v.data], replace(v, classes=None))
        parts.append([content, numbers.of(v.classes), v.unlabelled])
    for r in phase.recipes:
        kinds = [n for n, v in sorted(r.optimizer.arguments.items()) if v is True or (n == "momentum" and v)]
        parts.append(
            [
                r.optimizer.name,
                kinds,  # of state, as far as arguments decide that
                r.epochs,
                r.steps,
                r.batch,
                r.accumulate,
                r.drop_last,
                r.ema is None,
                sorted(kept_epochs(r)),
                r.frozen,
                *(["fold"] if r.fold else []),
            ]
        )
    parts += [r.shards for r in phase.recipes] + [r.norm for r in phase.recipes if r.norm != "shard"]
    parts += [len(phase.validations), extendable(phase)]
    teachers: dict[str, int] = {}
    for name, root in (("loss", phase.loss), *phase.logged.items()):
        parts.append(name)
        for e in ir.walk(root):
            parts.append(_graph_node(plan, e, teachers, numbers))
    parts.append(sorted(phase.code.items()))
    return _hash(parts)


class _ClassNumbers:
    """The class sets of a phase by numbers in the order in which classes first appear in it.

    Equal sets, parts of one another, and other orders of one set stay such. Where a set has all classes, whose order is
    known without being written, or the loss itself holds numbers of classes, they stay what they are.
    """

    def __init__(self, plan: Plan, phase: Phase) -> None:
        self.plan = plan
        networks = [t.base.network for t in phase.trainees]
        networks += [v.network for v in versions_of(phase)]
        sets = [*(v.classes for v in phase.streams), *(plan.networks[n].classes for n in networks)]
        whole = {s.data for s in sets if s is not None and len(s.ids) >= len(plan.data[s.data].classes)}
        if any(_holds_numbers(e) for root in (phase.loss, *phase.logged.values()) for e in ir.walk(root)):
            whole |= plan.data.keys()
        self.known: dict[str, dict[int, int]] = {}
        for s in sets:
            if s is not None and s.data not in whole:
                known = self.known.setdefault(s.data, {})
                for i in s.ids:
                    known.setdefault(i, len(known))

    def of(self, classes: ClassSet | None) -> list[object] | None:
        """The data set and the numbers of a set of classes, as short as they can be."""
        if classes is None:
            return None
        known = self.known.get(classes.data)
        return [classes.data, _hash([i if known is None else known[i] for i in classes.ids])]


def _holds_numbers(e: ir.Expr) -> bool:
    """Whether a node is a list, or a call with one."""
    values = [e] if isinstance(e, ir.Const) else list(e.keywords.values()) if isinstance(e, ir.Call) else []
    return any(isinstance(v, ir.Const) and isinstance(v.value, list) for v in values)


def _graph_node(plan: Plan, e: ir.Expr, teachers: dict[str, int], numbers: _ClassNumbers) -> list[object] | str:
    """What a node is; of trained versions of one architecture it only counts which are the same."""
    if isinstance(e, ir.Call):
        fixed = {n: a.value for n, a in e.keywords.items() if isinstance(a, ir.Const)}
        return [e.function, len(e.args), sorted(e.keywords), fixed]
    if isinstance(e, ir.Tap):
        if isinstance(e.of, ir.InTraining):
            return [e.of.slot, e.submodule, e.path, e.since, *([e.call] if e.call else [])]
        network = plan.networks[e.of.network]
        return [
            architecture(network),
            network.mode,
            numbers.of(network.classes),
            e.submodule,
            e.path,
            e.since,
            *([e.call] if e.call else []),
            str(e.of) if e.of.phase is None else teachers.setdefault(str(e.of), len(teachers)),
        ]
    if isinstance(e, ir.Op):
        return [e.op, len(e.args)]
    if isinstance(e, ir.StreamField):
        return [e.stream, e.field]
    return type(e).__name__


def _hash(value: object) -> str:
    text = value if isinstance(value, str) else json.dumps(value, sort_keys=True, separators=(",", ":"), default=str)
    return hashlib.sha256(text.encode()).hexdigest()[:32]


class _Weights:
    """What the weights of versions are, where `keys` has the phases that made them."""

    def __init__(self, plan: Plan, keys: Mapping[str, PhaseKey]) -> None:
        self.plan = plan
        self.keys = keys
        self.networks: dict[str, str] = {}

    def network(self, name: str) -> str:
        """The content of a network as it starts."""
        if name not in self.networks:
            n = self.plan.networks[name]
            start = n.origin.content(n.seed, n.architecture.arguments, self.version)
            content = {"architecture": architecture(n)} | start
            if n.reset:
                content["reset"] = [sorted(n.reset), n.seed]
            self.networks[name] = _hash(content)
        return self.networks[name]

    def version(self, v: ir.Version) -> str:
        """The content of a network as it starts, or as a phase with this key left it."""
        if v.phase is None:
            return self.network(v.network)
        return f"{self.keys[v.phase].key}/{slot_of(self.plan, v)}/{v.snapshot}"


class _Hasher:
    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.done: dict[str, PhaseKey] = {}
        self.version = _Weights(plan, self.done).version
        self.phase: Phase
        self.views: dict[tuple[str, str, Any], str] = {}

    def add(self, phase: Phase) -> None:
        """Compute the key of a phase, whose teachers have theirs already."""
        components = list(self.components(phase))
        lines = [f"{c.path}={c.value}" for c in components]
        key = _hash(f"kdplan {FORMAT}\n" + "\n".join(sorted(lines)))
        reads = {m: self.done[m].key for v in versions_of(phase) for m in makers(self.plan, v)}
        self.done[phase.name] = PhaseKey(key, components, reads, list(self.details(phase)))

    def details(self, phase: Phase) -> Iterator[Component]:
        """What networks and data are made of, whose hashes stand among the components."""
        for i, trainee in enumerate(phase.trainees):
            if trainee.base.phase is None:
                yield from _details(f"moves/{i}", _start(self.plan.networks[trainee.base.network]))
        for i, view in enumerate(phase.streams):
            data = self.plan.data[view.data]
            content = {"source": data.source.name, **data.source.arguments, **_view(data, view)}
            yield from _details(f"data/{i}", [(name, value, data.span) for name, value in content.items()])
        for name in sorted(phase.code):
            yield from _details(f"code/{name.rpartition(':')[2]}", _files(name, None))

    def components(self, phase: Phase) -> Iterator[Component]:
        """Everything that can change the trained weights of a phase, part by part."""
        self.phase = phase
        yield Component("seed", str(phase.seed), span=phase.span)
        for i, trainee in enumerate(phase.trainees):
            yield Component(f"moves/{i}", self.version(trainee.base), span=trainee.span)
            upto = sorted("output" if is_output(path) else path for path in trainee.upto)  # the older word
            part = {"paths": sorted(trainee.paths), "upto": upto, "since": sorted(trainee.since)}
            if any(part.values()):
                yield Component(f"moves/{i}/part", json.dumps(part, sort_keys=True), span=trainee.span)
        for i, view in enumerate(phase.streams):
            yield Component(f"data/{i}", self.view(view), span=view.span)
        for i, recipe in enumerate(phase.recipes):
            yield from _recipe(f"recipe/{i}", recipe)
            if layout(self.plan, phase, recipe) == "channels_last":  # in the older word
                span = recipe.spans.get("layout", recipe.span)
                yield Component(f"recipe/{i}/channels_last", number_text(True), span=span)
        for i, v in enumerate(phase.validations):
            value = [
                self.view(v.view),
                v.network,
                [_item(m, METRICS) for m in v.metrics],
                *([v.path] if v.path else []),
            ]
            protocol = self.plan.data[v.view.data].protocol
            if protocol is not None:  # which nothing that trains reads
                value.append(_item(protocol, PROTOCOLS))
            yield Component(f"measure/{i}", json.dumps(value), span=v.span)
        yield from self.expression("loss", phase.loss)
        for name, code in sorted(phase.code.items()):
            yield Component(f"code/{name.rpartition(':')[2]}", code, span=None)

    def view(self, view: View) -> str:
        """The hash of a view's content: the data, the split, the classes, the augmentation."""
        ids = tuple(view.classes.ids) if view.classes else None
        at = (view.data, view.split, ids)
        if at not in self.views:
            self.views[at] = view_content(self.plan.data[view.data], view)
        return self.views[at]

    def expression(self, path: str, root: ir.Expr) -> Iterator[Component]:
        """Every node as a component, named by its path in the tree; iterative, since sums may be very long."""
        stack: list[tuple[str, ir.Expr]] = [(path, root)]
        while stack:
            at, e = stack.pop()
            if isinstance(e, ir.Const):
                yield Component(at, number_text(e.value), span=e.span)
            elif isinstance(e, ir.Op):
                yield Component(at, e.op, span=e.span)
                stack.extend((f"{at}/{i}", a) for i, a in enumerate(e.args))
            elif isinstance(e, ir.Call):
                yield Component(at, self._function(e.function), span=e.span)
                stack.extend((f"{at}/{i}", a) for i, a in _numbered(e))
                stack.extend((f"{at}/{n}", a) for n, a in e.keywords.items())
            elif isinstance(e, ir.Tap):
                yield Component(at, self._tap(e), span=e.span)
                stack.extend((f"{at}/{i}", a) for i, a in enumerate(e.inputs))
            elif isinstance(e, ir.StreamField):
                yield Component(at, f"{e.field} of data/{e.stream}", span=e.span)
            else:
                yield Component(at, e.name, span=e.span)

    def _tap(self, e: ir.Tap) -> str:
        since = f" since {e.since}" if e.since else ""
        since += f" call {e.call}" if e.call else ""
        path = e.path or "output"
        if not e.submodule and is_output(path):
            path = "logits"  # in plans from JSON too: one value has one key
        if isinstance(e.of, ir.InTraining):
            classes = self._classes(e, self.phase.trainees[e.of.slot].base.network)
            return f"{path} of {e.submodule} moves/{e.of.slot}{since}{classes}"
        mode = self.plan.networks[e.of.network].mode
        tail = f" in {mode} mode" if mode != "eval" else ""
        return f"{path} of {e.submodule} {self.version(e.of)}{tail}{since}{self._classes(e, e.of.network)}"

    def _classes(self, e: ir.Tap, network: str) -> str:
        """The classes of a tap's columns, where they are not all classes in the data set's order: columns of other
        classes are other content, and columns in another order are permuted."""
        classes = self.plan.networks[network].classes
        if classes is None or not is_scores(split(self.plan.networks[network], e.path)[1]):
            return ""
        everything = list(range(len(self.plan.data[classes.data].classes)))
        return "" if classes.ids == everything else f" over classes {classes.ids}"

    @staticmethod
    def _function(name: str) -> str:
        spec = FUNCTIONS.get(name)
        return spec.content if spec is not None else name.rpartition(":")[2]  # the code itself is a component


Detail = tuple[str, Any, Any]
"""A name, a value, and where it stands."""


def _details(path: str, details: list[Detail]) -> Iterator[Component]:
    for name, value, span in details:
        text = number_text(value) if isinstance(value, int | float) else json.dumps(value, default=str)
        text = value if isinstance(value, str) else text
        yield Component(f"{path}/{name}", text, span=span, at=str(span) if span is not None else "")


def _files(factory: str, span: Any) -> list[Detail]:
    return [(f"{CODE_IN}{name}", digest, span) for name, digest in files_of(factory).items()]


def _held_files(value: Any) -> Iterator[str]:
    """The functions in files that the arguments of an architecture name."""
    if isinstance(value, Mapping):
        yield from _held_files(list(value.values()))
    elif isinstance(value, list | tuple):
        for one in value:
            yield from _held_files(one)
    elif isinstance(value, str) and ".py:" in value:
        yield value


def _start(n: Network) -> list[Detail]:
    """What a network is made of, and where it stands: its architecture's arguments at the architecture."""
    item = n.architecture
    span = item.span or n.span
    name, arguments = architecture(n)
    parts: list[Detail] = [("architecture", str(name).rpartition(":")[2], span), ("code", n.code or "", span)]
    if isinstance(arguments, Mapping):
        parts += [(k, v, span) for k, v in arguments.items()]
    for factory in (item.name, *_held_files(item.arguments)):
        parts += [(f"code/{name}", digest, span) for name, digest, span in _files(factory, span)]
    return [*parts, ("seed", n.seed, n.span), ("reset", sorted(n.reset), n.span)]


def _numbered(e: ir.Call) -> Iterator[tuple[int, ir.Expr]]:
    """The arguments of a call with their numbers in keys.

    >>> small, big = ir.Const(1), ir.Const(2)
    >>> [(i, a.value) for i, a in _numbered(ir.Call("kd", [small, big]))]  # keys are older than the order of calls
    [(1, 1), (0, 2)]
    """
    spec = FUNCTIONS.get(e.function)
    if spec is None or not spec.keyed:
        yield from enumerate(e.args)
        return
    signals = [p.name for p in spec.params if p.type == "signal"]
    yield from ((spec.keyed.index(name), a) for name, a in zip(signals, e.args, strict=True))


def architecture(n: Network) -> list[object]:
    """An architecture's content: a user's own counts by its source, not by its path."""
    name = _content(_BUILT, n.architecture.name)
    arguments = {k: _held(v) for k, v in n.architecture.arguments.items() if v is not None}
    if n.code is not None:
        name = f"{n.code}:{name.rpartition(':')[2]}"
    if n.architecture.name == HEADED:  # a part may be a user's own, which counts by `code` too
        if "logit_scale" in arguments:
            arguments["pace"] = arguments.pop("logit_scale")  # keys are older than the word
        arguments["base"] = _content(_BUILT, str(arguments["base"]).rpartition(":")[2])
    for k in HELD.get(n.architecture.name, ()):
        arguments[k] = [re.sub(r".*[/\\](?=[^/\\]*\.py:)", "", arguments[k][0]), arguments[k][1]]
    return [name, arguments]


def _held(value: Any) -> Any:
    """An argument of an architecture, in which architectures are held: lists of a name and settings."""
    if not isinstance(value, list | tuple):
        return value
    if len(value) == 2 and isinstance(value[0], str) and isinstance(value[1], Mapping):
        return [_content(_BUILT, value[0]), value[1]]
    return [_held(v) for v in value]


def _content(table: Mapping[str, Spec], name: str) -> str:
    """A name of a table as keys hold it; a user's own counts by its source."""
    return table[name].content if name in table else name


def _item(item: Item, table: Mapping[str, Spec]) -> list[object]:
    """A choice of a table, as keys hold it."""
    return [
        _content(table, item.name),
        {k: number_text(v) if isinstance(v, float) else v for k, v in sorted(item.arguments.items())},
    ]


def _view(data: Data, view: View) -> dict[str, object]:
    content: dict[str, object] = {"content": data.fingerprint, "split": view.split}
    if view.classes is not None:
        content["classes"] = view.classes.ids
    if data.augment:
        content["augment"] = [_item(t, TRANSFORMS) for t in data.augment]
    if data.normalize is not None:
        content["normalize"] = data.normalize
    if data.split is not None:
        content["cut"] = _item(data.split, SPLITS)
    for name, default in (("fraction", 1.0), ("limit", None), ("seed", 0)):
        if getattr(data, name) != default:
            content[name] = getattr(data, name)
    if view.classes is not None and data.limit is not None:
        content["limited"] = "all classes"  # a version of the rule: it was of the classes of the view
    return content


def _recipe(path: str, recipe: Recipe) -> Iterator[Component]:
    """Settings that differ from the defaults: a setting that a later version adds changes no old key."""
    for name in Recipe.__slots__:
        value = getattr(recipe, name)
        if name in _IRRELEVANT or value == getattr(DEFAULT_RECIPE, name, None):
            continue
        if name == "norm" and recipe.shards == 1:
            continue  # one process has the whole batch
        span = recipe.spans.get(name, recipe.span)
        if isinstance(value, Item):
            yield Component(f"{path}/{name}", _content(_RECIPES[name], value.name), span=span)
            for argument, v in sorted(value.arguments.items()):
                yield Component(f"{path}/{name}/{argument}", number_text(v), span=span)
        else:
            yield Component(f"{path}/{name}", number_text(value) + _REVISED.get(name, ""), span=span)
