"""The arguments of every command."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path

from kdplan import __version__
from kdplan.ir.limits import MEANINGS

Command = Callable[[argparse.Namespace], int]
Subparsers = argparse._SubParsersAction


@dataclass(frozen=True)
class Commands:
    """A module's commands, which is imported when one of them is called: `--help` needs none.

    >>> Commands("language").fmt.__name__
    'fmt'
    """

    module: str

    def __getattr__(self, name: str) -> Command:
        def command(arguments: argparse.Namespace) -> int:
            code: int = getattr(import_module(f"kdplan.cli.{self.module}"), name)(arguments)
            return code

        command.__name__, command.__module__ = name, f"kdplan.cli.{self.module}"
        return command


claims, commands, language = Commands("claims"), Commands("commands"), Commands("language")
run = Commands("run")
shared, stored, worker, workflow = Commands("shared"), Commands("stored"), Commands("worker"), Commands("workflow")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the whole command line; its `command` is the function to call.

    >>> parser().parse_args(["check", "a.kd"]).file
    PosixPath('a.kd')
    """
    top = argparse.ArgumentParser(
        prog="kdplan",
        description="Plan, run and resume teacher-student training.",
        epilog="`kdplan COMMAND --help` lists the options of a command. Exit codes: 0 done, 1 a phase failed, 2 error "
        "in the plan or the command, 3 store locked, 4 store corrupt, 10 something to train (`plan "
        "--detailed-exitcode`), 75 interrupted and resumable.",
    )
    top.add_argument("--version", action="version", version=f"kdplan {__version__}")
    subparsers = top.add_subparsers(title="commands", metavar="COMMAND", required=True)
    _add_checks(subparsers)
    _add_views(subparsers)
    _add_run(subparsers)
    _add_claims(subparsers)
    _add_work(subparsers)
    _add_export(subparsers)
    _add_workflow(subparsers)
    _add_stored(subparsers)
    _add_language(subparsers)
    return top


def _add(
    subparsers: Subparsers[argparse.ArgumentParser], name: str, command: Command, text: str
) -> argparse.ArgumentParser:
    added = subparsers.add_parser(name, help=text, description=text)
    added.set_defaults(command=command)
    return added


def _add_plan_options(command: argparse.ArgumentParser, store: bool = True) -> None:
    command.add_argument("file", type=Path, metavar="FILE", help="the plan file")
    command.add_argument(
        "--set", action="append", default=[], metavar="NAME=VALUE",
        help="set a param of FILE; may be given several times",
    )  # fmt: skip
    _add_compiling(command)
    if store:
        _add_store(command)


def _add_compiling(command: argparse.ArgumentParser) -> None:
    """What compiling a plan may read, run and use."""
    command.add_argument(
        "--data", type=Path, default=None, metavar="DIR", help="read data sets from DIR (default: $KDPLAN_DATA)"
    )
    command.add_argument(
        "--trust", action="append", default=[], metavar="PACKAGE",
        help="run code of this installed package, as FILE asks for (default: $KDPLAN_TRUST)",
    )  # fmt: skip
    command.add_argument(
        "--limit", action="append", default=[], metavar="NAME=NUMBER",
        help="let a plan make or use more: " + "; ".join(f"{n} ({text})" for n, text in MEANINGS.items()),
    )  # fmt: skip


def _add_store(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--store", default=None, metavar="DIR",
        help="keep results in DIR, or at an address such as s3://bucket/folder with a cache in $KDPLAN_CACHE, else "
        "~/.cache/kdplan (default: $KDPLAN_STORE, else ./.kdplan)",
    )  # fmt: skip


def _add_selection(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--only", nargs="+", default=[], metavar="PHASE", help="select these phases and those that they need"
    )
    command.add_argument("--until", nargs="+", default=[], metavar="PHASE", help="the same as --only")


def _add_no_code(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--no-code", action="store_true", help="run no Python code of yours, and list what is not checked without it"
    )


