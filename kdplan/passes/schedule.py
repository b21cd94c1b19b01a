"""Keys and what the store holds, to an action and its reasons for every phase."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

from kdplan.diagnostics.report import error, suggestion
from kdplan.ir.dag import CODE_IN, Action, Component, PhaseKey, Planned, Reason
from kdplan.ir.lengths import longer
from kdplan.passes.dag import order

if TYPE_CHECKING:
    import networkx as nx  # imported where a plan is compiled

_BRACKETS = re.compile(r"\[([^\]]*)\]")


@dataclass
class Facts:
    """What the planner must know of a store, as functions of a key or of a phase's name."""

    has: Callable[[str], bool]
    resume_step: Callable[[str], int | None]
    problem: Callable[[str], str | None]
    """What is wrong with an artifact that is there, in words."""
    previous: Callable[[str], PhaseKey | None]
    """The key that a phase of this name had when this plan was last run."""
    can_extend: Callable[[str], bool] = lambda key: False
    """Whether the artifact under a key holds the state that a longer phase could go on from."""


def nothing_known() -> Facts:
    """An empty store."""
    return Facts(lambda k: False, lambda k: None, lambda k: None, lambda n: None)


def schedule(
    dag: nx.DiGraph[str], keys: Mapping[str, PhaseKey], facts: Facts, wanted: set[str] | None = None
) -> dict[str, Planned]:
    """Every phase with what will be done about it, each after what it reads.

    Parameters
    ----------
    wanted : set of str, optional
        Phases to run; others are `blocked` with reason `unselected` unless a wanted one needs them.
    """
    import networkx as nx

    needed = set(keys) if wanted is None else wanted | {a for w in wanted for a in nx.ancestors(dag, w)}
    planned: dict[str, Planned] = {}
    first: dict[str, str] = {}
    for name in order(dag):
        key = keys[name]
        one = _planned(name, key, facts)
        if name not in needed and one.action != "cached":
            one = Planned(name, key.key, "blocked", [Reason("unselected", "not selected")], [])
        one.needs = sorted(dag.predecessors(name))
        planned[name] = one
        same = first.setdefault(key.key, name)
        if same != name:
            planned[name].same_as = same
    return planned


def _planned(name: str, key: PhaseKey, facts: Facts) -> Planned:
    """What will be done about one phase, whatever becomes of the others."""

    def act(
        action: Action, reason: Reason, *more: Reason, step: int | None = None, extends: str | None = None
    ) -> Planned:
        return Planned(name, key.key, action, [reason, *more], [], resume_step=step, extends=extends)

    if facts.has(key.key):
        problem = facts.problem(key.key)
        if problem is None:
            return act("cached", Reason("complete", "its artifact is in the store"))
        return act("rerun", Reason("corrupt", problem))
    step = facts.resume_step(key.key)
    if step is not None:
        return act("resume", Reason("interrupted", f"it was stopped after step {step}"), step=step)
    before = facts.previous(name)
    if before is None:
        return act("run", Reason("new", "it was not trained before"))
    if before.key == key.key:
        return act("run", Reason("missing", "its artifact is not in the store"))
    reasons = changes(before, key)
    lengths = longer(before, key)
    if lengths is not None and facts.can_extend(before.key):
        text = f"epochs changed from {lengths[0]} to {lengths[1]}"
        longer_one = Reason("longer", text, span=reasons[0].span, at=reasons[0].at)
        return act("extend", longer_one, extends=before.key)
    return act("rerun" if facts.has(before.key) else "run", *reasons)


def changes(before: PhaseKey, now: PhaseKey) -> list[Reason]:
    """The differences between two versions of a phase's content: its own first, then what follows from others."""
    old = {c.path: c for c in before.components}
    new = {c.path: c for c in now.components}
    own: list[Reason] = []
    upstream: list[Reason] = []
    made_of: list[Reason] = []
    read_now = {k: name for name, k in now.reads.items()}
    for path in sorted({*old, *new}):
        a, b = old.get(path), new.get(path)
        if a is not None and b is not None and a.value == b.value:
            continue
        maker = _maker(b, read_now) if b else None
        if maker is not None and a is not None and _same_but_key(a.value, b.value if b else "", before, now):
            upstream.append(Reason("upstream", f"phase `{maker}` makes other weights", False))
            continue
        details = _detailed(path, before, now)
        if details:
            made_of += details
        else:
            own.append(_reason(path, a, b))
    unique = list({r.text: r for r in upstream}.values())
    return _one_a_location(own) + made_of + unique or [Reason("changed", "its content changed")]


def _detailed(path: str, before: PhaseKey, now: PhaseKey) -> list[Reason]:
    """What differs in the network or the data whose hash stands at `path`; nothing where that was not stored."""
    old, new = ({c.path: c for c in key.details if c.path.startswith(f"{path}/")} for key in (before, now))
    if not old or not new:
        return []
    differ = [p for p in dict.fromkeys([*new, *old]) if p not in old or p not in new or old[p].value != new[p].value]
    if not all(any(f"/{CODE_IN}" in p for p in details) for details in (old, new)):  # older records have no files
        differ = [p for p in differ if f"/{CODE_IN}" not in p]
    elif any(f"/{CODE_IN}" in p for p in differ):
        differ = [p for p in differ if not p.endswith("/code")]
    return [_reason(p, old.get(p), new.get(p), hashed=False) for p in differ]


