"""Phases as Slurm jobs, by submitit; with `cluster=local` as processes of this machine, for trying it out.

A job runs `kdplan work` and waits for it. When Slurm announces the end of the job's time, or preempts it, the phase
saves a checkpoint and the job goes back into the queue.
"""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

import submitit
from submitit.core.utils import FailedJobError

from kdplan.diagnostics.report import PlanError, error
from kdplan.ir.dag import Planned
from kdplan.runtime.device import threads_predicted
from kdplan.runtime.engines.engine import Cause, Lost, Run
from kdplan.runtime.worker import Task, command

BUNDLE = 600.0
"""Seconds of predicted training that one job takes at least, where there are phases enough."""
MOST = 50
"""Phases that one job takes at most, where no time is predicted."""
LOOK = 1.0
"""Seconds between two looks at the states of jobs."""
GIGABYTES = 4.0
"""Memory that is asked for besides twice what is predicted."""
WHOLE = ("timeout_min", "gpus_per_node", "cpus_per_task", "nodes", "tasks_per_node")
SHARED = (*WHOLE, "name", "mem_gb")
"""Options that submitit has for every cluster; the others are Slurm's own."""
PREEMPTED = ("PREEMPTED", "NODE_FAIL", "TIMEOUT", "REQUEUED", "BOOT_FAIL", "DEADLINE")


class Phases:
    """What a job does: it trains phases in a process of its own, which a signal stops at a checkpoint."""

    def __init__(self, command: list[str]) -> None:
        self.command = command
        self._child: subprocess.Popen[bytes] | None = None

    def __call__(self) -> int:
        """The exit code of the command."""
        with subprocess.Popen(self.command) as child:
            self._child = child
            try:
                while child.poll() is None:  # `wait` would hold a lock that the signal's handler needs
                    time.sleep(0.2)
            except KeyboardInterrupt:
                self._ask()
                raise
            return child.returncode

    def checkpoint(self) -> submitit.helpers.DelayedSubmission:
        """Called by submitit before the job goes back into the queue: the process ends at a checkpoint first."""
        self._ask()
        return submitit.helpers.DelayedSubmission(Phases(self.command))

    def _ask(self) -> None:
        """Have the process save a checkpoint, and wait until it has ended."""
        if self._child is not None:
            with suppress(ProcessLookupError, ChildProcessError):
                # Slurm may have sent it the same signal, which a process takes once.
                self._child.send_signal(signal.SIGUSR2)
                os.waitid(os.P_PID, self._child.pid, os.WEXITED | os.WNOWAIT)


@dataclass
class _Job:
    """A job of the cluster, and the phases in it that have not ended."""

    job: submitit.Job[int]
    tasks: dict[str, Task] = field(default_factory=dict)


