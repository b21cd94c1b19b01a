"""Hierarchies beside a plan or its data, and what a data set's classes are in them."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

from kdplan.data.hierarchy import Hierarchy, HierarchyError, read_hierarchy
from kdplan.diagnostics.missing import no_such_file
from kdplan.diagnostics.report import error, listing
from kdplan.diagnostics.span import Span
from kdplan.ir.plan import Data
from kdplan.passes.load import Module


def list_of_classes(file: str, module: Module, root: Path | None, span: Span) -> Path:
    """Where a list of classes is: beside the plan that names it, or under the data folder.

    Raises
    ------
    PlanError
        KD0211 where it is in neither.
    """
    folders = [folder for folder in (module.folder, root) if folder is not None]
    for folder in folders:
        if (folder / file).is_file():
            return folder / file
    raise no_such_file(file, folders, span)


def hierarchy_of(file: str, module: Module, root: Path | None, span: Span) -> Hierarchy:
    """The hierarchy in a file beside the plan, or under the data folder `root`.

    Raises
    ------
    PlanError
        KD0211 where there is no such file, KD0281 where it is no hierarchy, KD0280 where it has a cycle.
    """
    path = list_of_classes(file, module, root, span)
    try:
        return read_hierarchy(path)
    except HierarchyError as problem:
        if problem.cycle:
            raise error("KD0280", span, file=file, cycle=" → ".join(problem.cycle)) from None
        raise error("KD0281", span, file=file) from None


def absent(file: str, names: Iterable[str], data: Data, span: Span) -> None:
    """KD0283 for classes of a data set that a file does not have."""
    missing = list(names)
    if missing:
        raise error("KD0283", span, file=file, data=data.name, classes=listing(missing))


def ancestors(file: str, data: Data, module: Module, root: Path | None, span: Span) -> list[list[int]]:
    """For each class that has classes above it, its number and theirs.

    Raises
    ------
    PlanError
        As `hierarchy_of`; KD0283 for classes that the file lacks, KD0290 where no class is above another one.
    """
    tree = hierarchy_of(file, module, root, span)
    absent(file, (c for c in data.classes if c not in tree), data, span)
    numbers = {c: i for i, c in enumerate(data.classes)}
    rows = [[i, *(numbers[a] for a in tree.ancestors(c) if a in numbers)] for c, i in numbers.items()]
    table = [row for row in rows if len(row) > 1]
    if not table:
        raise error("KD0290", span, file=file, data=data.name)
    return table
