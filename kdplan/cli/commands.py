"""The commands that read a plan: each calls the compiler, the runtime and the views."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import add_costs, compile_file, data_root, existing_store, open_store, param_values, show
from kdplan.cli.outputs import writable_file, writable_folder
from kdplan.compile import Compiled, inspect
from kdplan.diagnostics.boundary import boundary
from kdplan.diagnostics.render import to_json
from kdplan.diagnostics.report import PlanError, counted, diagnostic, error, listing, suggestion
from kdplan.ir.user_code import no_code
from kdplan.runtime.events import NoEvents, Several
from kdplan.runtime.store import StoreUnwritable

if TYPE_CHECKING:
    from kdplan.ir.dag import PhaseKey
    from kdplan.ir.plan import Plan
    from kdplan.runtime.measures.results import MeasureResult
    from kdplan.runtime.options import RunOptions
    from kdplan.runtime.ranks import Ranks
    from kdplan.runtime.store import Store


def check(arguments: argparse.Namespace) -> int:
    """`kdplan check FILE`: report every error that can be found before training.

    Raises
    ------
    PlanError
        With every error of the plan and of its graphs.
    """
    with no_code(arguments.no_code):
        compiled = compile_file(arguments)
        inspect(compiled, verdicts=existing_store(arguments))
    if arguments.format == "json":
        print(json.dumps(to_json(compiled.warnings, compiled.files), indent=2, ensure_ascii=False))
        return ExitCode.DONE
    _print_warnings(compiled)
    _print_files(compiled)
    plan = compiled.plan
    counts = {
        "phase": len(plan.phases),
        "network": len(plan.networks),
        "measure": len(plan.measures),
        "export": len(plan.exports),
    }
    summary = ", ".join(counted(number, word) for word, number in counts.items() if number)
    print(f"{arguments.file}: fine ({summary or 'nothing declared'})")
    return ExitCode.DONE


def _print_warnings(compiled: Compiled) -> None:
    if compiled.warnings:
        show(compiled.warnings)


def _print_files(compiled: Compiled) -> None:
    for line in compiled.files:
        print(f"weights: {line}")


def expand(arguments: argparse.Namespace) -> int:
    """`kdplan expand FILE`: print the plan in core declarations."""
    from kdplan.passes.expand import expand as expanded_text

    print(expanded_text(compile_file(arguments).plan), end="")
    return ExitCode.DONE


def plan(arguments: argparse.Namespace) -> int:
    """`kdplan plan FILE`: print every phase with its action, the reason for it, and its cost.

    Returns
    -------
    int
        10 with `--detailed-exitcode` where a run would train; else 0.
    """
    from kdplan.view import plan as view

    store = open_store(arguments, sweep=True)
    with no_code(arguments.no_code):
        compiled = compile_file(arguments, store)
        if not arguments.no_cost:
            add_costs(compiled, store)
    if arguments.json:
        data = view.to_json(compiled.planned, file=str(arguments.file), weights=compiled.files)
        print(json.dumps(data, indent=2, ensure_ascii=False))
    else:
        _print_warnings(compiled)
        view.print_plan(compiled.planned, title=str(arguments.file), every=arguments.all)
        _print_files(compiled)
    to_do = any(p.action not in ("cached", "blocked") for p in compiled.planned.values())
    return ExitCode.TO_DO if arguments.detailed_exitcode and to_do else ExitCode.DONE


def graph(arguments: argparse.Namespace) -> int:
    """`kdplan graph FILE -o OUTPUT`: draw the DAG of phases, or with `--phase` one phase's graph.

    Raises
    ------
    PlanError
        KD0911 without the `dot` program for svg and png, KD0912 for an unknown format.
    """
    arguments.output = writable_file("-o", arguments.output)
    store = open_store(arguments, sweep=True)
    compiled = compile_file(arguments, store)
    if arguments.phase:
        _draw_phase(arguments, compiled)
    else:
        from kdplan.view.dag import write_dag

        write_dag(compiled.plan, compiled.planned, arguments.output, title=arguments.file.name, every=arguments.all)
    print(f"wrote {arguments.output}")
    return ExitCode.DONE


def _draw_phase(arguments: argparse.Namespace, compiled: Compiled) -> None:
    from kdplan.graph.draw import drawing, to_dot, to_mermaid
    from kdplan.view.dag import write_drawing

    name = find_phase(compiled, arguments.phase)
    joined = inspect(compiled, [name], existing_store(arguments))[name].joined
    drawn = drawing(joined.graph_module, joined.trainable)
    title = f"{arguments.file.name}: {name}"
    write_drawing(arguments.output, lambda: to_dot(drawn, title), lambda: to_mermaid(drawn))


def find_phase(compiled: Compiled, name: str) -> str:
    """Return the full name of the phase that `name` means; coordinates may be left out where one phase remains.

    Raises
    ------
    PlanError
        KD0310 if there is none, KD0012 if there are several.
    """
    from kdplan.passes.schedule import select

    names = sorted(select(compiled.planned, compiled.dag, only=[name]) or set())
    if name in names:
        return name
    if len(names) > 1:
        raise error("KD0012", None, name=name, names=listing(names))
    return names[0]


def status(arguments: argparse.Namespace) -> int:
    """`kdplan status FILE`: print the state of each phase in the store."""
    from kdplan.view import status as view

    store = open_store(arguments)
    compiled = compile_file(arguments, store)
    if arguments.json:
        print(json.dumps(view.to_json(view.status(compiled.planned, store, compiled.plan)), indent=2))
    else:
        view.print_status(compiled.planned, store, plan=compiled.plan)
    return ExitCode.DONE


def why(arguments: argparse.Namespace) -> int:
    """`kdplan why FILE PHASE`: print the reasons for one phase's action."""
    from kdplan.view import plan as view
    from kdplan.view.why import print_why

    compiled = compile_file(arguments, open_store(arguments))
    name = find_phase(compiled, arguments.phase)
    if arguments.json:
        (phase,) = view.to_json({name: compiled.planned[name]}, file=str(arguments.file))["phases"]
        print(json.dumps(phase, indent=2, ensure_ascii=False))
    else:
        print_why(compiled.planned, name)
    return ExitCode.DONE


