"""`kdplan run --jobs N` and `--engine NAME`: a run whose phases are trained by workers."""

from __future__ import annotations

import argparse
import os
import socket
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

from kdplan.compile import Compiled
from kdplan.diagnostics.report import error
from kdplan.ir.plan import Plain
from kdplan.ir.trust import of_user
from kdplan.runtime.drive import Driver
from kdplan.runtime.engines.engine import Engine, Run, engine
from kdplan.runtime.engines.local import Local, automatic_jobs
from kdplan.runtime.events import Events, NoEvents
from kdplan.runtime.execute import RunResult
from kdplan.runtime.options import RunOptions
from kdplan.runtime.reading import to_train
from kdplan.runtime.relay import Relays
from kdplan.runtime.snapshot import Snapshot, own_keys, write_snapshot
from kdplan.runtime.store import Store, StoreError
from kdplan.runtime.worker import SNAPSHOT

LOCAL = "local"


def wanted(arguments: argparse.Namespace) -> bool:
    """Whether the options of `run` ask for workers.

    Raises
    ------
    PlanError
        KD0975 for a number of jobs that is none, KD0972 and KD0973 for an engine that is not there.
    """
    jobs = arguments.jobs
    if jobs not in (None, "auto") and not (jobs.isascii() and jobs.isdigit() and 1 <= int(jobs) <= 10_000):
        raise error("KD0975", None, option="--jobs", value=jobs, wanted="a number from 1 on, or `auto`")
    for text in arguments.engine_option:
        if not text.partition("=")[0].strip() or "=" not in text:
            raise error("KD0975", None, option="--engine-option", value=text, wanted="`name=value`")
        if not elsewhere(arguments):
            raise error(
                "KD0975", None, option="--engine-option", value=text, wanted="`--engine slurm` or another engine"
            )
    if elsewhere(arguments):
        engine(arguments.engine)
    return jobs is not None or arguments.engine is not None


def elsewhere(arguments: argparse.Namespace) -> bool:
    """Whether phases are trained on machines whose devices are not known here."""
    return arguments.engine not in (None, LOCAL)


@dataclass
class Workers:
    """The workers of a run, some of which may have been started before the plan is checked."""

    run: Run
    engine: Engine | None
    arguments: argparse.Namespace
    failed: bool = False

    def train(self, compiled: Compiled, store: Store, events: Events) -> RunResult:
        """Train what is missing."""
        write_snapshot(self.run.folder / SNAPSHOT, snapshot_of(compiled, self.run.options, self.arguments.trust))
        used = self.engine or _engine(self.arguments, replace(self.run, jobs=_jobs(self.arguments, compiled)))
        options = self.run.options
        driver = Driver(
            compiled.planned, store, used, self.run.folder, events, options.keep_going, options.plan_file, options.wait
        )
        result = driver.run()
        self.failed = bool(result.failed)
        return result


def snapshot_of(compiled: Compiled, options: RunOptions, trust: Iterable[str]) -> Snapshot:
    """What workers read of a compiled plan."""
    names = set(to_train(compiled.planned))
    # What is damaged is trained again, so phases that are cached are in the snapshot, too.
    steps = {n: step for n, step in compiled.planned.items() if step.same_as is None and step.action != "blocked"}
    steps = {n: step if n in names else replace(step, action="rerun", cost=None) for n, step in steps.items()}
    trusted = sorted({*trust, *of_user()})
    options = replace(options, data_root=options.data_root.resolve() if options.data_root is not None else None)
    return Snapshot(compiled.plan, steps, own_keys(compiled.keys, steps), options, trusted)


@contextmanager
def recorded(compiled: Compiled, store: Store, options: RunOptions) -> Iterator[Events]:
    """An observer for a run without workers: what happens is in the store, for who looks from elsewhere."""
    try:
        kept = store.runs.begin(_about(options))
    except StoreError:  # nothing is trained where nothing can be written, or that is reported with the first phase
        yield NoEvents()
        return
    try:
        yield Relays(kept.folder, compiled.planned)
    finally:
        kept.end(keep=False)


def _about(options: RunOptions) -> dict[str, Plain]:
    return {"plan": options.plan_file, "pid": os.getpid(), "host": socket.gethostname()}


@contextmanager
def workers(arguments: argparse.Namespace, compiled: Compiled, store: Store, options: RunOptions) -> Iterator[Workers]:
    """The workers of a run; inside, its folder in the store is kept, and afterwards where a phase failed."""
    kept = store.runs.begin(_about(options))
    keep = False
    used: Engine | None = None
    try:
        settings = tuple(
            (name.strip(), value.strip()) for name, _, value in (t.partition("=") for t in arguments.engine_option)
        )
        run = Run(kept.folder, store.location, options, settings=settings)
        if not elsewhere(arguments) and arguments.jobs not in (None, "auto"):
            local = Local(run, int(arguments.jobs))
            local.warm(len(to_train(compiled.planned)))
            used = local
        result = Workers(run, used, arguments)
        try:
            yield result
        finally:
            keep = result.failed
    finally:
        if used is not None:
            used.close()
        kept.end(keep)


def _jobs(arguments: argparse.Namespace, compiled: Compiled) -> int | None:
    if arguments.jobs == "auto" or (arguments.jobs is None and not elsewhere(arguments)):
        return automatic_jobs(compiled.planned, arguments.device)
    return int(arguments.jobs) if arguments.jobs is not None else None


def _engine(arguments: argparse.Namespace, run: Run) -> Engine:
    if not elsewhere(arguments):
        return Local(run, run.jobs or 1)
    return engine(arguments.engine)(run)
