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
    from kdplan.runtime.device import threads_worth

    threads = {
        name: compiled.plan.phases[name].recipes[0].threads or threads_worth(step.cost.flops_step // 3)
        for name, step in compiled.planned.items()
        if step.cost is not None
    }
    folder.mkdir(parents=True, exist_ok=True)
    file, snapshot = folder / "Snakefile", (folder / SNAPSHOT).resolve()
    options = RunOptions(plan_file=str(arguments.file), data_root=data_root(arguments))
    write_snapshot(snapshot, snapshot_of(compiled, options, arguments.trust))
    root, plan = store.root.resolve(), arguments.file.resolve()
    file.write_text(to_snakemake(compiled.planned, file, snapshot, root, plan, threads), encoding="utf-8")
    print(f"wrote {file} and {snapshot}")
    return ExitCode.DONE
