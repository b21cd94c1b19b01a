"""`kdplan run`: train what is missing, alone, in workers, or as one of several processes; then show the measures."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from kdplan.cli.commands import print_warnings
from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import compile_file, data_root, open_store, param_values, show
from kdplan.cli.outputs import writable_folder
from kdplan.compile import Compiled, inspect
from kdplan.diagnostics.report import PlanError, diagnostic, error, listing
from kdplan.passes.stacking import is_stacked
from kdplan.runtime.events import NoEvents, Several
from kdplan.runtime.store import StoreUnwritable

if TYPE_CHECKING:
    from kdplan.ir.dag import PhaseKey
    from kdplan.ir.plan import Plan
    from kdplan.runtime.measures.results import MeasureResult
    from kdplan.runtime.options import RunOptions
    from kdplan.runtime.ranks import Ranks, Way
    from kdplan.runtime.store import Store


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

    if arguments.decide is not None:
        from kdplan.cli.claims import decide

        if processes() > 1:
            raise error("KD0977", None, option="--decide")
        return decide(arguments, _run_alone)
    way: Way = "fully-shard" if arguments.fully_shard else "fast" if arguments.fast else ""
    if processes() == 1:
        if way:
            _warn("KD0982", option=f"--{way}")
        return _run_alone(arguments)
    from kdplan.runtime.ranks import Ranks

    ranks = Ranks.start(way)
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
    if several and (stacked := [name for name in names if is_stacked(compiled.plan, compiled.planned[name])]):
        compiled.warnings.append(diagnostic("KD1013", None, phases=listing(stacked, 4)))
    if options.ranks is not None and (several or arguments.detach):
        raise error("KD0977", None, option="--detach" if arguments.detach else "--jobs` and `--engine")
    device = "cpu" if jobs.elsewhere(arguments) else options.device
    if arguments.detach and names and not is_detached():
        _check_before_training(compiled, names, device, store)
        print_warnings(compiled)
        print(detach(arguments.words, store, arguments.file))
        return ExitCode.DONE
    with jobs.workers(arguments, compiled, store, options) if several else nullcontext() as workers:
        if names:
            _check_before_training(compiled, names, device, store, options.ranks)
            if options.ranks is not None:
                _check_ranks(compiled, names, options.ranks)
        print_warnings(compiled)
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
    """Show the tables of what is in the store, and which claims hold."""
    from kdplan.cli import claims
    from kdplan.runtime.measures.table import run_measures

    if not arguments.tables:
        return
    printed = _Printed(arguments, arguments.plots or store.root / "plots" / arguments.file.stem)
    run_measures(compiled.plan, compiled.keys, store, options, printed, repair)
    if compiled.plan.claims and arguments.decide is None:
        claims.show(claims.verdicts(compiled, store, options, arguments.level, repair), arguments.level)


def _check_before_training(
    compiled: Compiled, to_do: list[str], device: str, store: Store, ranks: Ranks | None = None
) -> None:
    """Report every error that can be found before the first step: the device, and the graphs of `to_do`."""
    from kdplan.runtime.device import choose_device

    choose_device(device)
    inspect(compiled, to_do, store, ranks.size if ranks is not None and ranks.way else 1)


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
