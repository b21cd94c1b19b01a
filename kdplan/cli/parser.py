"""The arguments of every command."""

from __future__ import annotations

import argparse
from pathlib import Path

from kdplan import __version__
from kdplan.cli import commands, tools


def parser() -> argparse.ArgumentParser:
    """The whole command line.

    >>> parser().parse_args(["check", "a.kd"]).file
    PosixPath('a.kd')
    """
    top = argparse.ArgumentParser(prog="kdplan", description="Plan, run and resume teacher-student training.")
    top.add_argument("--version", action="version", version=f"kdplan {__version__}")
    verbs = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _check(verbs)
    _show(verbs)
    _run(verbs)
    _tools(verbs)
    return top


def _verb(verbs: argparse._SubParsersAction[argparse.ArgumentParser], name: str, text: str) -> argparse.ArgumentParser:
    return verbs.add_parser(name, help=text, description=text)


def _plan_file(verb: argparse.ArgumentParser, store: bool = True) -> None:
    verb.add_argument("file", type=Path, metavar="FILE", help="a plan file")
    verb.add_argument("--set", action="append", default=[], metavar="NAME=VALUE", help="a value for a param of FILE")
    verb.add_argument(
        "--data", type=Path, default=None, metavar="DIR", help="where data sets are (default: $KDPLAN_DATA)"
    )
    if store:
        verb.add_argument("--store", type=Path, default=None, metavar="DIR",
                          help="where results are kept (default: $KDPLAN_STORE, else ./.kdplan)")  # fmt: skip


def _selection(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--only", nargs="+", default=[], metavar="PHASE", help="these phases, and what they need")
    verb.add_argument("--until", nargs="+", default=[], metavar="PHASE", help="stop after these phases")


def _check(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    check = _verb(verbs, "check", "Tell all mistakes that can be known before anything trains.")
    _plan_file(check, store=False)
    check.add_argument("--format", choices=("text", "json"), default="text")
    check.set_defaults(command=commands.check)
    expand = _verb(verbs, "expand", "Print the plan in core phases: axes, families and definitions written out.")
    _plan_file(expand, store=False)
    expand.set_defaults(command=commands.expand)


def _show(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    plan = _verb(verbs, "plan", "Show every phase with what will be done, why, and at what cost.")
    _plan_file(plan)
    _selection(plan)
    plan.add_argument("--json", action="store_true", help="for scripts")
    plan.add_argument("--all", action="store_true", help="every member of large families")
    plan.add_argument("--no-cost", action="store_true", help="leave out costs, which need the graphs to be built")
    plan.add_argument("--detailed-exitcode", action="store_true", help="exit with 10 if there is something to do")
    plan.set_defaults(command=commands.plan)
    graph = _verb(verbs, "graph", "Draw the DAG of phases, or with --phase one phase's network.")
    _plan_file(graph)
    graph.add_argument("-o", "--output", type=Path, required=True, metavar="FILE", help="*.svg, *.png, *.dot or *.mmd")
    graph.add_argument("--phase", metavar="PHASE", help="draw this phase's spliced network")
    graph.add_argument("--all", action="store_true", help="every member of large families")
    graph.set_defaults(command=commands.graph)
    status = _verb(verbs, "status", "Where each phase stands.")
    _plan_file(status)
    status.add_argument("--json", action="store_true", help="for scripts")
    status.set_defaults(command=commands.status)
    why = _verb(verbs, "why", "Why a phase will run, or will not.")
    _plan_file(why)
    why.add_argument("phase", metavar="PHASE")
    why.add_argument("--json", action="store_true", help="for scripts")
    why.set_defaults(command=commands.why)


def _run(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    run = _verb(verbs, "run", "Run the plan, from wherever it was stopped; what is done is not done again.")
    _plan_file(run)
    _selection(run)
    run.add_argument("--device", default="auto", help="auto, cpu, cuda, cuda:1, mps")
    run.add_argument("--deterministic", action="store_true", help="exactly repeatable arithmetic on GPUs, too")
    run.add_argument("--keep-going", action="store_true", help="after a failure, go on with what does not need it")
    run.add_argument("--checkpoint-seconds", type=float, default=60.0, metavar="S",
                     help="how often a running phase is saved inside an epoch (default: 60)")  # fmt: skip
    run.add_argument("--tensorboard", type=Path, default=None, metavar="DIR", help="also write TensorBoard files")
    run.add_argument(
        "--plots",
        type=Path,
        default=None,
        metavar="DIR",
        help="where pictures of measures go (default: plots/<plan> in the store)",
    )
    run.add_argument("--csv", type=Path, default=None, metavar="DIR", help="also write the measures' tables as CSV")
    run.set_defaults(command=commands.run)
    export = _verb(verbs, "export", "Write an exported network: weights, and what is needed to use them.")
    _plan_file(export)
    export.add_argument("name", metavar="NAME", help="an export of the plan")
    export.add_argument("-o", "--output", type=Path, required=True, metavar="DIR")
    export.add_argument("--program", action="store_true", help="also a torch.export program")
    export.set_defaults(command=commands.export)


def _tools(verbs: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    fmt = _verb(verbs, "fmt", "Lay out plan files in the one way; comments stay.")
    fmt.add_argument("files", type=Path, nargs="+", metavar="FILE", help="plan files or folders of them")
    fmt.add_argument("--check", action="store_true", help="change nothing; exit with 1 if a file would change")
    fmt.add_argument("--diff", action="store_true", help="change nothing; show what would change")
    fmt.set_defaults(command=tools.fmt)
    explain = _verb(verbs, "explain", "What an error code means, with an example.")
    explain.add_argument("code", metavar="CODE")
    explain.set_defaults(command=tools.explain)
    schema = _verb(verbs, "schema", "Print the JSON schema of core plans, for plans written in Python.")
    schema.set_defaults(command=tools.schema)
