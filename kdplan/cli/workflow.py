"""`kdplan export-workflow`: rules for other workflow tools."""

from __future__ import annotations

import argparse

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import add_costs, compile_file, data_root, open_store
from kdplan.cli.jobs import snapshot_of
from kdplan.cli.outputs import writable_folder
from kdplan.runtime.options import RunOptions
from kdplan.runtime.snapshot import write_snapshot
from kdplan.runtime.worker import SNAPSHOT
from kdplan.view.workflow import to_snakemake


def _options(arguments: argparse.Namespace) -> list[str]:
    """The options that decide which phases the plan has, for the command that measures."""
    words = [
        word for name in ("set", "trust", "limit") for text in getattr(arguments, name) for word in (f"--{name}", text)
    ]
    if arguments.data is not None:
        words += ["--data", str(arguments.data.resolve())]
    selected = [*arguments.only, *arguments.until]
    return words + (["--only", *selected] if selected else [])


def export_workflow(arguments: argparse.Namespace) -> int:
    """`kdplan export-workflow snakemake FILE -o DIR`: write DIR/Snakefile and DIR/snapshot.json.

    Raises
    ------
    PlanError
        With every error that can be found before training.
    """
    folder = writable_folder("-o", arguments.output)
    store = open_store(arguments, sweep=True)
    compiled = compile_file(arguments, store)
    add_costs(compiled, store)
    from kdplan.runtime.device import threads_predicted

    threads = {
        name: compiled.plan.phases[name].recipes[0].threads or threads_predicted(step.cost)
        for name, step in compiled.planned.items()
        if step.cost is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    file, snapshot = folder / "Snakefile", (folder / SNAPSHOT).resolve()
    options = RunOptions(plan_file=str(arguments.file.resolve()), data_root=data_root(arguments))
    write_snapshot(snapshot, snapshot_of(compiled, options, arguments.trust))
    where = store.location if store.location != str(store.root) else str(store.root.resolve())
    run = ["kdplan", "run", str(arguments.file.resolve()), "--store", where, *_options(arguments)]
    work = ["kdplan", "work", str(snapshot), "--store", where, "--phase"]
    text = to_snakemake(compiled.planned, file, arguments.file, run, work, threads)
    file.write_text(text, encoding="utf-8")
    print(f"wrote {file} and {snapshot}")
    return ExitCode.DONE
