"""The commands that read a plan: each calls the compiler, the runtime and the views."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import add_costs, compile_file, data_root, existing_store, open_store, show
from kdplan.cli.outputs import writable_file, writable_folder
from kdplan.compile import Compiled, inspect
from kdplan.diagnostics.boundary import boundary
from kdplan.diagnostics.render import to_json
from kdplan.diagnostics.report import counted, error, listing, suggestion
from kdplan.ir.user_code import no_code

if TYPE_CHECKING:
    pass


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
    print_warnings(compiled)
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


def print_warnings(compiled: Compiled) -> None:
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
        print_warnings(compiled)
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
    from kdplan.view.status import trained_how
    from kdplan.view.why import print_why

    store = open_store(arguments)
    compiled = compile_file(arguments, store)
    name = find_phase(compiled, arguments.phase)
    if arguments.json:
        (phase,) = view.to_json({name: compiled.planned[name]}, file=str(arguments.file))["phases"]
        print(json.dumps(phase, indent=2, ensure_ascii=False))
    else:
        print_why(compiled.planned, name, how=trained_how(store, compiled.planned[name].key))
    return ExitCode.DONE


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
