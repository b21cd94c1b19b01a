"""The commands that read a plan: each is a few lines between the compiler, the runtime and the views."""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from kdplan.cli import inputs as session
from kdplan.cli.exit_codes import FINE, TO_DO
from kdplan.compile import Compiled, inspect
from kdplan.diagnostics.render import render_text, to_json
from kdplan.diagnostics.report import counted, error, listing, nearest

if TYPE_CHECKING:
    from kdplan.runtime.measures.results import MeasureResult


def _warn(made: Compiled) -> None:
    if made.warnings:
        print(render_text(made.warnings, color=sys.stderr.isatty()), file=sys.stderr)


def check(given: argparse.Namespace) -> int:
    """`kdplan check FILE`: every mistake that can be known before anything trains."""
    made = session.compiled(given)
    inspect(made)
    if given.format == "json":
        print(json.dumps(to_json(made.warnings), indent=2, ensure_ascii=False))
        return FINE
    _warn(made)
    plan = made.plan
    counts = {
        "phase": len(plan.phases),
        "network": len(plan.networks),
        "measure": len(plan.measures),
        "export": len(plan.exports),
    }
    said = ", ".join(counted(number, word) for word, number in counts.items() if number)
    print(f"{given.file}: fine ({said or 'nothing declared'})")
    return FINE


def expand(given: argparse.Namespace) -> int:
    """`kdplan expand FILE`: the plan in the core of the language."""
    from kdplan.passes.expand import expand as expanded

    print(expanded(session.compiled(given).plan), end="")
    return FINE


def plan(given: argparse.Namespace) -> int:
    """`kdplan plan FILE`: the DAG with actions, reasons and costs."""
    from kdplan.view import plan as view

    store = session.open_store(given)
    made = session.compiled(given, store)
    if not given.no_cost:
        session.add_costs(made, store)
    if given.json:
        print(json.dumps(view.to_json(made.planned, file=str(given.file)), indent=2, ensure_ascii=False))
    else:
        _warn(made)
        view.print_plan(made.planned, title=str(given.file), every=given.all)
    to_do = any(p.action not in ("cached", "blocked") for p in made.planned.values())
    return TO_DO if given.detailed_exitcode and to_do else FINE


def graph(given: argparse.Namespace) -> int:
    """`kdplan graph FILE -o X`: the DAG, or one phase's network, as a picture."""
    store = session.open_store(given)
    made = session.compiled(given, store)
    if given.phase:
        _draw_phase(given, made)
    else:
        from kdplan.view.dag import write_dag

        write_dag(made.plan, made.planned, given.output, title=given.file.name, every=given.all)
    print(f"wrote {given.output}")
    return FINE


def _draw_phase(given: argparse.Namespace, made: Compiled) -> None:
    from kdplan.graph.draw import drawing, to_dot, to_mermaid
    from kdplan.view.dag import write_drawing

    name = one_phase(made, given.phase)
    found = inspect(made, [name])[name].joined
    drawn = drawing(found.graph_module, found.trainable)
    write_drawing(given.output, lambda: to_dot(drawn, f"{given.file.name}: {name}"), lambda: to_mermaid(drawn))


def one_phase(made: Compiled, wanted: str) -> str:
    """The phase that a name on the command line means: whole, or without its coordinates where that is enough.

    Raises
    ------
    PlanError
        KD0310 if there is none, KD0012 if there are several.
    """
    from kdplan.passes.schedule import select

    found = sorted(select(made.planned, made.dag, only=[wanted]) or set())
    if wanted in found:
        return wanted
    if not found:
        raise error("KD0310", None, name=wanted, nearest=nearest(wanted, made.planned))
    if len(found) > 1:
        raise error("KD0012", None, name=wanted, names=listing(found))
    return found[0]


def status(given: argparse.Namespace) -> int:
    """`kdplan status FILE`: where each phase stands."""
    from kdplan.view import status as view

    store = session.open_store(given)
    made = session.compiled(given, store)
    if given.json:
        print(json.dumps(view.to_json(view.status(made.planned, store)), indent=2))
    else:
        view.print_status(made.planned, store)
    return FINE