def _add_checks(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    check = _add(subparsers, "check", commands.check, "Report every error that can be found before training.")
    _add_plan_options(check)
    check.add_argument(
        "--format", choices=("text", "json"), default="text", help="print errors as text or as JSON (default: text)"
    )
    _add_no_code(check)
    expand = _add(
        subparsers, "expand", commands.expand,
        "Print the plan in core declarations: axes, families, constructs and definitions written out.",
    )  # fmt: skip
    _add_plan_options(expand, store=False)


def _add_views(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    plan = _add(subparsers, "plan", commands.plan, "Show what a run would do with each phase, why, and at what cost.")
    _add_plan_options(plan)
    _add_selection(plan)
    plan.add_argument("--json", action="store_true", help="print JSON")
    plan.add_argument("--all", action="store_true", help="list every member of large families")
    plan.add_argument("--no-cost", action="store_true", help="leave out costs, and so build no graphs")
    _add_no_code(plan)
    plan.add_argument("--detailed-exitcode", action="store_true", help="exit with 10 if a run would train")
    graph = _add(subparsers, "graph", commands.graph, "Draw the DAG of phases, or with --phase the graph of one phase.")
    _add_plan_options(graph)
    graph.add_argument(
        "-o", "--output", required=True, metavar="OUTPUT", help="write to a .svg, .png, .dot or .mmd file"
    )
    graph.add_argument("--phase", metavar="PHASE", help="draw the graph of this phase: networks, adapters, loss")
    graph.add_argument("--all", action="store_true", help="draw every member of large families")
    status = _add(subparsers, "status", commands.status, "Show the state of each phase: done, running, interrupted.")
    _add_plan_options(status)
    status.add_argument("--json", action="store_true", help="print JSON")
    why = _add(subparsers, "why", commands.why, "Explain why a run would train a phase, or would not.")
    _add_plan_options(why)
    why.add_argument("phase", metavar="PHASE", help="a phase, such as kd or 'kd[seed=0]'")
    why.add_argument("--json", action="store_true", help="print JSON")


def _add_run(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    command = _add(subparsers, "run", run.run, "Train what is not in the store, resume what was interrupted, measure.")
    _add_plan_options(command)
    _add_selection(command)
    command.add_argument("--device", default="auto", help="train on auto, cpu, cuda, cuda:1 or mps (default: auto)")
    command.add_argument("--deterministic", action="store_true", help="use deterministic kernels on GPUs, too")
    command.add_argument(
        "--fast", action="store_true",
        help="share each batch among the processes of torchrun as its DDP does: fast, and not to the same bits",
    )  # fmt: skip
    command.add_argument(
        "--fully-shard", action="store_true",
        help="as --fast, and each process keeps a part only of what is trained: for phases that do not fit on one GPU",
    )  # fmt: skip
    command.add_argument(
        "--keep-going", action="store_true", help="after a failure, run the phases that do not need it"
    )
    command.add_argument(
        "--checkpoint-seconds", type=float, default=60.0, metavar="SECONDS",
        help="save a checkpoint every so many seconds inside an epoch (default: 60)",
    )  # fmt: skip
    command.add_argument(
        "--wait-for-space", action="store_true", help="when the disk is full, wait for space in place of a failure"
    )
    command.add_argument(
        "--no-wait", action="store_true", help="end with exit code 3 where another process trains a phase, at once"
    )
    command.add_argument(
        "--jobs", default=None, metavar="N", help="train up to N phases at a time, or auto: as many as this machine can"
    )
    command.add_argument(
        "--engine",
        default=None,
        metavar="NAME",
        help="train phases in workers of this engine: local (the default with --jobs), slurm, ray",
    )
    command.add_argument(
        "--engine-option", action="append", default=[], metavar="NAME=VALUE",
        help="an option of the engine, such as partition=gpu (docs/scaling.md); may be given several times",
    )  # fmt: skip
    command.add_argument(
        "--detach", action="store_true", help="after the checks, go on in the background, also when the terminal closes"
    )
    command.add_argument("--tensorboard", default=None, metavar="DIR", help="write TensorBoard files to DIR")
    command.add_argument(
        "--plots", default=None, metavar="DIR",
        help="write plots of measures to DIR (default: plots/<plan> in the store)",
    )  # fmt: skip
    command.add_argument("--csv", default=None, metavar="DIR", help="write tables of measures to DIR as CSV")
    command.add_argument(
        "--decide", type=_positive, default=None, metavar="N",
        help="add seeds until every claim holds or is refuted, or has N of them",
    )  # fmt: skip
    _add_level(command)
    command.set_defaults(tables=True)


def _add_level(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--level", type=_share, default=0.95, metavar="SHARE", help="declare claims at this level (default: 0.95)"
    )


def _positive(text: str) -> int:
    if (value := int(text)) < 1:
        raise ValueError
    return value


def _share(text: str) -> float:
    if not 0 < (value := float(text)) < 1:
        raise ValueError
    return value


def _add_claims(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    text = "Say which claims of a plan hold, from the runs that the store holds."
    command = _add(subparsers, "claims", claims.claims, text)
    _add_plan_options(command)
    _add_level(command)
    command.add_argument("--device", default="auto", help="measure on auto, cpu, cuda, cuda:1 or mps (default: auto)")
    forms = command.add_mutually_exclusive_group()
    forms.add_argument("--json", action="store_true", help="print JSON")
    forms.add_argument("--csv", action="store_true", help="print CSV")
    command.add_argument("--strict", action="store_true", help="exit with 1 where a claim does not hold")


def _add_work(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    text = "Train phases of a run's snapshot, as engines do; `kdplan run` writes the snapshot and measures."
    command = _add(subparsers, "work", worker.work, text)
    command.add_argument("snapshot", type=Path, metavar="SNAPSHOT", help="the file snapshot.json of a run")
    command.add_argument(
        "--phase", nargs="+", required=True, metavar="KEY",
        help="train these phases, in this order: keys or names; - reads lines `KEY DEVICE` until they end",
    )  # fmt: skip
    command.add_argument(
        "--store", default=None, metavar="DIR", help="keep results in DIR (default: the store that SNAPSHOT is in)"
    )
    command.add_argument("--device", default="", help="train on this device (default: that of the run)")
    command.add_argument("--data", type=Path, default=None, metavar="DIR", help="read data sets from DIR")
    command.add_argument(
        "--no-wait", action="store_true", help="end with exit code 3 where another process trains the phase, at once"
    )


def _add_export(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    export = _add(
        subparsers, "export", commands.export, "Write a trained network: its weights and a description to load them."
    )
    _add_plan_options(export)
    export.add_argument("name", metavar="NAME", help="an export of the plan")
    export.add_argument("-o", "--output", required=True, metavar="DIR", help="write to the folder DIR")
    export.add_argument("--program", action="store_true", help="write a torch.export program, too")


def _add_workflow(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    text = "Write a plan's phases as rules of another workflow tool."
    command = _add(subparsers, "export-workflow", workflow.export_workflow, text)
    command.add_argument("tool", choices=("snakemake",), help="the tool")
    _add_plan_options(command)
    _add_selection(command)
    command.add_argument("-o", "--output", required=True, metavar="DIR", help="write to the folder DIR")


def _add_stored(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    text = "Look at what is stored, check it against its hashes, remove what nobody reads."
    inner = subparsers.add_parser("store", help=text, description=text)
    below = inner.add_subparsers(title="commands", metavar="COMMAND", required=True)
    what = "a plan that was run with this store, a phase, or the first digits of a key"

    def add(name: str, command: Command, text: str) -> argparse.ArgumentParser:
        added = _add(below, name, command, text)
        _add_store(added)
        added.add_argument("--json", action="store_true", help="print JSON")
        return added

    add("verify", stored.verify, "Compare every byte with its hash; say what is damaged, and what a run will do.")
    ls = add("ls", stored.ls, "List phases, attempts and frozen values: state, size, age, the plans that read them.")
    ls.add_argument("what", nargs="*", metavar="WHAT", help=f"list only this: {what}")
    ls.add_argument("--all", action="store_true", help="list everything, also of large stores")
    add("du", stored.du, "Show sizes by kind of content and by plan.")
    gc = add("gc", stored.gc, "List what no remembered plan and no process reads; with --yes remove it.")
    gc.add_argument("--keep", action="append", default=[], metavar="WHAT", help=f"keep this, too: a plan file, {what}")
    gc.add_argument("--yes", action="store_true", help="remove what is listed")
    gc.add_argument("--all", action="store_true", help="list everything")
    _add_compiling(gc)
    rm = add("rm", stored.rm, "Remove what a plan or a phase left in the store.")
    rm.add_argument("what", nargs="+", metavar="WHAT", help=what)
    rm.add_argument("--yes", action="store_true", help="do not ask")
    rm.add_argument("--force", action="store_true", help="remove also what others read")
    for name, command, text in (
        ("push", shared.push, "Copy finished phases and numbers of the store to the cloud."),
        ("pull", shared.pull, "Copy finished phases and numbers from the cloud to the store."),
    ):
        copy = add(name, command, text)
        copy.add_argument("address", metavar="ADDRESS", help="such as s3://bucket/folder")
        copy.add_argument("what", nargs="*", metavar="WHAT", help=f"copy only this: a plan file, {what}")
        _add_compiling(copy)


def _add_language(subparsers: Subparsers[argparse.ArgumentParser]) -> None:
    fmt = _add(subparsers, "fmt", language.fmt, "Rewrite plan files in the standard layout; comments stay.")
    fmt.add_argument("files", type=Path, nargs="+", metavar="FILE", help="plan files, or folders of them")
    fmt.add_argument("--check", action="store_true", help="change no file; exit with 1 if one would change")
    fmt.add_argument("--diff", action="store_true", help="change no file; print what would change")
    explain = _add(subparsers, "explain", language.explain, "Explain an error code, with an example.")
    explain.add_argument("code", metavar="CODE", help="an error code, such as KD0205")
    _add(subparsers, "schema", language.schema, "Print the JSON schema of core plans, for tools that write them.")
