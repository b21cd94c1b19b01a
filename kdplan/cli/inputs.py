"""What every command begins with: the plan file read and compiled against a store."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from kdplan.compile import Compiled, compile_source, inspect
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Source
from kdplan.ir.dag import Cost, PhaseKey
from kdplan.passes.schedule import Facts
from kdplan.runtime.store import Store

if TYPE_CHECKING:
    from kdplan.runtime.versions import Sources


def read_source(path: Path) -> Source:
    """A plan file's text.

    Raises
    ------
    PlanError
        KD0010 if it cannot be read.
    """
    try:
        return Source(str(path), path.read_text(encoding="utf-8"))
    except OSError as problem:
        raise error("KD0010", None, file=path, problem=problem.strerror or str(problem)) from None
    except UnicodeDecodeError as problem:
        raise error("KD0010", None, file=path, problem=f"byte {problem.start} is not UTF-8") from None


def data_root(given: argparse.Namespace) -> Path | None:
    chosen = given.data or os.environ.get("KDPLAN_DATA")
    return Path(chosen) if chosen else None


def open_store(given: argparse.Namespace) -> Store:
    """`--store`, else `KDPLAN_STORE`, else `./.kdplan`."""
    return Store(Path(given.store or os.environ.get("KDPLAN_STORE") or ".kdplan"))


def params(given: argparse.Namespace) -> dict[str, str]:
    """`--set name=value`.

    Raises
    ------
    PlanError
        KD0011 if one has no `=`.
    """
    found: dict[str, str] = {}
    for text in given.set:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise error("KD0011", None, text=text)
        found[name.strip()] = value.strip()
    return found


def compiled(given: argparse.Namespace, store: Store | None = None) -> Compiled:
    """The plan of a command, planned against the store where there is one."""
    path: Path = given.file
    source = read_source(path)
    return compile_source(
        source,
        path.resolve().parent,
        data_root(given),
        params=params(given),
        facts=facts(store, path) if store is not None else None,
        only=tuple(getattr(given, "only", ())),
        until=tuple(getattr(given, "until", ())),
    )


def facts(store: Store, plan_file: Path) -> Facts:
    """What the planner asks of the store."""
    last = store.last_keys(plan_file)

    def previous(name: str) -> PhaseKey | None:
        key = last.get(name)
        if key is None or not store.has(key):
            return None
        return store.artifact(key).phase_key()

    def extends(key: str) -> bool:
        return store.has(key) and store.artifact(key).extendable

    return Facts(store.has, store.resume_step, store.problem, previous, extends)


def add_costs(made: Compiled, store: Store) -> None:
    """Costs of all phases: those that the store remembers, the others from their graphs; times from measured speed."""
    missing = []
    for name, phase in made.planned.items():
        known = store.number("costs", phase.key)
        if known is None or known.keys() != set(Cost.__slots__):  # or an earlier version of kdplan kept it
            missing.append(name)
        else:
            phase.cost = Cost(**known)
    inspect(made, missing)
    for name in missing:
        cost = made.planned[name].cost
        assert cost is not None
        store.keep_number("costs", made.planned[name].key, {f: getattr(cost, f) for f in Cost.__slots__})
    speeds = store.speeds()
    if speeds:
        fastest = max(speeds.values())
        for phase in made.planned.values():
            if phase.cost is not None:
                phase.cost.seconds = phase.cost.flops_step * phase.cost.steps / fastest


def sources(made: Compiled, store: Store) -> Sources:
    from kdplan.runtime.versions import Sources

    return Sources(made.plan, store, made.keys)
