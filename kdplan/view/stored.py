"""What `kdplan store` prints: entries, sizes, damage, and what is removed."""

from __future__ import annotations

import os
import time
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdplan.diagnostics.report import counted
from kdplan.runtime.store import Store
from kdplan.runtime.store.garbage import Roots
from kdplan.runtime.store.inventory import Entry, measured, name_of, state_of
from kdplan.runtime.store.litter import PARTS
from kdplan.runtime.store.verify import Verified
from kdplan.view import words
from kdplan.view.status import STYLES

KINDS_OF_ENTRIES = {"phases": "phase", "work": "attempt", "values": "values"}
"""A folder of the store -> what its entries are called."""
SHOWN = 40
"""So many entries are printed of a longer list, unless all are wanted."""


@dataclass(frozen=True, slots=True)
class Line:
    """An entry with all that is shown of it; a field of `--json`, as all of these."""

    kind: str
    key: str
    name: str
    state: str
    bytes: int
    age: float
    """Seconds since one of its files was written."""
    step: int | None
    """The step from which an attempt resumes."""
    plans: list[str]
    """The plan files that read it."""
    why: str = ""


def lines(store: Store, entries: Iterable[Entry], stays: Roots) -> list[Line]:
    """Return what is shown of entries."""
    return [_line(store, one, stays) for one in entries]


def _line(store: Store, one: Entry, stays: Roots) -> Line:
    name = stays.names.get(one.key) or name_of(store, one.kind, one.key)
    step = store.resume_step(one.key) if one.kind == "work" else None
    age = max(0.0, time.time() - one.modified) if one.modified else 0.0
    state = state_of(store, one.kind, one.key)
    plans = stays.plans.get(one.key, [])
    why = stays.leased.get(one.key) or ("kept" if one.key in stays.kept else "")
    return Line(KINDS_OF_ENTRIES[one.kind], one.key, name, state, one.bytes, round(age, 1), step, plans, why)


def print_lines(shown: list[Line], title: str, number: int, console: Console | None = None) -> None:
    """Print entries as a table, and how many more there are than these."""
    out = console or words.console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("phase", "what", "state", "size", "written", "key", "read by"):
        numeric = name in ("size", "written")
        whole = numeric or name == "key"
        table.add_column(name, justify="right" if numeric else "left", no_wrap=whole, overflow="fold")
    for one in shown:
        state = Text(one.state + (f" at step {one.step}" if one.step is not None else ""))
        state.stylize(STYLES.get(one.state, "red"))
        readers = ", ".join(map(short, one.plans)) or one.why
        age = f"{words.seconds(one.age)} ago"
        table.add_row(Text(one.name), one.kind, state, words.size(one.bytes), age, one.key[:12], Text(readers))
    out.print(title, highlight=False)
    if shown:
        out.print(table, highlight=False)
    if len(shown) < number:
        out.print(f"and {number - len(shown)} smaller ones; `--all` lists them", highlight=False)


def short(path: str) -> str:
    """Return a plan's path as a reader of this folder writes it.

    >>> short("/somewhere/else/plan.kd")
    '/somewhere/else/plan.kd'
    """
    return os.path.relpath(path) if Path(path).is_relative_to(Path.cwd()) else path


# ---- sizes


def sizes(store: Store, entries: Iterable[Entry], stays: Roots) -> dict[str, Any]:
    """Return bytes by kind of content, and of each plan: all that it reads, and what no other plan reads."""
    some = list(entries)
    kinds = {part: measured(store.root / part)[0] for part in PARTS}
    total = measured(store.root)[0]
    kinds["other"] = total - sum(kinds.values())
    plans: dict[str, dict[str, Any]] = {}
    unread = 0
    for one in some:
        readers = stays.plans.get(one.key, [])
        for plan in readers:
            of = plans.setdefault(plan, {"plan": plan, "bytes": 0, "alone": 0, "there": Path(plan).is_file()})
            of["bytes"] += one.bytes
            of["alone"] += one.bytes if len(readers) == 1 else 0
        unread += 0 if readers or one.kind == "values" else one.bytes
    ordered = sorted(plans.values(), key=lambda p: (-p["bytes"], p["plan"]))
    return {"store": str(store.root), "bytes": total, "kinds": kinds, "plans": ordered, "read_by_no_plan": unread}


def print_sizes(known: Mapping[str, Any], console: Console | None = None) -> None:
    """Print `sizes`."""
    out = console or words.console()
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("of", overflow="fold")
    for kind, size in known["kinds"].items():
        if size:
            table.add_row(words.size(size), kind)
    table.add_row(words.size(known["bytes"]), f"in all, in {known['store']}")
    out.print(table)
    of_plans = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for name in ("size", "of it alone", "plan"):
        left = name == "plan"
        of_plans.add_column(name, justify="left" if left else "right", no_wrap=not left, overflow="fold")
    for plan in known["plans"]:
        there = "" if plan["there"] else " (the file is gone)"
        of_plans.add_row(words.size(plan["bytes"]), words.size(plan["alone"]), Text(short(plan["plan"]) + there))
    if known["read_by_no_plan"]:
        of_plans.add_row(words.size(known["read_by_no_plan"]), "", "of no remembered plan: `kdplan store gc` lists it")
    out.print()
    out.print(of_plans)


# ---- damage


def damage_to_json(store: Store, verified: Verified) -> dict[str, Any]:
    """Return what was verified as a JSON object."""
    damaged = [asdict(one) for one in verified.damaged]
    return {"store": str(store.root), "files": verified.files, "bytes": verified.bytes, "damaged": damaged}


def print_damage(store: Store, verified: Verified, stays: Roots | None, console: Console | None = None) -> None:
    """Print what is damaged, what a run will do about it, and which plans read it."""
    out = console or words.console()
    for one in verified.damaged:
        what = {"phases": "phase"}.get(one.kind, one.kind)
        name = f"{one.name} ({one.key[:12]})" if one.name else one.key[:12]
        out.print(Text.assemble((f"damaged {what} ", "red"), name), soft_wrap=True, highlight=False)
        plans = stays.plans.get(one.key, []) if stays is not None else []
        readers = f" Read by {', '.join(map(short, plans))}." if plans else ""
        out.print(Text(f"  {one.problem}\n  {one.then}{readers}"), soft_wrap=True, highlight=False)
    number = len(verified.damaged)
    state = "all as written" if not number else f"{number} damaged"
    out.print(f"{store.root}: {counted(verified.files, 'file')}, {words.size(verified.bytes)}: {state}")
