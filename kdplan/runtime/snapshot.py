"""A compiled plan with the user's sources as one file: what a worker needs to train a phase, on any machine.

Workers read neither the plan file nor the user's Python files, so an edit during a run changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from kdplan import __version__
from kdplan.diagnostics.report import error, listing
from kdplan.ir import user_code
from kdplan.ir.dag import PhaseKey, Planned
from kdplan.ir.located import dump_spans, load_spans
from kdplan.ir.plan import Plain, Plan
from kdplan.runtime.options import RunOptions
from kdplan.runtime.store.sealed import read_sealed, write_sealed


@dataclass
class Snapshot:
    """What workers read of a run.

    Attributes
    ----------
    plan
        The core plan.
    planned
        Phase name -> its action, of the phases to train.
    keys
        Phase name -> key, of every phase.
    options
        How to run.
    trusted
        Packages whose code may run.
    """

    plan: Plan
    planned: dict[str, Planned]
    keys: dict[str, PhaseKey]
    options: RunOptions = field(default_factory=RunOptions)
    trusted: list[str] = field(default_factory=list)

    def named(self, key: str) -> str | None:
        """The name of the phase to train that `key` means: its key, the first digits of it, or its name."""
        if key in self.planned:
            return key
        for name in self.planned:
            if name.replace(" ", "") == key.replace(" ", ""):
                return name
        names = [name for name, step in self.planned.items() if step.key.startswith(key) and step.same_as is None]
        return names[0] if len(names) == 1 and len(key) >= 6 else None


@cache
def _adapter() -> TypeAdapter[Snapshot]:
    return TypeAdapter(Snapshot)


def write_snapshot(path: Path, snapshot: Snapshot) -> None:
    """Writes a snapshot, with the user's sources as they were read when the plan was compiled.

    Raises
    ------
    StoreUnwritable
    """
    value: dict[str, Plain] = {
        "kdplan": __version__,
        "run": _adapter().dump_python(snapshot, mode="json"),
        "spans": dump_spans([snapshot.plan, snapshot.keys]),
        "code": user_code.dump_read(),
    }
    write_sealed(path, value)


def read_snapshot(path: Path) -> Snapshot:
    """The snapshot in a file; the user's sources are those in it from here on.

    Raises
    ------
    PlanError
        KD0970 if the file is none, was altered, or is of another version of kdplan. KD0978 if modules that Python finds
        by itself are others here.
    """
    value = read_sealed(path)
    problem = "it is absent, or was altered" if not value else ""
    if value and value.get("kdplan") != __version__:
        problem = f"it was written by kdplan {value.get('kdplan')}, and this is {__version__}"
    if not problem:
        try:
            snapshot = _adapter().validate_python(value["run"])
            load_spans([snapshot.plan, snapshot.keys], value["spans"])
            user_code.load_read(value["code"])
        except (KeyError, TypeError, ValueError, ValidationError):
            problem = "it has not the form of one"
        else:
            if wrong := user_code.different():
                raise error("KD0978", None, path=path, names=listing(wrong))
            return snapshot
    raise error("KD0970", None, path=path, problem=problem)


def own_keys(keys: Mapping[str, PhaseKey], planned: Mapping[str, Planned]) -> dict[str, PhaseKey]:
    """The keys of a plan, with their components only for phases to train: the others are only found by them."""
    return {name: key if name in planned else PhaseKey(key.key, [], {}) for name, key in keys.items()}
