"""The boxes and arrows of a plan's drawing, whatever its format."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from kdplan.ir.dag import Action, Planned
from kdplan.ir.expr import Tap, Version, walk
from kdplan.ir.plan import Item, Phase, Plan
from kdplan.view import words

Kind = Literal["data", "file", "teacher", "student", "network", "measure", "export"]


@dataclass(slots=True)
class Box:
    """One node of the drawing: a phase, data, a file, a measure, an export, or a folded family of them."""

    name: str
    kind: Kind
    lines: list[str] = field(default_factory=list)
    actions: list[Action] = field(default_factory=list)
    """The actions of its phases; empty where it is no phase."""
    family: str = ""
    members: int = 1
    """How many nodes of a family were folded into it."""
    frame: str = ""
    """The construct of its phase, with its coordinates."""


@dataclass(slots=True)
class Drawing:
    """Boxes by name; arrows (from, to) with the lines of their labels."""

    boxes: dict[str, Box] = field(default_factory=dict)
    arrows: dict[tuple[str, str], list[str]] = field(default_factory=dict)

    def arrow(self, source: str, target: str, text: str) -> None:
        """Add a line to the label of the arrow between two boxes; each line once."""
        texts = self.arrows.setdefault((source, target), [])
        if text not in texts:
            texts.append(text)


def plan_drawing(plan: Plan, planned: Mapping[str, Planned], every: bool = False) -> Drawing:
    """Return the boxes and arrows of a plan.

    Parameters
    ----------
    plan, planned
        The core plan, and its phases with actions; phases that `planned` lacks are drawn without an action.
    every
        Whether each member of a large family has a box; otherwise the family has one.
    """
    drawn = Drawing()
    for name, phase in plan.phases.items():
        drawn.boxes[name] = _phase_box(plan, phase, planned.get(name))
    for name, phase in plan.phases.items():
        _phase_arrows(drawn, plan, phase, planned.get(name))
    for name, measure in plan.measures.items():
        box = f"measure {name}"
        metrics = ", ".join(words.item(m) for m in measure.metrics)
        drawn.boxes[box] = Box(name, "measure", [metrics, f"{len(measure.rows)} rows"], family=box)
        for view in measure.every_view():
            _data_arrow(drawn, plan, view.data, box, words.view(view, data=False))
        for row in measure.rows:
            for version in row.target.versions:
                _version_arrows(drawn, plan, version, box)
    for name, export in plan.exports.items():
        box = f"export {name}"
        drawn.boxes[box] = Box(name, "export", ["checked, deployable"], family=box)
        for version in export.target.versions:
            _version_arrows(drawn, plan, version, box)
    drawn = without_common_data(merge_equal(drawn, planned))
    return drawn if every else fold(drawn)


def _phase_box(plan: Plan, phase: Phase, planned: Planned | None) -> Box:
    networks = [plan.networks[m.base.network] for m in phase.trainees if m.base.network in plan.networks]
    roles = {n.role for n in networks}
    kind: Kind = roles.pop() if len(roles) == 1 else "network"
    trains = ", ".join(f"{n.name} ({architecture_name(n.architecture)})" for n in networks[:3])
    lines = [f"trains {trains}" + (f" and {len(networks) - 3} more" if len(networks) > 3 else "")]
    lines += [words.recipe(r) for r in phase.recipes[:2]]
    if planned is not None:
        if planned.cost is not None:
            cost = planned.cost
            time = f", {words.seconds(cost.seconds)}" if cost.seconds is not None else ""
            lines.append(f"{words.count(cost.parameters)} parameters, {words.count(cost.flops_step)}FLOP a step{time}")
        if planned.action == "resume":
            lines.append(f"from step {planned.resume_step}")
    actions = [planned.action] if planned is not None else []
    return Box(phase.name, kind, lines, actions, words.family(phase.name), frame=phase.construct or "")


def architecture_name(architecture: Item) -> str:
    """Return the name of an architecture, and that of the base network in its arguments.

    >>> architecture_name(Item("kdplan.nn.adapted:adapted", {"base": ["digits_net", {}]}))
    'adapted digits_net'
    """
    name = architecture.name.removeprefix("kdplan.")
    if name != architecture.name:
        name = name.rpartition(":")[2]
    base = architecture.arguments.get("base")
    inner = base[0] if isinstance(base, list) else base
    return f"{name} {inner}" if inner else name


def _phase_arrows(drawn: Drawing, plan: Plan, phase: Phase, planned: Planned | None) -> None:
    for stream in phase.streams:
        _data_arrow(drawn, plan, stream.data, phase.name, words.view(stream, data=False))
    for validation in phase.validations:
        _data_arrow(drawn, plan, validation.view.data, phase.name, words.view(validation.view, data=False))
    versions = [m.base for m in phase.trainees]
    for expr in [phase.loss, *phase.logged.values()]:
        for node in walk(expr):
            if isinstance(node, Tap) and isinstance(node.of, Version):
                versions.append(node.of)
    for version in versions:
        _version_arrows(drawn, plan, version, phase.name)
    for need in planned.needs if planned is not None else ():
        if need in drawn.boxes and (need, phase.name) not in drawn.arrows:
            drawn.arrow(need, phase.name, "weights")


def _data_arrow(drawn: Drawing, plan: Plan, data: str, target: str, text: str) -> None:
    box = f"data {data}"
    if box not in drawn.boxes:
        known = plan.data.get(data)
        lines = []
        if known is not None:
            lines.append(words.item(known.source))
            lines += [f"{n:,} {split}" for split, n in known.sizes.items()]
            if known.fraction < 1:
                lines.append(f"{known.fraction:.3g} of train")
            if known.limit is not None:
                lines.append(f"at most {known.limit:,} of train")
            if known.augment:
                lines.append(", ".join(a.name for a in known.augment))
        drawn.boxes[box] = Box(data, "data", lines, family=box)
    drawn.arrow(box, target, text)


def _version_arrows(drawn: Drawing, plan: Plan, version: Version, target: str) -> None:
    """Add arrows from the phase or file of `version`; for a network that starts from others' weights, from theirs."""
    pending, seen = [(version, words.version(version))], set()
    while pending:
        at, text = pending.pop()
        if str(at) in seen:
            continue
        seen.add(str(at))
        if at.phase is not None:
            if at.phase in drawn.boxes:
                drawn.arrow(at.phase, target, text)
            continue
        network = plan.networks.get(at.network)
        if network is None:
            continue
        file = network.origin.file()
        if file is not None:
            box = f"file {file}"
            drawn.boxes.setdefault(box, Box(file, "file", ["weights"], family=box))
            drawn.arrow(box, target, at.network)
        pending += [(v, words.version(v)) for v in network.origin.parents()]