class Slurm:
    """Trains phases as jobs. What waits for what is decided by the run; which job is next, by Slurm.

    Options: `cluster` (`slurm`, `local`), those of `submitit` (`timeout_min`, `gpus_per_node`, `mem_gb` …), and Slurm's
    own (`partition`, `account`, `qos`, `constraint` …). What is not given follows from the predicted cost of a phase.
    """

    look = 1.0
    requeues = True

    def __init__(self, run: Run) -> None:
        self.run = run
        settings: dict[str, Any] = dict(run.settings)
        cluster = settings.pop("cluster", "slurm")
        self.bundle = float(settings.pop("bundle_seconds", BUNDLE))
        try:
            self.executor = submitit.AutoExecutor(
                run.folder / "slurm", cluster=cluster, slurm_max_num_timeout=1000, local_max_num_timeout=1000
            )
            self.settings = {
                name if name in SHARED else f"slurm_{name}": _number(name, value) for name, value in settings.items()
            }
            self.executor.update_parameters(**self.settings)
        except (RuntimeError, NameError, ValueError, AssertionError) as problem:
            raise refused(problem) from None
        self._jobs: list[_Job] = []
        self._waiting: list[tuple[Task, Planned]] = []
        self._looked = 0.0
        self._memory: dict[str, float] = {}
        """Phases that had too little memory -> by how much more they ask for."""

    def room(self, step: Planned, alone: bool = False) -> str | None:
        """Slurm has a queue of its own: every ready phase may be submitted, up to `--jobs`."""
        if alone:
            self._memory.setdefault(step.key, 2.0)
        number = len(self._waiting) + sum(len(one.tasks) for one in self._jobs)
        return "" if self.run.jobs is None or number < self.run.jobs else None

    def submit(self, task: Task, step: Planned) -> None:
        """Keep a phase for the next `lost`, when all are known that are ready now and can share jobs."""
        self._waiting.append((task, step))

    def ended(self, task: Task) -> None:
        """The job has one phase less to train."""
        for one in self._jobs:
            one.tasks.pop(task.key, None)

    def lost(self) -> list[Lost]:
        """Submits what is ready; phases of jobs that have ended, which say nothing of them."""
        waiting, self._waiting = self._waiting, []
        for bundle in bundles(waiting, self.bundle):
            self._submit(bundle)
        if time.monotonic() - self._looked < LOOK:
            return []
        self._looked = time.monotonic()
        lost = []
        for one in [one for one in self._jobs if one.tasks and one.job.done()]:
            state = str(one.job.state)
            cause: Cause = "preempted" if state.partition(" ")[0] in PREEMPTED else "crash"
            reason = f"its job {one.job.job_id} ended as {state}"
            if state.startswith("OUT_OF_ME"):
                self._memory |= {key: 2 * self._memory.get(key, 1.0) for key in one.tasks}
            lost += [Lost(task, cause, reason) for task in one.tasks.values()]
            one.tasks.clear()
        self._jobs = [one for one in self._jobs if one.tasks]
        return lost

    def stop(self) -> None:
        """Cancel every job: Slurm asks its processes to end, and they save a checkpoint."""
        for one in [one for one in self._jobs if one.tasks]:
            with suppress(Exception):  # it has ended meanwhile
                one.job.cancel()

    def close(self) -> None:
        """Cancel what is left."""
        self.stop()

    def _submit(self, bundle: list[tuple[Task, Planned]]) -> None:
        names = bundle[0][0].name + (f" and {len(bundle) - 1} more" if len(bundle) > 1 else "")
        try:
            more = max(self._memory.get(task.key, 1.0) for task, _ in bundle)
            asked = {"name": f"kdplan {names}"[:60], **needs(bundle), **self.settings}
            if "mem_gb" in asked:
                asked["mem_gb"] *= more
            self.executor.update_parameters(**asked)
            job = self.executor.submit(Phases(command(*self.run.arguments(*[task.key for task, _ in bundle]))))
        except (FailedJobError, OSError, ValueError) as problem:
            raise refused(problem) from None
        self._jobs.append(_Job(job, {task.key: task for task, _ in bundle}))


def bundles(waiting: list[tuple[Task, Planned]], seconds: float) -> list[list[tuple[Task, Planned]]]:
    """Phases that share a job: short ones, so that a job takes `seconds` or more where there are enough."""
    result: list[list[tuple[Task, Planned]]] = []
    left, number = 0.0, 0
    for task, step in waiting:
        predicted = step.cost.seconds if step.cost is not None else None
        if predicted is None or predicted >= seconds:
            result.append([(task, step)])
        elif left >= predicted and number < MOST:
            result[-1].append((task, step))
            left, number = left - predicted, number + 1
            continue
        else:
            result.append([(task, step)])
        left, number = seconds - (predicted if predicted is not None else seconds), 1
    return result


def needs(bundle: list[tuple[Task, Planned]]) -> dict[str, Any]:
    """What to ask the cluster for, from the predicted costs; nothing where they are not known."""
    costs = [step.cost for _, step in bundle if step.cost is not None]
    if len(costs) < len(bundle):
        return {}
    memory = max(cost.process_bytes for cost in costs)
    asked: dict[str, Any] = {
        "cpus_per_task": max(map(threads_predicted, costs)),
        "mem_gb": round(GIGABYTES + 2 * memory / 1e9, 1),
    }
    if all(cost.seconds is not None for cost in costs):
        # A phase that needs longer goes back into the queue with a checkpoint.
        asked["timeout_min"] = 15 + round(2 * sum(cost.seconds or 0.0 for cost in costs) / 60)
    return asked


def refused(problem: Exception) -> PlanError:
    """KD0976 for what the cluster does not accept."""
    lines = [line.strip() for line in str(problem).strip().splitlines() if line.strip()]
    reason = next((line for line in lines if "error" in line.lower()), lines[0] if lines else type(problem).__name__)
    return error("KD0976", None, name="slurm", reason=reason.rstrip(".?!"))


def _number(name: str, value: str) -> int | float | str:
    if name in WHOLE:
        return int(value)
    return float(value) if name == "mem_gb" else value


def engine(run: Run) -> Slurm:
    """The engine of a run."""
    return Slurm(run)