def _maker(component: Component, read: Mapping[str, str]) -> str | None:
    return next((name for key, name in read.items() if key in component.value), None)


def _same_but_key(a: str, b: str, before: PhaseKey, now: PhaseKey) -> bool:
    """Whether two values differ only in the keys of the phases that they read."""
    for key in before.reads.values():
        a = a.replace(key, "…")
    for key in now.reads.values():
        b = b.replace(key, "…")
    return a == b


def _reason(path: str, a: Component | None, b: Component | None, hashed: bool = True) -> Reason:
    here = b or a
    assert here is not None
    span = b.span if b else None
    verb = "is new" if a is None else "is gone" if b is None else "changed"
    # hashes mean nothing to a reader
    readable = not (hashed and path.startswith(("moves", "data", "code"))) and not path.endswith(("/content", "/code"))
    readable &= f"/{CODE_IN}" not in path
    shown = [c.value if c is not None and readable and len(c.value) <= 60 else None for c in (a, b)]
    text = f"{_words(path)} {verb}"
    return Reason("changed", text, span=span, at=str(span) if span else here.at, before=shown[0], after=shown[1])


_PARTS = {"moves": "what it starts from", "data": "the data", "code": "the code of", "measure": "the measure inside"}
"""A component → what a reader calls it; `moves` is the stored name."""
_DETAILS = {"moves": "the network's", "data": "the data's"}


def _words(path: str) -> str:
    """A component's path for a reader.

    >>> _words("recipe/0/optimizer/lr"), _words("loss/1/0"), _words("moves/0/width")
    ('the recipe optimizer lr', 'the loss', "the network's width")
    """
    names = [part for part in path.split("/") if not part.isdigit()]
    table = _DETAILS if names[0] in _DETAILS and names[1:] not in ([], ["part"]) else _PARTS
    head = table.get(names[0], f"the {names[0]}")
    return " ".join([head, *names[1:]])


def _one_a_location(reasons: list[Reason]) -> list[Reason]:
    """One reason for each location; where a number enters a loss in several ways, the one that shows it as written."""
    first: dict[str, Reason] = {}
    for reason in reasons:
        at = reason.at or f"{reason.text} {len(first)}"
        as_written = reason.span is not None and reason.after == reason.span.text
        if at not in first or as_written:
            first[at] = reason
    return list(first.values())


def select(
    names: Iterable[str], dag: nx.DiGraph[str], only: Iterable[str] = (), until: Iterable[str] = ()
) -> set[str] | None:
    """The phases that `--only` and `--until` mean: all that have the coordinates of a name, in whatever order.

    Raises
    ------
    PlanError
        KD0310 for a name that no phase has.
    """
    known = list(names)
    chosen: set[str] = set()
    asked = [*only, *until]
    for name in asked:
        matching = [n for n in known if name in _called(n) or _has(n, name)]
        if not matching:
            raise error("KD0310", None, name=name, help=suggestion(name, called(known)))
        chosen.update(matching)
    return chosen if asked else None


def called(names: Iterable[str]) -> list[str]:
    """All that `select` takes for some phases, the shortest forms first.

    >>> called(["kd[seed=0]", "kd[seed=1]"])
    ['kd', 'kd[seed=0]', 'kd[seed=1]']
    """
    return sorted(dict.fromkeys(form for name in names for form in _called(name)), key=len)


def _called(name: str) -> tuple[str, ...]:
    return name, name.partition("[")[0], name.rpartition("@")[2], _without_coordinates(name)


def _has(name: str, asked: str) -> bool:
    """Whether a phase is one that is asked for by some of its coordinates.

    >>> _has("at[seed=0, beta=50]", "at[beta = 50, seed=0]"), _has("big[seed=0]@train", "train[seed=0]")
    (True, True)
    >>> _has("at[seed=0, beta=50]", "at[seed=1]"), _has("at[seed=0]", "big[seed=0]")
    (False, False)
    """
    base, coordinates = _split(name)
    asked_base, wanted = _split(asked)
    return bool(wanted) and asked_base in (base, base.rpartition("@")[2]) and wanted.items() <= coordinates.items()


def _split(name: str) -> tuple[str, dict[str, str]]:
    """`big[seed = 0]@train` -> `big@train` and its coordinates."""
    pairs = [part.partition("=") for inside in _BRACKETS.findall(name) for part in inside.split(",")]
    return _BRACKETS.sub("", name).strip(), {k.strip(): v.strip() for k, _, v in pairs}


def _without_coordinates(name: str) -> str:
    """`big[seed=0]@train` -> `big@train`."""
    network, at, phase = name.partition("@")
    return network.partition("[")[0] + at + phase.partition("[")[0]