def merge_equal(drawn: Drawing, planned: Mapping[str, Planned]) -> Drawing:
    """Return the drawing with one box for equal phases: the first, with the others' names and arrows."""
    first_of = {p.name: p.same_as for p in planned.values() if p.same_as is not None and p.same_as in drawn.boxes}
    merged = Drawing({name: box for name, box in drawn.boxes.items() if name not in first_of})
    for first in dict.fromkeys(first_of.values()):
        others = [name for name, target in first_of.items() if target == first]
        more = f" and {len(others) - 2} more" if len(others) > 2 else ""
        merged.boxes[first].lines.append(f"also {', '.join(others[:2])}{more}")
    for (source, target), texts in drawn.arrows.items():
        if target in first_of:
            continue  # an equal phase reads what the first one reads
        for text in texts:
            merged.arrow(first_of.get(source, source), target, text)
    return merged


def without_common_data(drawn: Drawing, limit: int = 8) -> Drawing:
    """Return the drawing with fewer arrows from data that more than `limit` boxes read.

    Boxes that read nothing else keep their arrow; the others have a line instead.
    """
    readers: dict[str, list[str]] = {}
    for source, target in drawn.arrows:
        readers.setdefault(source, []).append(target)
    reduced = Drawing(drawn.boxes)
    fed = {t for s, t in drawn.arrows if drawn.boxes[s].kind != "data"}
    for (source, target), texts in drawn.arrows.items():
        box = drawn.boxes[source]
        if box.kind == "data" and len(readers[source]) > limit and target in fed:
            reduced.boxes[target].lines.append(f"on {box.name}.{', '.join(texts)}")
        else:
            reduced.arrows[source, target] = texts
    return reduced


def fold(drawn: Drawing, limit: int = words.FOLD) -> Drawing:
    """Return the drawing with one box for each family of more than `limit` members."""
    groups: dict[str, list[str]] = {}
    for name, box in drawn.boxes.items():
        groups.setdefault(box.family, []).append(name)
    into = {n: f if len(ns) > limit else n for f, ns in groups.items() for n in ns}
    folded = Drawing()
    for name, box in drawn.boxes.items():
        target = into[name]
        if target == name:
            folded.boxes[name] = box
        elif target not in folded.boxes:
            folded.boxes[target] = _folded(target, [drawn.boxes[n] for n in groups[target]])
    for (source, target), texts in drawn.arrows.items():
        pair = (into[source], into[target])
        if pair[0] != pair[1]:
            for text in texts:
                folded.arrow(*pair, text)
        elif pair[0] != source:
            note = "each reads one before it"
            if note not in folded.boxes[pair[0]].lines:
                folded.boxes[pair[0]].lines.append(note)
    return folded


def _folded(name: str, boxes: list[Box]) -> Box:
    first = boxes[0]
    common = [line for line in first.lines if all(line in b.lines for b in boxes)]
    return Box(name, first.kind, common, [a for b in boxes for a in b.actions], name, len(boxes))


def arrow_lines(texts: list[str], limit: int = 3) -> list[str]:
    """Return the lines of an arrow's label, with one line for the members of a family.

    >>> arrow_lines(["big@train"]), arrow_lines([f"s[{i}]@t" for i in range(20)])
    (['big@train'], ['s[*]@t (20)'])
    """
    lines = []
    for members in words.families(texts).values():
        whole = re.sub(r"\[[^]]*\]", "[*]", members[0])
        lines.append(members[0] if len(members) == 1 else f"{whole} ({len(members)})")
    return [*lines[:limit], f"and {len(lines) - limit} more"] if len(lines) > limit else lines
