"""`kdplan work`: the command that engines run."""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from pathlib import Path

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import open_store
from kdplan.ir.trust import trusting
from kdplan.runtime.store import Store
from kdplan.runtime.store.runs import RUN

LINES = "-"
"""In place of a key: phases come as lines of standard input."""


def work(arguments: argparse.Namespace) -> int:
    """`kdplan work SNAPSHOT --phase KEY…`: train exactly these phases, and measure nothing.

    Returns
    -------
    int
        0, 1 if a phase failed, 3 if another process trains it, 4 if what it reads is damaged or missing, 75 if it was
        interrupted: that of the first phase that did not end with 0. Phases after it are trained all the same, unless
        the command was interrupted.

    Raises
    ------
    PlanError
        KD0970 for a file that is no snapshot, KD0971 for a phase that it does not have.
    """
    if arguments.phase == [LINES]:
        import kdplan.runtime.phase  # noqa: F401  # torch, while the run still checks its plan

        line = sys.stdin.readline()
        if not line.strip():
            return ExitCode.DONE
        return _work(arguments, line)
    return _work(arguments)


def _work(arguments: argparse.Namespace, line: str = "") -> int:
    from kdplan.runtime.snapshot import read_snapshot
    from kdplan.runtime.worker import Worker
    from kdplan.view.progress import observer

    snapshot = read_snapshot(arguments.snapshot)
    if arguments.data is not None:
        snapshot.options = replace(snapshot.options, data_root=arguments.data)
    worker = Worker(snapshot, _store(arguments), arguments.snapshot.parent, observer(), wait=not arguments.no_wait)
    with trusting(snapshot.trusted):
        if line:
            return worker.listen(line, sys.stdin)
        first = 0
        for task in [worker.task(word, arguments.device) for word in arguments.phase]:
            code = worker.train(task)
            first = first or code
            if code == ExitCode.INTERRUPTED:
                return code
    return first


def _store(arguments: argparse.Namespace) -> Store:
    """The store of `--store`, else that in which the snapshot is: `<store>/runs/<run>/snapshot.json`."""
    folder: Path = arguments.snapshot.resolve().parent.parent
    is_run = (arguments.snapshot.parent / RUN).exists()  # and no folder of the user's that is called so
    if arguments.store is None and folder.name == "runs" and is_run:
        return Store(folder.parent)
    return open_store(arguments)
