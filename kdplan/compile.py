"""The pipeline, from a page of text to a planned DAG. Every step is a function from one value to a new one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import networkx as nx

from kdplan.diagnostics.boundary import boundary, with_uses
from kdplan.diagnostics.report import Diagnostic, PlanError, Reporter
from kdplan.diagnostics.span import Source, Span
from kdplan.ir import user_code
from kdplan.ir.cuts import Cut, Layer
from kdplan.ir.dag import PhaseKey, Planned
from kdplan.ir.limits import DEFAULT, Limits
from kdplan.ir.plan import Network, Plan
from kdplan.ir.user_code import CodeRefused, code_is_refused
from kdplan.passes.dag import phase_dag
from kdplan.passes.form import check_form
from kdplan.passes.keys import graph_key, keys
from kdplan.passes.legal import check_plan
from kdplan.passes.lint import lint
from kdplan.passes.load import UserCode, load
from kdplan.passes.schedule import Facts, nothing_known, schedule, select
from kdplan.passes.views import Views, check_views
from kdplan.resolve.plan import resolve
from kdplan.runtime.options import default_data_root
from kdplan.syntax import ast
from kdplan.syntax.collector import collector_paused
from kdplan.syntax.parse import parse

if TYPE_CHECKING:
    from kdplan.graph.inspect import Inspected
    from kdplan.graph.verify import Verdicts


@dataclass
class Compiled:
    """A plan, ready to be shown or run."""

    source: Source
    plan: Plan
    dag: nx.DiGraph[str]
    keys: dict[str, PhaseKey]
    planned: dict[str, Planned]
    warnings: list[Diagnostic] = field(default_factory=list)
    uses: dict[str, Span] = field(default_factory=dict)
    """The path of each Python file that the plan uses → its `use`."""
    files: list[str] = field(default_factory=list)
    """What was recognised in weights files, a line for each network that starts from one; `inspect` fills it."""
    root: Path | None = field(default_factory=default_data_root)
    """Where data sets are looked for."""


@collector_paused()
def compile_source(
    source: Source,
    folder: Path,
    root: Path | None = None,
    *,
    params: Mapping[str, str] | None = None,
    facts: Facts | None = None,
    only: tuple[str, ...] = (),
    until: tuple[str, ...] = (),
    limits: Limits = DEFAULT,
) -> Compiled:
    """text → tree → AST → modules → core plan → DAG → keys → planned DAG.

    Parameters
    ----------
    source : Source
        The plan's text.
    folder : Path
        What the plan's own file names are relative to.
    root : Path, optional
        Where data sets are looked for.
    params : mapping, optional
        Values for the file's params, as text of the language.
    facts : Facts, optional
        What the store holds; an empty store by default.
    only, until : tuple of str
        Phases to run; those that they need come along.
    limits : Limits
        How much evaluation may make and use.

    Raises
    ------
    PlanError
        With every mistake that was found.
    """
    reporter = Reporter()
    user_code.begin()
    # first of all: names have a meaning only once every file that is used is read
    module = load(source, folder, reporter, overrides=_overrides(params or {}))
    # before evaluation: a declaration of a wrong form is evaluated by nobody, and reported once
    check_form(module, reporter)
    if not module.tree.items and not reporter.errors:
        reporter.report("KD0228", None)
    # evaluation last: behind it there are no names, axes, functions or constructs
    plan = resolve(module, root, reporter, _cuts, _layers, limits)
    reporter.raise_if_errors()
    compiled = compile_plan(plan, source, reporter, facts=facts, only=only, until=until)
    compiled.uses = {c.path: c.span for m in module.every() for c in m.scope.values() if isinstance(c, UserCode)}
    compiled.root = root
    return compiled


@collector_paused()
def compile_plan(
    plan: Plan,
    source: Source | None = None,
    reporter: Reporter | None = None,
    *,
    facts: Facts | None = None,
    only: tuple[str, ...] = (),
    until: tuple[str, ...] = (),
) -> Compiled:
    """The same from the core plan on, for plans that come as JSON or were changed in Python."""
    reporter = reporter or Reporter()
    # here, and not in the evaluator: plans from JSON enter at this point, and all that follows relies on this law
    check_plan(plan, reporter)
    reporter.raise_if_errors()
    # before keys: a phase's key contains those of the phases that it reads
    dag = phase_dag(plan)
    phase_keys = keys(plan, dag)
    # after keys: two networks that stay equal are found by equal keys
    lint(plan, phase_keys, reporter)
    reporter.raise_if_errors()
    # last: the only step that asks what the store holds
    wanted = select(plan.phases, dag, only, until)
    planned = schedule(dag, phase_keys, facts or nothing_known(), wanted)
    return Compiled(source or Source("<python>", ""), plan, dag, phase_keys, planned, reporter.diagnostics)


def inspect(
    compiled: Compiled, names: list[str] | None = None, verdicts: Verdicts | None = None, ranks: int = 1
) -> dict[str, Inspected]:
    """Core phases → graphs, shapes, gradients, costs; phases that differ in numbers only are built once.

    What comparing a user's code with its graph showed is kept in `verdicts`, and not compared again. Batches are shared
    among so many `ranks`, also without shards.

    Raises
    ------
    PlanError
        With every mistake that was found in any of them.
    """
    from kdplan.graph.compiler import compiler_later  # torch comes with it: only where graphs are wanted
    from kdplan.graph.state import draws_undone

    with draws_undone(), compiler_later():
        return _inspect(compiled, names, verdicts, ranks)


def _inspect(
    compiled: Compiled, names: list[str] | None, verdicts: Verdicts | None, ranks: int
) -> dict[str, Inspected]:
    from kdplan.graph import swapped
    from kdplan.graph.check_exports import check_exports
    from kdplan.graph.check_measures import check_measures
    from kdplan.graph.check_stages import check_ladders
    from kdplan.graph.inspect import check_files, check_settings, inspect_phase
    from kdplan.graph.parts import check_batches
    from kdplan.graph.separable import check_separable
    from kdplan.ir.lengths import part_sizes

    reporter = Reporter()
    names = names if names is not None else list(compiled.planned)
    phases = [compiled.plan.phases[name] for name in names]
    check_settings(phases, reporter)
    if code_is_refused():
        _report_unchecked(compiled.plan, reporter)
    views = Views(compiled.plan, compiled.root)
    sound = check_views(compiled.plan, phases, views, reporter)
    seen: dict[str, Inspected | None] = {}
    tried: set[tuple[str, frozenset[tuple[int, ...]]]] = set()
    inspected: dict[str, Inspected] = {}
    for phase in phases:
        key = graph_key(compiled.plan, phase)
        try:
            with boundary("KD0520", phase.span, phase=phase.name):
                if key not in seen:
                    seen[key] = None
                    seen[key] = one = inspect_phase(compiled.plan, phase, verdicts)
                    reporter.add(one.warnings)
                    if phase.recipes[0].shards > 1 or ranks > 1:
                        check_separable(compiled.plan, phase, one.joined, reporter)
                known = seen[key]
                if known is not None and phase.name in sound:
                    # the same graph may read other numbers of samples
                    sizes = [views.size(view) for view in phase.streams]
                    shards = phase.recipes[0].shards if phase.recipes[0].shards > 1 else ranks
                    recipe = replace(phase.recipes[0], shards=shards)
                    parts = frozenset(part_sizes(recipe, sizes))
                    if (key, parts) not in tried:
                        tried.add((key, parts))
                        check_batches(phase, recipe, known.joined.graph_module, sizes, reporter, ranks)
        except CodeRefused as refused:
            reporter.add(refused.about(f"phase `{phase.name}`", phase.span).diagnostics)
        except PlanError as e:
            reporter.add(with_uses(e.diagnostics, compiled.uses))
        known = seen[key]
        if known is not None:
            inspected[phase.name] = known
            reporter.add(swapped.warnings(phase, known.joined.swapped))
            compiled.planned[phase.name].cost = known.cost
    # all networks, and not only those that phases read: measures and exports read them too
    compiled.files = check_files(compiled.plan, reporter)
    reporter.raise_if_errors()
    check_ladders(compiled.plan, inspected, reporter)
    check_measures(compiled.plan, views, reporter)
    check_exports(compiled.plan, reporter)
    reporter.raise_if_errors()
    compiled.warnings += [w for w in reporter.diagnostics if w not in compiled.warnings]
    return inspected


def _report_unchecked(plan: Plan, reporter: Reporter) -> None:
    """KD0544 for networks and functions of the user's, whose code may not run."""
    for network in plan.networks.values():
        if network.code is not None:
            where = network.architecture.name.rpartition(":")[0] or network.name
            reporter.report("KD0544", network.span, what=f"network `{network.name}`", code=Path(where).name)
    for phase in plan.phases.values():
        for function in phase.code:
            where, _, name = function.rpartition(":")
            reporter.report("KD0544", phase.loss.span, what=f"function `{name}`", code=Path(where).name)


