"""`kdplan status`: the state of each phase, read from the store without a lock, also while another process writes."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from kdplan.ir.dag import Planned
from kdplan.ir.lengths import step_count
from kdplan.ir.plan import Plan
from kdplan.runtime.store import Store, StoreError, read_metrics
from kdplan.runtime.store.inventory import measured
from kdplan.runtime.store.work import RECORD_HEAD
from kdplan.view import words

STYLES = {"done": "green", "running": "cyan", "interrupted": "yellow", "corrupt": "red", "missing": "bright_black"}


@dataclass(slots=True)
class Status:
    """The state of one phase in the store.

    `state` is done, running, interrupted, missing, or corrupt: done, but files are missing or truncated.
    """

    name: str
    key: str
    state: str
    step: int | None = None
    """The step that a run would go on from, which `kdplan plan` shows too; of a phase that is done, its last one."""
    seen: int | None = None
    """The last step in the metrics: those after `step` would run again."""
    total: int | None = None
    metrics: dict[str, float] | None = None
    """The newest value of each logged number."""
    who: str = ""
    """The process that runs the phase; a field of `status --json`, as all of these."""
    bytes: int = 0
    age: float | None = None
    """Seconds since a file of the phase was written."""
    problem: str | None = None
    how: str = ""
    """Of a phase that is done: over how many processes it was trained, where its last bits depend on that."""
    stack: int | None = None
    """How many phases trained as one with this one, itself included; None for one that trained alone."""


def status(planned: Mapping[str, Planned], store: Store, plan: Plan | None = None) -> list[Status]:
    """Return the states of the phases, in the order of `planned`; the lengths of phases are those of the `plan`."""
    states = []
    for name, p in planned.items():
        state: str = store.state(p.key)
        row = Status(name, p.key, state, total=step_count(plan, plan.phases[name]) if plan is not None else None)
        row.bytes, written = measured(store.phase_folder(p.key) if state == "done" else store.work_folder(p.key))
        row.age = max(0.0, time.time() - written) if written else None
        if state == "done":
            row.problem = store.problem(p.key)
            row.state = "corrupt" if row.problem else "done"
            row.how = "" if row.problem else trained_how(store, p.key)
            records = read_metrics(store.phase_folder(p.key) / "metrics.jsonl")
            if plan is not None and row.problem is None and plan.phases[p.name].recipes[0].stack != "off":
                row.stack = _stack(store, p.key)
        else:
            records = store.logged(p.key)
            holder = store.holder(p.key)
            row.who = f"process {holder.pid} on {holder.host} since {holder.since}" if holder is not None else ""
        row.seen = next((r["step"] for r in reversed(records) if isinstance(r.get("step"), int)), None)
        if row.state == "running":
            row.seen = store.running_step(p.key)
        row.step = row.seen if row.state == "done" else store.resume_step(p.key)
        row.metrics = _numbers(records)
        states.append(row)
    return states


def trained_how(store: Store, key: str) -> str:
    """How a finished phase was trained, where its last bits depend on the number of processes; else ""."""
    sums = str(_environment(store, key).get("sums", "")) if store.has(key) else ""
    return f"trained {sums}" if sums.startswith("over") else ""


def _stack(store: Store, key: str) -> int | None:
    """How many phases were trained as one with a phase."""
    form = _environment(store, key).get("stack")
    return int(form["width"]) if form else None


def _environment(store: Store, key: str) -> dict[str, Any]:
    """Facts about a phase's training; {} where they are elsewhere: to look copies nothing from a bucket."""
    if not (store.phase_folder(key) / "environment.json").is_file():
        return {}
    try:
        environment: dict[str, Any] = store.artifact(key).json("environment.json")
    except StoreError:
        return {}
    return environment


def _numbers(records: list[dict[str, Any]]) -> dict[str, float]:
    """The newest value of each logged number in the last 50 records."""
    latest: dict[str, float] = {}
    for record in records[-50:]:
        for name, value in {**record, **(record.get("val") or {})}.items():
            if name not in RECORD_HEAD and isinstance(value, float):
                latest[name] = value
    return latest


def status_table(states: list[Status], store: Store) -> Table:
    """Return the states as a table for the terminal."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), caption_justify="left")
    for name, justify in (("phase", "left"), ("state", "left"), ("step", "right"), ("numbers", "left")):
        table.add_column(name, justify="right" if justify == "right" else "left", overflow="fold")
    table.add_column("size", justify="right", no_wrap=True)
    table.add_column("written", justify="right", no_wrap=True)
    table.add_column("", overflow="fold")
    for s in states:
        of = f" / {s.total}" if s.total and s.state != "done" else ""
        step = f"{s.step}{of}" if s.step is not None else ""
        step += f", seen {s.seen}" if s.seen is not None and s.seen != s.step else ""
        numbers = ", ".join(f"{n} {words.plain_number(v)}" for n, v in list((s.metrics or {}).items())[:4])
        size = words.size(s.bytes) if s.bytes else ""
        age = f"{words.seconds(s.age)} ago" if s.age is not None else ""
        state = Text(s.state, style=STYLES[s.state])
        stack = f"in a stack of {s.stack}" if s.stack is not None else ""
        table.add_row(Text(s.name), state, step, numbers, size, age, Text(s.problem or s.who or s.how or stack))
    total = measured(store.root)[0]
    table.caption = Text(f"{store.root}: {words.size(total)} in all, with other plans")
    return table


def print_status(
    planned: Mapping[str, Planned], store: Store, console: Console | None = None, plan: Plan | None = None
) -> None:
    """Print the states of the phases."""
    (console or words.console()).print(status_table(status(planned, store, plan), store))


def to_json(states: list[Status]) -> dict[str, Any]:
    """Return the states as a JSON object."""
    return {"phases": [asdict(s) for s in states]}