def run(arguments: argparse.Namespace) -> int:
    """`kdplan run FILE`: train the phases that are not in the store, then print the measures. A second run resumes.

    Of the processes that `torchrun` starts, the first does all of it, and the others their shards of what it trains.

    Returns
    -------
    int
        0, 1 if a phase failed, 75 if the run was interrupted.

    Raises
    ------
    PlanError
        With every error that can be found before training.
    """
    from kdplan.runtime.options import processes

    if processes() == 1:
        return _run_alone(arguments)
    from kdplan.runtime.ranks import Ranks

    ranks = Ranks.start()
    return _lead(arguments, ranks) if ranks.leads else _follow(arguments, ranks)


def _lead(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """Run as the first of several processes; the others end with it."""
    code = int(ExitCode.FAILED)
    try:
        code = _run_alone(arguments, ranks)
    except PlanError as problem:
        code = int(getattr(problem, "exit_code", ExitCode.INVALID))
        raise
    finally:
        ranks.end(code)
    return code


def _follow(arguments: argparse.Namespace, ranks: Ranks) -> int:
    """Compute shards of what the first process trains, in silence."""
    from kdplan.runtime.follow import follow
    from kdplan.runtime.options import RunOptions

    options = RunOptions(
        device=arguments.device, deterministic=arguments.deterministic, data_root=data_root(arguments), ranks=ranks
    )

    def compiled() -> tuple[Plan, dict[str, PhaseKey]]:
        whole = compile_file(arguments)
        return whole.plan, whole.keys

    def report(problem: PlanError) -> None:
        show(problem.diagnostics)

    return follow(compiled, open_store(arguments), options, report)


def _run_alone(arguments: argparse.Namespace, ranks: Ranks | None = None) -> int:
    """Train and measure as the process that has the store."""
    from kdplan.runtime.options import RunOptions
    from kdplan.runtime.reading import reading, to_train

    store = open_store(arguments, sweep=True)
    for option in ("csv", "plots", "tensorboard"):
        if (name := getattr(arguments, option)) is not None:
            setattr(arguments, option, writable_folder(f"--{option}", name))
    options = RunOptions(
        device=arguments.device,
        deterministic=arguments.deterministic,
        keep_going=arguments.keep_going,
        checkpoint_seconds=arguments.checkpoint_seconds,
        wait_for_space=arguments.wait_for_space,
        wait=not arguments.no_wait,
        plan_file=str(arguments.file),
        settings=" ".join(f"{name}={value}" for name, value in sorted(param_values(arguments.set).items())),
        data_root=data_root(arguments),
        tensorboard=arguments.tensorboard,
        ranks=ranks,
    )

    unwritable: list[PlanError] = []

    def compiled_plan() -> Compiled:
        compiled = compile_file(arguments, store)
        if to_train(compiled.planned):
            try:
                open_store(arguments, write=True)
            except PlanError as problem:
                if not arguments.keep_going:
                    raise
                unwritable.append(problem)
        return compiled

    try:
        with reading(compiled_plan, store, options, _Noted()) as compiled:
            if unwritable:
                _measure(arguments, compiled, store, options)
                raise unwritable[-1]
            code = _run(arguments, compiled, store, options)
        left = store.settle()
        if left is not None:
            show([left])
        return code or (ExitCode.FAILED if left is not None else ExitCode.DONE)
    finally:
        if store.refused is not None:
            _warn("KD0916", root=str(store.root), reason=store.refused.diagnostics[0].message)


def _warn(code: str, **values: str) -> None:
    """Print a warning of the store."""
    show([diagnostic(code, None, notes=(), help=None, **values)])


def _run(arguments: argparse.Namespace, compiled: Compiled, store: Store, options: RunOptions) -> int:
    """Train what is missing, then show what was measured."""
    from kdplan.cli import jobs
    from kdplan.cli.detach import detach, is_detached
    from kdplan.runtime.execute import repairing, run_plan
    from kdplan.runtime.reading import to_train
    from kdplan.view.progress import TensorBoard, observer

    names = to_train(compiled.planned)
    several = jobs.wanted(arguments) and names != []
    if options.ranks is not None and (several or arguments.detach):
        raise error("KD0977", None, option="--detach" if arguments.detach else "--jobs` and `--engine")
    if arguments.detach and names and not is_detached():
        _check_before_training(compiled, names, "cpu" if jobs.elsewhere(arguments) else options.device, store)
        _print_warnings(compiled)
        print(detach(arguments.words, store, arguments.file))
        return ExitCode.DONE
    with jobs.workers(arguments, compiled, store, options) if several else nullcontext() as workers:
        if names:
            _check_before_training(compiled, names, "cpu" if jobs.elsewhere(arguments) else options.device, store)
        if names and options.ranks is not None:
            _check_ranks(compiled, names, options.ranks)
        _print_warnings(compiled)
        events = observer()
        if arguments.tensorboard:
            events = Several([events, TensorBoard(arguments.tensorboard)])
        for line in compiled.files:
            events.note(f"weights: {line}")
        if workers is not None:
            result = workers.train(compiled, store, events)
        else:
            with jobs.recorded(compiled, store, options) if names else nullcontext(NoEvents()) as moments:
                several_events = Several([events, moments])
                result = run_plan(compiled.plan, compiled.planned, compiled.keys, store, options, several_events)
    if result.exit_code == ExitCode.INTERRUPTED:
        where = f"in {result.interrupted}" if result.interrupted else "before the measures"
        print(f"interrupted {where} by {result.by}; the same command resumes there", file=sys.stderr)
    elif result.exit_code == 0 or arguments.keep_going:
        repair = repairing(compiled.plan, compiled.planned, compiled.keys, store, options, events)
        _measure(arguments, compiled, store, options, repair)
    return result.exit_code


def _check_ranks(compiled: Compiled, names: list[str], ranks: Ranks) -> None:
    """Report phases that so many processes cannot train (an error), or that one trains alone (a warning)."""
    from kdplan.runtime.ranks import check_ranks

    if alone := check_ranks(compiled.plan, names, ranks):
        compiled.warnings.append(diagnostic("KD0958", None, phases=listing(alone, 4), ranks=ranks.size))


def _measure(
    arguments: argparse.Namespace,
    compiled: Compiled,
    store: Store,
    options: RunOptions,
    repair: Callable[[Path], bool] | None = None,
) -> None:
    """Show the tables of what is in the store."""
    from kdplan.runtime.measures.table import run_measures

    printed = _Printed(arguments, arguments.plots or store.root / "plots" / arguments.file.stem)
    run_measures(compiled.plan, compiled.keys, store, options, printed, repair)


def _check_before_training(compiled: Compiled, to_do: list[str], device: str, store: Store) -> None:
    """Report every error that can be found before the first step: the device, and the graphs of `to_do`."""
    from kdplan.runtime.device import choose_device

    choose_device(device)
    inspect(compiled, to_do, store)


class _Noted(NoEvents):
    """Prints what is said before there is a display."""

    def note(self, text: str) -> None:
        """Print one sentence."""
        print(text, file=sys.stderr)


class _Printed(NoEvents):
    """Prints each table, with its plots, as soon as it is complete."""

    def __init__(self, arguments: argparse.Namespace, plots: Path) -> None:
        self.arguments, self.plots = arguments, plots

    def note(self, text: str) -> None:
        """Print what is missing in a table, before it."""
        from kdplan.view.words import console

        out = console()
        out.print()
        out.print(text, highlight=False)

    def measured(self, name: str, table: MeasureResult) -> None:
        """Print a table."""
        from kdplan.view import tables as view
        from kdplan.view.plots import write_plots
        from kdplan.view.words import console

        out = console()
        out.print()
        out.print(view.printed(table, out.width))
        if self.arguments.csv:
            self.arguments.csv.mkdir(parents=True, exist_ok=True)
            (self.arguments.csv / f"{name}.csv").write_text(view.to_csv(table), encoding="utf-8")
        try:
            for file in write_plots(table, self.plots, view.unit):
                out.print(f"plot: {file}", soft_wrap=True, highlight=False)
        except StoreUnwritable as problem:
            if self.arguments.plots:
                raise
            _warn("KD0924", name=name, reason=problem.diagnostics[0].message)


def export(arguments: argparse.Namespace) -> int:
    """`kdplan export FILE NAME -o DIR`: write a network's weights and a description to load them with.

    Raises
    ------
    PlanError
        KD0013 if the plan has no such export, KD0014 if its phase is not trained.
    """
    folder = writable_folder("-o", arguments.output)
    store = open_store(arguments, sweep=True)
    compiled = compile_file(arguments, store)
    exports = compiled.plan.exports
    if arguments.name not in exports:
        help = suggestion(arguments.name, exports) or _first_export(compiled, arguments.name)
        raise error("KD0013", None, name=arguments.name, help=help)
    declared = exports[arguments.name]
    for version in declared.target.versions:
        if version.phase is not None and not store.has(compiled.keys[version.phase].key):
            raise error("KD0014", declared.span, name=arguments.name, phase=version.phase, file=arguments.file)
    from kdplan.runtime.export import export_network
    from kdplan.runtime.options import RunOptions
    from kdplan.runtime.versions import Sources

    sources = Sources(compiled.plan, store, compiled.keys)
    options = RunOptions(data_root=data_root(arguments))
    with boundary("KD0847", declared.span, name=arguments.name):
        description = export_network(sources, declared, folder, program=arguments.program, options=options)
    parameters = description["parameters"]
    print(f"wrote {folder}: {parameters:,} parameters; loaded again, and its outputs are equal")
    return ExitCode.DONE


def _first_export(compiled: Compiled, name: str) -> str | None:
    """The declaration of an export, for a plan that has none."""
    for phase in reversed(compiled.plan.phases.values()):
        network = phase.trainees[0].base.network.partition("[")[0]
        by = phase.name.rpartition("@")[2].partition("[")[0]
        return f"Declare it in the plan, such as `export {name if name.isidentifier() else 'best'} = {network}@{by}`."
    return None
