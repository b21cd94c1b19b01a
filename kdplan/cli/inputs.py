"""What commands read: the plan file, compiled and planned against a store, and the options that several share."""

from __future__ import annotations

import argparse
import os
from pathlib import Path

from kdplan.compile import Compiled, compile_source, inspect
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Source
from kdplan.ir.dag import Cost, PhaseKey
from kdplan.passes.schedule import Facts
from kdplan.runtime.store import Store


def read_source(path: Path) -> Source:
    """Return a plan file's source.

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


def data_root(arguments: argparse.Namespace) -> Path | None:
    """Return the folder of data sets: `--data`, else `KDPLAN_DATA`, else None."""
    folder = arguments.data or os.environ.get("KDPLAN_DATA")
    return Path(folder) if folder else None


def open_store(arguments: argparse.Namespace) -> Store:
    """Return the store in `--store`, else in `KDPLAN_STORE`, else in `./.kdplan`."""
    return Store(Path(arguments.store or os.environ.get("KDPLAN_STORE") or ".kdplan"))


def existing_store(arguments: argparse.Namespace) -> Store | None:
    """Return the store of a command that makes none; None where there is no folder."""
    store = open_store(arguments)
    return store if store.root.is_dir() else None


def param_values(settings: list[str]) -> dict[str, str]:
    """Return the values of params by name, from the options `--set name=value`.

    Raises
    ------
    PlanError
        KD0011 if one has no name or no `=`.

    Examples
    --------
    >>> param_values(["epochs=3", "seed = [0, 1]"])
    {'epochs': '3', 'seed': '[0, 1]'}
    """
    values: dict[str, str] = {}
    for text in settings:
        name, equals, value = text.partition("=")
        if not equals or not name.strip():
            raise error("KD0011", None, text=text)
        values[name.strip()] = value.strip()
    return values


def compile_file(arguments: argparse.Namespace, store: Store | None = None) -> Compiled:
    """Return the compiled plan of a command, planned against the store or, without one, as if nothing were stored.

    Raises
    ------
    PlanError
        With every error of the plan.
    """
    path: Path = arguments.file
    source = read_source(path)
    return compile_source(
        source,
        path.resolve().parent,
        data_root(arguments),
        params=param_values(arguments.set),
        facts=store_facts(store, path) if store is not None else None,
        only=tuple(getattr(arguments, "only", ())),
        until=tuple(getattr(arguments, "until", ())),
    )


def store_facts(store: Store, plan_file: Path) -> Facts:
    """Return what the planner asks of the store, with the keys of the last run of `plan_file`."""
    last = store.last_keys(plan_file)

    def last_key(name: str) -> PhaseKey | None:
        """The key that a phase of this name had in the last run, where its artifact is still stored."""
        key = last.get(name)
        if key is None or not store.has(key):
            return None
        return store.artifact(key).phase_key()

    def is_extendable(key: str) -> bool:
        """Whether a longer phase can start from the artifact under a key."""
        return store.has(key) and store.artifact(key).extendable

    return Facts(store.has, store.resume_step, store.problem, last_key, is_extendable)


def add_costs(compiled: Compiled, store: Store) -> None:
    """Set the cost of every phase: from the store, else from the phase's graph, which is then stored.

    Seconds follow from the highest speed that was measured on this machine; without one they stay None.
    """
    missing = []
    for name, phase in compiled.planned.items():
        known = store.number("costs", phase.key)
        if known is None or known.keys() != set(Cost.__slots__):  # or stored by an earlier version of kdplan
            missing.append(name)
        else:
            phase.cost = Cost(**known)
    inspect(compiled, missing, store if store.root.is_dir() else None)
    for name in missing:
        cost = compiled.planned[name].cost
        if cost is None:  # of a phase that needs code which may not run
            continue
        store.keep_number("costs", compiled.planned[name].key, {f: getattr(cost, f) for f in Cost.__slots__})
    speeds = store.speeds()
    if speeds:
        fastest = max(speeds.values())
        for phase in compiled.planned.values():
            if phase.cost is not None:
                phase.cost.seconds = phase.cost.flops_step * phase.cost.steps / fastest
