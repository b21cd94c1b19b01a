"""What commands read: the plan file, compiled and planned against a store, and the options that several share."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from kdplan.cli.outputs import named_folder, writable_folder
from kdplan.diagnostics.render import render_text
from kdplan.diagnostics.report import Diagnostic, error
from kdplan.diagnostics.span import Source
from kdplan.diagnostics.text import read_text
from kdplan.ir.dag import Cost, Planned
from kdplan.ir.limits import read_limits

if TYPE_CHECKING:  # each is imported where it is used: `fmt` needs none of it, and `store` not the compiler
    from kdplan.compile import Compiled
    from kdplan.runtime.store import Store

_OTHER = {
    ".py": "a Python file",
    ".ipynb": "a notebook",
    ".json": "a JSON file",
    ".toml": "a TOML file",
    ".yaml": "a YAML file",
    ".yml": "a YAML file",
}
"""What the endings of files say that are no plans."""


def read_source(path: Path) -> Source:
    """Return a plan file's source.

    Raises
    ------
    PlanError
        KD0010 if it cannot be read, KD0018 if it is of another language.
    """
    if path.suffix in _OTHER:
        raise error("KD0018", None, file=path, what=_OTHER[path.suffix])
    try:
        return Source(str(path), read_text(path))
    except OSError as problem:
        raise error("KD0010", None, file=path, problem=problem.strerror or str(problem)) from None
    except UnicodeDecodeError as problem:
        raise error("KD0010", None, file=path, problem=f"byte {problem.start} is not UTF-8") from None


def data_root(arguments: argparse.Namespace) -> Path | None:
    """Return the folder of data sets: `--data`, else `KDPLAN_DATA`, else None."""
    folder = arguments.data or os.environ.get("KDPLAN_DATA")
    return Path(folder) if folder else None


def open_store(arguments: argparse.Namespace, write: bool = False, sweep: bool = False) -> Store:
    """Return the store in `--store`, else in `KDPLAN_STORE`, else in `./.kdplan`: in a folder, or at an address.

    With `sweep`, what killed processes left there is removed: for commands that may write.

    Raises
    ------
    PlanError
        KD0017 if it can be no folder; with `write`, also if nothing can be written there. KD0940 or KD0941 if it is an
        address that cannot be used.
    StoreUnwritable
        If an address's cache cannot be made.
    """
    from kdplan.runtime.remote.address import Address, located
    from kdplan.runtime.remote.opening import opened

    option, name = named_store(arguments)
    where = located(option, name)
    check = writable_folder if write else named_folder
    if isinstance(where, Address):
        check("KDPLAN_CACHE", str(where.cache))
    else:
        check(option, where)
    store = opened(where, lambda problem: show([problem]))
    if sweep:
        store.sweep()
    return store


def named_store(arguments: argparse.Namespace) -> tuple[str, str]:
    """Return the option or variable that names a command's store, and the name."""
    if arguments.store is not None:
        return "--store", arguments.store
    return "KDPLAN_STORE", os.environ.get("KDPLAN_STORE") or ".kdplan"


def show(diagnostics: Sequence[Diagnostic]) -> None:
    """Print warnings or errors on standard error."""
    print(render_text(diagnostics, color=sys.stderr.isatty()), file=sys.stderr)


def existing_store(arguments: argparse.Namespace) -> Store | None:
    """Return the store of a command that makes none, but may write there; None where there is no folder."""
    store = open_store(arguments, sweep=True)
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
    return compile_path(arguments.file, arguments, store)


def compile_path(path: Path, arguments: argparse.Namespace, store: Store | None = None) -> Compiled:
    """Return a compiled plan file, with the options of a command."""
    from kdplan.compile import compile_source
    from kdplan.runtime.facts import store_facts

    source = read_source(path)
    return compile_source(
        source,
        path.resolve().parent,
        data_root(arguments),
        params=param_values(getattr(arguments, "set", [])),
        facts=store_facts(store, path) if store is not None else None,
        only=tuple(getattr(arguments, "only", ())),
        until=tuple(getattr(arguments, "until", ())),
        limits=read_limits(arguments.limit),
    )


def finished_steps(phase: Planned, store: Store) -> int:
    """Return the steps that a run would not repeat: up to the checkpoint, or those of the shorter phase."""
    if phase.action == "resume":
        return phase.resume_step or 0
    if phase.action == "extend" and phase.extends is not None:
        return int(str(store.artifact(phase.extends).summary["steps"]))
    return 0


def add_costs(compiled: Compiled, store: Store) -> None:
    """Set the cost of every phase: from the store, else from the phase's graph, which is then stored.

    Of a phase that resumes or is extended, the steps that are left count.
    Seconds follow from the fastest device, by the median of the newest phases that were trained there; without one they
    stay None.
    """
    from kdplan.compile import inspect

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
    for phase in compiled.planned.values():
        if phase.cost is not None:
            left = max(0, phase.cost.steps - finished_steps(phase, store))
            phase.cost = replace(phase.cost, steps=left)
    speeds = store.speeds.all()
    if speeds:
        fastest = max(speeds.values())
        for phase in compiled.planned.values():
            if phase.cost is not None:
                phase.cost.seconds = phase.cost.flops_step * phase.cost.steps / fastest
