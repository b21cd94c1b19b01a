"""`kdplan plan`: every phase with its action, the reason for it, and its cost."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from rich.cells import cell_len
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

from kdplan.ir.dag import SYMBOLS, Cost, Planned, Reason
from kdplan.view import words

_WORDS = ("", "phase", "because", "needs")
_NUMBERS = ("parameters", "FLOPs", "time", "memory", "disk")
LONG = 200
"""Lines from which on a table without colours is written without rich."""


def plan_table(
    planned: Mapping[str, Planned], *, title: str = "", every: bool = False, wide: bool = True
) -> RenderableType:
    """Return the table that `kdplan plan` prints, with totals below it.

    Parameters
    ----------
    planned
        Phases in the order in which a run would train them.
    title
        The heading: the plan's file.
    every
        Whether each member of a large family has a line; otherwise the family has one.
    wide
        Whether there are columns for memory and disk.
    """
    return Group(_rich_table(_rows(planned, every, wide), title), *_below(planned))


def _rows(planned: Mapping[str, Planned], every: bool, wide: bool) -> list[list[Text | str]]:
    """The cells of the header and of each line."""
    header: list[Text | str] = [*_WORDS, *_NUMBERS[: None if wide else 3]]
    return [header, *(_row(name, members)[: len(header)] for name, members in _folded(planned, every).items())]


def _rich_table(rows: Sequence[Sequence[Text | str]], title: str) -> Table:
    table = Table(title=title or None, title_justify="left", title_style="bold", box=None, padding=(0, 2, 0, 0))
    table.pad_edge = False
    header, *lines = rows
    for number, name in enumerate(header):
        if number < len(_WORDS):
            style = "bright_black" if name == "needs" else None
            table.add_column(name, style=style, overflow="fold", no_wrap=number == 0)
        else:
            table.add_column(name, justify="right", no_wrap=True)
    for line in lines:
        table.add_row(*line)
    return table


def _below(planned: Mapping[str, Planned]) -> list[Text]:
    return [Text(), *_notes(planned.values()), *_totals(planned.values())]


def _long_table(rows: Sequence[Sequence[Text | str]], title: str, width: int) -> str | None:
    """The same as plain text, where every line fits: rich takes milliseconds a line. None where one does not fit."""
    cells = [[c.plain if isinstance(c, Text) else c for c in row] for row in rows]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    if sum(widths) + 2 * (len(widths) - 1) > width or any("\n" in c for row in cells for c in row):
        return None

    def line(row: Sequence[str]) -> str:
        room = [" " * (w - cell_len(c)) for w, c in zip(widths, row, strict=True)]
        left = [c + r for c, r in zip(row[: len(_WORDS)], room, strict=False)]
        return "  ".join(left + [r + c for c, r in zip(row[len(_WORDS) :], room[len(_WORDS) :], strict=True)])

    lines = [line(row) for row in cells]
    return "\n".join([*([title.ljust(len(lines[0]))] if title else []), *lines])


def print_plan(
    planned: Mapping[str, Planned], *, title: str = "", every: bool = False, console: Console | None = None
) -> None:
    """Print `plan_table`; a narrow console has fewer columns."""
    out = console or words.console()
    rows = _rows(planned, every, wide=out.width >= 120)
    text = _long_table(rows, title, out.width) if len(rows) > LONG and out.color_system is None else None
    if text is None:
        out.print(_rich_table(rows, title))
    else:
        out.out(text, highlight=False)
    out.print(Group(*_below(planned)))


def to_json(planned: Mapping[str, Planned], *, file: str = "", weights: Sequence[str] = ()) -> dict[str, Any]:
    """Return the plan as the JSON object of `kdplan plan --json`; `weights` has a line for each weights file.

    >>> plan = {"kd": Planned("kd", "k1", "run", [Reason("new", "never run")], ["big.train"])}
    >>> to_json(plan)["phases"][0]["action"], to_json(plan)["phases"][0]["reasons"][0]["kind"]
    ('run', 'new')
    """
    phases = []
    for p in planned.values():
        phase: dict[str, Any] = {
            "name": p.name,
            "action": p.action,
            "reasons": [_reason_json(r) for r in p.reasons],
            "key": p.key,
            "needs": list(p.needs),
            "cost": asdict(p.cost) if p.cost is not None else None,
        }
        if p.resume_step is not None:
            phase["resume_step"] = p.resume_step
        if p.same_as is not None:
            phase["same_as"] = p.same_as
        phases.append(phase)
    totals = {
        "to_do": dict(words.total(p.cost for p in to_train(planned.values()))),
        "saved": dict(words.total(p.cost for p in saved(planned.values()))),
    }
    return {"file": file, "phases": phases, "totals": totals, "weights": [*weights]}


def _reason_json(reason: Reason) -> dict[str, str | bool | None]:
    at = reason.at or (str(reason.span) if reason.span is not None else "")
    return {"kind": reason.kind, "text": reason.text, "root": reason.root, "at": at,
            "before": reason.before, "after": reason.after}  # fmt: skip


def to_train(planned: Iterable[Planned]) -> list[Planned]:
    """Return the phases that a run would train; of equal phases only the first."""
    return [p for p in planned if p.action not in ("cached", "blocked") and p.same_as is None]


def saved(planned: Iterable[Planned]) -> list[Planned]:
    """Return the phases that need no training: cached ones, and those that are equal to another."""
    return [p for p in planned if p.action == "cached" or p.same_as is not None]


def _folded(planned: Mapping[str, Planned], every: bool) -> dict[str, list[Planned]]:
    groups = words.families(planned)
    if every:
        return {name: [p] for name, p in planned.items()}
    rows: dict[str, list[Planned]] = {}
    for name, p in planned.items():
        family = words.family(name)
        large = len(groups[family]) > words.FOLD
        rows.setdefault(f"{family}[…]" if large else name, []).append(p)
    return rows


def _row(name: str, members: list[Planned]) -> list[Text | str]:
    first = members[0]
    if len(members) == 1:
        style = words.ACTION_STYLES[first.action]
        symbol = Text(SYMBOLS[first.action], style=f"bold {style}")
        return [symbol, Text(name, style=style), main_reason(first), Text(needed(first)), *_cost(first.cost)]
    symbols = Text("/").join(
        Text(SYMBOLS[a], style=f"bold {words.ACTION_STYLES[a]}") for a in SYMBOLS if any(m.action == a for m in members)
    )
    texts = list(dict.fromkeys(main_reason(m).plain for m in members))
    why = f"{words.tally(m.action for m in members)}; {texts[0]}" + (f"; {len(texts) - 1} more" if texts[1:] else "")
    read = list(dict.fromkeys(words.family(n) for m in members for n in m.needs))
    shown = Text(f"{name} ({len(members)})")  # as a plain string, rich would read indices as its markup
    return [symbols, shown, Text(why), Text(", ".join(read)), *_cost(_sum([m.cost for m in members]))]


def main_reason(planned: Planned) -> Text:
    """Return the first root cause in one line, with its location."""
    if planned.same_as is not None:
        return Text(f"equal to {planned.same_as}")
    roots = [r for r in planned.reasons if r.root] or planned.reasons
    if not roots:
        return Text("")
    first = roots[0]
    text = Text(first.text)
    if first.before is not None and first.after is not None:
        text.append(f": {_clip(first.before)} → {_clip(first.after)}")
    if first.at:
        text.append(f"  {first.at}", style="bright_black")
    if len(roots) > 1:
        text.append(f"  and {len(roots) - 1} more", style="bright_black")
    return text


def needed(planned: Planned) -> str:
    """Return the names of the phases that it reads; of more than three only the first and their number."""
    if len(planned.needs) <= 3:
        return ", ".join(planned.needs)
    return f"{planned.needs[0]} and {len(planned.needs) - 1} more"


def _clip(text: str, limit: int = 40) -> str:
    return text if len(text) <= limit else text[: limit - 1] + "…"


def _cost(cost: Cost | None) -> list[str]:
    if cost is None:
        return [""] * 5
    memory = words.size(cost.process_bytes)
    flops = words.count(cost.flops_step * cost.steps)
    return [words.count(cost.parameters), flops, words.seconds(cost.seconds), memory, words.size(cost.disk_bytes)]


def _sum(costs: list[Cost | None]) -> Cost | None:
    """The cost of a family: sums, but parameters and memory of the largest member."""
    known = [c for c in costs if c is not None]
    if not known:
        return None
    times = [c.seconds for c in known if c.seconds is not None]
    return Cost(
        max(c.parameters for c in known),
        max(c.trainable for c in known),
        sum(c.flops_step * c.steps for c in known),
        1,
        max(c.activation_bytes for c in known),
        max(c.weight_bytes for c in known),
        sum(c.disk_bytes for c in known),
        sum(times) if len(times) == len(known) else None,
        copy_bytes=max(c.copy_bytes for c in known),
    )


def _notes(planned: Iterable[Planned]) -> list[Text]:
    """Adapters and resizings of training, what an export keeps of them, and stored frozen values; each line once."""
    costs = [(p.name, p.cost) for p in planned if p.cost is not None]
    lines = _each_once("only while training:", [(n, line) for n, c in costs for line in c.bridges])
    lines += _each_once("kept when exported:", [(n, line) for n, c in costs for line in c.lasting])
    lines += _each_once("computed once and stored:", [(n, line) for n, c in costs for line in c.stored])
    return lines + _each_once("called whole, so not pruned:", [(n, line) for n, c in costs for line in c.whole])


def _each_once(title: str, lines_of: list[tuple[str, str]]) -> list[Text]:
    """The lines of phases (name, line), each with its first phase; lines that differ in indices only are one."""
    phases: dict[str, list[str]] = {}
    for name, line in lines_of:
        phases.setdefault(re.sub(r"(?<=\w)\[[^\]]*\]", "", line), []).append(name)
    if not phases:
        return []
    lines = [Text(title, style="bold")]
    for line, names in phases.items():
        more = f" and {len(names) - 1} more" if len(names) > 1 else ""
        lines.append(Text(f"  {line}").append(f"  {names[0]}{more}", style="bright_black"))
    return [*lines, Text()]


def _totals(planned: Iterable[Planned]) -> list[Text]:
    every = list(planned)
    shared = sum(p.same_as is not None for p in every)
    tally = words.tally(p.action for p in every if p.same_as is None)
    lines = [Text(tally + (f", {shared} equal to one of these" if shared else ""), style="bold")]
    for word, part in (("to do", to_train(every)), ("saved by the store", saved(every))):
        total = words.total(p.cost for p in part)
        if not part or not total["steps"]:
            continue
        time = f", about {words.seconds(total['seconds'])}" if total["seconds"] is not None else ""
        disk = f", {words.size(total['disk_bytes'] or 0)} on disk" if word == "to do" else ""
        flops = words.count(total["flops"] or 0)
        lines.append(Text(f"{word}: {words.count(total['steps'])} steps, {flops}FLOP{disk}{time}"))
    unknown = [p for p in to_train(every) if p.cost is not None and p.cost.seconds is None]
    if unknown:
        lines.append(Text("times are unknown until a phase has run on this machine", style="bright_black"))
    return lines
