"""Each constant of meaning is defined in one place."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Iterator
from typing import get_args

from kdplan.constructs.table import KINDS
from kdplan.ir.expr import STREAM_FIELDS
from kdplan.ir.functions import SIGNALS
from kdplan.ir.kinds import NETWORKS
from kdplan.ir.plan import Mode, Role
from kdplan.syntax import aliases
from tests.structure import ROOT, SOURCES

TREES = {str(file.relative_to(ROOT)): ast.parse(file.read_text(encoding="utf-8")) for file in SOURCES}
PREPOSITIONS = frozenset(word for kind in KINDS.values() for word in kind.clauses)
"""Every kind says which of these it takes."""

SAME_WORDS = {
    frozenset({"placeholder", "get_attr", "output"}): "kinds of nodes of torch.fx, whose names these are",
    frozenset({"network", "student", "teacher"}): "a type, rows of kinds, and syntax below both; compared below",
    frozenset({"name", "what it is", "settings", "example"}): "heads of tables of the reference",
}
"""Lists of words that are written in several places -> why."""

SAME_CONSTANTS = {
    ("PHASE", "train"): "each construct names its own phases",
    ("WIDTH", 120): "columns of a plan that is written; columns of a plan that an error shows",
    ("FORMAT", 1): "formats of different files are counted apart",
}
"""Constants of the same name and value in several files -> why."""


def words(node: ast.AST) -> frozenset[str]:
    """The words of a written-out list, tuple or set; empty if it holds something else."""
    elements = node.elts if isinstance(node, ast.List | ast.Tuple | ast.Set) else []
    values = [e.value for e in elements if isinstance(e, ast.Constant) and isinstance(e.value, str)]
    return frozenset(values if len(values) == len(elements) else [])


def constants(tree: ast.Module) -> Iterator[tuple[str, ast.expr]]:
    """Name and value of each constant of a module."""
    for node in tree.body:
        if isinstance(node, ast.AnnAssign) and node.value is not None:
            yield ast.unparse(node.target), node.value
        for target in node.targets if isinstance(node, ast.Assign) else ():
            assert isinstance(node, ast.Assign)
            if isinstance(target, ast.Tuple) and isinstance(node.value, ast.Tuple):
                yield from zip(map(ast.unparse, target.elts), node.value.elts, strict=True)
            else:
                yield ast.unparse(target), node.value


def fact(name: str, value: ast.expr) -> object:
    """What a constant says, to be compared; None if it says nothing of its own.

    A single number or word says something only together with its name: 120 columns and 120 points are two facts.
    """
    if isinstance(value, ast.Constant):
        return name.strip("_"), value.value
    if isinstance(value, ast.Call) and ast.unparse(value.func) in ("TypeVar", "cache", "field"):
        return None
    holds = any(isinstance(n, ast.Constant) for n in ast.walk(value))
    if not holds or not isinstance(value, ast.Tuple | ast.List | ast.Set | ast.Dict | ast.Call | ast.BinOp):
        return None
    return (name.strip("_"), ast.dump(value)) if isinstance(value, ast.BinOp) else ast.dump(value)


def test_no_list_of_words_is_written_twice() -> None:
    lines = defaultdict(list)
    for file, tree in TREES.items():
        for node in ast.walk(tree):
            if isinstance(node, ast.expr) and len(listed := words(node)) >= 3 and not listed <= PREPOSITIONS:
                lines[listed].append(f"{file}:{node.lineno}")
    twice = {listed: at for listed, at in lines.items() if len(at) > 1}
    assert {tuple(sorted(w)): at for w, at in twice.items() if w not in SAME_WORDS} == {}
    assert twice.keys() == SAME_WORDS.keys()  # no exception outlives its reason


def test_no_constant_is_defined_in_two_files() -> None:
    files = defaultdict(set)
    for file, tree in TREES.items():
        for name, value in constants(tree):
            if (key := fact(name, value)) is not None:
                files[key].add(file)
    twice = {key: at for key, at in files.items() if len(at) > 1}
    assert {key: at for key, at in twice.items() if key not in SAME_CONSTANTS} == {}
    assert twice.keys() == SAME_CONSTANTS.keys()  # no exception outlives its reason


def test_facts_that_two_layers_write_are_equal() -> None:
    mode = KINDS["network"].setting("mode")
    assert mode is not None and mode.choices == get_args(Mode)
    assert set(get_args(Role)) == NETWORKS <= aliases.SETTINGS.keys()
    assert set(STREAM_FIELDS) <= SIGNALS.keys()