def check_text(
    text: str, root: Path | None = None, folder: Path | None = None, path: str = "plan.kd"
) -> list[Diagnostic]:
    """Every mistake and warning in a plan's text; [] if there is none.

    Examples
    --------
    >>> [d.code for d in check_text("student s = digits_nett()")]
    ['KD0205']
    """
    try:
        compiled = compile_source(Source(path, text), folder or Path("."), root)
        inspect(compiled)
    except PlanError as e:
        return e.diagnostics
    return compiled.warnings


def _cuts(network: Network, shape: Sequence[int]) -> list[Cut]:
    from kdplan.graph.compiler import compiler_later
    from kdplan.graph.cuts import cuts_of  # torch comes with it: only for plans that leave finding stages to kdplan

    with compiler_later():
        return cuts_of(network, tuple(shape))


def _layers(network: Network, shape: Sequence[int]) -> list[Layer]:
    from kdplan.graph.compiler import compiler_later
    from kdplan.graph.cuts import layers_of  # likewise, for `amalgamate`

    with compiler_later():
        return layers_of(network, tuple(shape))


def _overrides(params: Mapping[str, str]) -> dict[str, tuple[ast.Expr, Span]]:
    """Values of `--set`, each parsed as the right side of a declaration, and where the names stand."""
    values: dict[str, tuple[ast.Expr, Span]] = {}
    for name, text in params.items():
        declared = parse(Source(f"--set {name}", f"param {name} = {text}")).declarations[0]
        clause = declared.clause("=")
        assert clause is not None and declared.name_span is not None
        values[name] = clause.exprs[0], declared.name_span
    return values