def why(given: argparse.Namespace) -> int:
    """`kdplan why FILE PHASE`: the reasons for one phase's action."""
    from kdplan.view import plan as view
    from kdplan.view.why import print_why

    made = session.compiled(given, session.open_store(given))
    name = one_phase(made, given.phase)
    if given.json:
        found = view.to_json({name: made.planned[name]}, file=str(given.file))
        print(json.dumps(found["phases"][0], indent=2, ensure_ascii=False))
    else:
        print_why(made.planned, name)
    return FINE


def run(given: argparse.Namespace) -> int:
    """`kdplan run FILE`: trains what is not there, measures, shows the tables. Running again goes on."""
    from kdplan.runtime.events import Several
    from kdplan.runtime.execute import run_plan
    from kdplan.runtime.measures.table import run_measures
    from kdplan.runtime.options import RunOptions
    from kdplan.view.live import TensorBoard, observer

    store = session.open_store(given)
    made = session.compiled(given, store)
    _warn(made)
    to_do = [n for n, p in made.planned.items() if p.action not in ("cached", "blocked") and p.same_as is None]
    options = RunOptions(
        device=given.device,
        deterministic=given.deterministic,
        keep_going=given.keep_going,
        checkpoint_seconds=given.checkpoint_seconds,
        plan_file=str(given.file),
        data_root=session.data_root(given),
        tensorboard=given.tensorboard,
    )
    if to_do:
        _before_training(made, to_do, options.device)
        store.sweep()
    watching = observer()
    if given.tensorboard:
        watching = Several([watching, TensorBoard(given.tensorboard)])
    result = run_plan(made.plan, made.planned, made.keys, store, options, watching)
    if result.interrupted is not None:
        print(f"stopped in {result.interrupted}; `kdplan run {given.file}` goes on from there", file=sys.stderr)
    if result.exit_code == 0 or (given.keep_going and result.interrupted is None):
        tables = run_measures(made.plan, made.keys, store, options)
        _show_tables(given, tables, given.plots or store.root / "plots" / given.file.stem)
    return result.exit_code


def _before_training(made: Compiled, to_do: list[str], device: str) -> None:
    """Every mistake that can be known is told before the first step."""
    from kdplan.runtime.device import choose_device

    choose_device(device)
    inspect(made, to_do)


def _show_tables(given: argparse.Namespace, tables: list[MeasureResult], plots: Path) -> None:
    from kdplan.view import tables as view
    from kdplan.view.plots import write_plots
    from kdplan.view.words import console

    out = console()
    for table in tables:
        out.print()
        out.print(view.printed(table, out.width))
        if given.csv:
            given.csv.mkdir(parents=True, exist_ok=True)
            (given.csv / f"{table.name}.csv").write_text(view.to_csv(table), encoding="utf-8")
        for file in write_plots(table, plots, view.unit):
            out.print(f"picture: {file}", soft_wrap=True, highlight=False)


def export(given: argparse.Namespace) -> int:
    """`kdplan export FILE NAME -o DIR`: a network's weights and what is needed to use them."""
    store = session.open_store(given)
    made = session.compiled(given, store)
    if given.name not in made.plan.exports:
        near = nearest(given.name, made.plan.exports)
        raise error("KD0013", None, name=given.name, nearest=near, known=listing(made.plan.exports))
    wanted = made.plan.exports[given.name]
    for version in wanted.target.versions:
        if version.phase is not None and not store.has(made.keys[version.phase].key):
            raise error("KD0014", wanted.span, name=given.name, phase=version.phase, file=given.file)
    from kdplan.runtime.export import export_network
    from kdplan.runtime.options import RunOptions

    options = RunOptions(data_root=session.data_root(given))
    about = export_network(session.sources(made, store), wanted, given.output, program=given.program, options=options)
    print(f"wrote {given.output}: {about['parameters']:,} parameters, loaded again and found equal")
    return FINE
