"""Names in definitions that nothing reads: never evaluated, so a misspelt one would wait until somebody reads it."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from kdplan.constructs.table import LOCAL_NAMES
from kdplan.diagnostics.report import Reporter, nearest
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS, RESERVED, SIGNALS
from kdplan.passes.load import Declared, Module
from kdplan.resolve.axes import is_axis
from kdplan.resolve.evaluate import CONSTANTS
from kdplan.resolve.given import literal_type, not_given
from kdplan.syntax import ast
from kdplan.syntax.walk import walk


def check_names(module: Module, tables: Mapping[str, Mapping[str, object]], reporter: Reporter) -> None:
    """Report KD0205 for names in params and defs of a file that can mean nothing wherever these are read.

    What is read is evaluated, and its mistakes are reported there; a name is not reported twice.

    Examples
    --------
    >>> from pathlib import Path
    >>> from kdplan.diagnostics.span import Source
    >>> from kdplan.passes.load import load
    >>> reporter = Reporter()
    >>> check_names(load(Source("a.kd", "def hard(x) = cros_entropy(x, labels)"), Path("."), reporter), {}, reporter)
    >>> [(d.code, d.help) for d in reporter.diagnostics]
    [('KD0205', 'Did you mean `cross_entropy`?')]
    """
    for node, local in _definitions(module):
        _check_names(node, local, module, tables, reporter)
        _check_itself(node, local, module, tables, reporter)


def check_given(
    module: Module, read: Collection[Declared], tables: Mapping[str, Mapping[str, object]], reporter: Reporter
) -> None:
    """Report values from outside, of `--set` and `use`, for params that nothing reads: KD0205 for names that mean
    nothing, KD0244 for another type than the param's own, and else the warning KD0373."""
    for used in module.every():
        for name, override in used.overrides.items():
            declared = used.scope[name]
            assert isinstance(declared, Declared)
            if declared in read or is_axis(declared) or module.blind or reporter.errors:
                continue
            before = len(reporter.diagnostics)
            _check_names(override.value, set(), override.module, tables, reporter)
            own = declared.node.clause("=")
            wants, given = literal_type(own.exprs[0] if own else None), literal_type(override.value)
            if wants and given and wants != given:
                reporter.report("KD0244", override.value.span, what=f"`{name}`", wants=wants, found=given)
            if len(reporter.diagnostics) == before and not _is_mentioned(name, used, module):
                reporter.report("KD0373", override.value.span, name=name, file=used.source.path)


def _is_mentioned(name: str, used: Module, plan: Module) -> bool:
    """Whether a used file reads its param somewhere: a plan need not use all of a file that others share.

    What the plan's own file declares is there for this plan alone.
    """
    if used is plan:
        return False
    others = [d for d in used.tree.declarations if not (d.kind == "param" and d.name == name)]
    return any(isinstance(n, ast.Name) and n.name == name for d in others for n in walk(d))


def _check_names(
    node: ast.Node, local: set[str], module: Module, tables: Mapping[str, Mapping[str, object]], reporter: Reporter
) -> None:
    """Report KD0205 for the names in a definition that nothing in its file, nor the language, has."""
    reported = {d.span.start for d in reporter.diagnostics if d.span and d.span.source is module.source}
    known = {
        *RESERVED,
        *CONSTANTS,
        *LOCAL_NAMES,
        *module.scope,
        *module.inherited,
        *(name for table in tables.values() for name in table),
        *local,
    }
    for name in _free(node):
        if name.name not in known and not module.knows_of(name.name) and name.span.start not in reported:
            given = not_given(name.name, name.span, module, tables)
            if given is not None:
                reporter.add(given.diagnostics)
                continue
            near = nearest(name.name, [*local, *module.scope, *FUNCTIONS, *PLAN_FUNCTIONS, *SIGNALS])
            lone = isinstance(node, ast.Declaration) and node.kind == "param" and near is None
            help = f'Write `"{name.name}"` if a string is meant.' if lone else None
            reporter.report("KD0205", name.span, name=name.name, nearest=near, help=help)


def _check_itself(
    node: ast.Declaration,
    local: set[str],
    module: Module,
    tables: Mapping[str, Mapping[str, object]],
    reporter: Reporter,
) -> None:
    """Report KD0235 for a definition of the file that reads its own name, where nothing else has that name."""
    name = node.name or ""
    declared = module.scope.get(name)
    if not isinstance(declared, Declared) or declared.node is not node:
        return
    if name in local or name in LOCAL_NAMES or any(name in table for table in tables.values()):
        return
    reported = {d.span.start for d in reporter.diagnostics if d.span and d.span.source is module.source}
    for read in _free(node):
        if read.name == name and read.span.start not in reported:
            reporter.report("KD0235", read.span, name=name)


def _definitions(module: Module) -> Iterator[tuple[ast.Declaration, set[str]]]:
    """Every param and def of right form, with the local names around it."""
    waiting: list[tuple[ast.Declaration, set[str]]] = [
        (d, set()) for d in module.tree.declarations if id(d) not in module.broken
    ]
    while waiting:
        node, around = waiting.pop(0)
        if node.kind in ("param", "def"):
            yield node, around | {p.name for p in node.params or []}
            continue
        inner = [i for i in node.items or [] if isinstance(i, ast.Declaration)]
        local = around | {s.name for s in node.slots} | {i.name for i in inner if i.name and i.kind == "def"}
        waiting.extend((i, local) for i in inner)


def _free(node: ast.Node) -> list[ast.Name]:
    """Bare names in a definition, without those that a comprehension binds, and without
    those that mean something where they stand only: after `@`, in an index, as an argument of a table's choice."""
    bound = {loop.name for e in walk(node) if isinstance(e, ast.Comprehension) for loop in e.loops}
    skipped = {id(n) for e in walk(node) if isinstance(e, ast.Pick) for p in e.picks for n in walk(p)}
    skipped |= {id(n) for e in walk(node) if isinstance(e, ast.Call) for k in e.keywords for n in walk(k.value)}
    return [n for n in walk(node) if isinstance(n, ast.Name) and n.name not in bound and id(n) not in skipped]
