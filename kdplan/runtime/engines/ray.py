"""Phases as tasks of a Ray cluster, or of a cluster that is started on this machine for the run."""

from __future__ import annotations

import os
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import ray as _ray

from kdplan.diagnostics.report import PlanError, error
from kdplan.ir.dag import Planned
from kdplan.ir.trust import trusting
from kdplan.runtime.device import threads_predicted
from kdplan.runtime.engines.engine import Lost, Run
from kdplan.runtime.engines.local import BASE, cores
from kdplan.runtime.events import NoEvents
from kdplan.runtime.remote.address import located
from kdplan.runtime.remote.opening import opened
from kdplan.runtime.snapshot import read_snapshot
from kdplan.runtime.worker import Task, Worker

ray: Any = _ray
"""Its functions, of which some have no types."""
LEAST_SHARE = 0.05
"""The smallest share of a GPU that a phase asks for."""
SHARE = 0.9
"""The share of a GPU's memory that predictions may fill."""


def _work(snapshot: Path, store: str, key: str) -> int:
    """Trains a phase in a worker of Ray, which may have trained others before: torch is imported once."""
    read = read_snapshot(snapshot)
    opened_store = opened(located("--store", store), lambda problem: print(problem.message))
    worker = Worker(read, opened_store, snapshot.parent, NoEvents())
    with trusting(read.trusted):
        return worker.train(worker.task(key))


class Ray:
    """Trains phases as tasks. What waits for what is decided by the run; where a phase is trained, by Ray.

    Options: `address` (of a cluster: `auto`, `ray://…`; the default is `RAY_ADDRESS`, else a cluster on this machine),
    `gpu_memory_gb` (of each of the cluster's GPUs, so that small phases share one).
    """

    look = 0.2
    requeues = False

    def __init__(self, run: Run) -> None:
        self.run = run
        settings = dict(run.settings)
        address = settings.pop("address", None) or os.environ.get("RAY_ADDRESS")
        self.gpu_memory = float(settings.pop("gpu_memory_gb", 0)) * 1e9
        if settings:
            raise refused(f"it has no option `{next(iter(settings))}`; there are `address` and `gpu_memory_gb`")
        # Its monitor and its log lines are for programs; what happens is read from the store.
        options: dict[str, Any] = {"log_to_driver": False, "logging_level": "error", "include_dashboard": False}
        if address:
            options = {"address": address, "log_to_driver": False, "logging_level": "error"}
        elif run.jobs is not None:
            options["num_cpus"] = max(run.jobs, cores())
        path = os.pathsep.join(p for p in [*sys.path, os.environ.get("PYTHONPATH", "")] if p)
        # OpenMP reads it once: threads that spin while they wait slow small steps on a machine with other work.
        variables = {"OMP_WAIT_POLICY": "PASSIVE"} | ({} if address else {"PYTHONPATH": path})
        options["runtime_env"] = {"env_vars": variables}
        try:
            ray.init(**options)
        except Exception as problem:
            raise refused(f"{str(problem).strip().splitlines()[0] if str(problem).strip() else problem!r}") from None
        self._work = ray.remote(_work)
        self._tasks: dict[Any, Task] = {}

    def room(self, step: Planned, alone: bool = False) -> str | None:
        """Ray has a queue of its own: every ready phase may be submitted, up to `--jobs`."""
        return "" if self.run.jobs is None or len(self._tasks) < self.run.jobs else None

    def submit(self, task: Task, step: Planned) -> None:
        """Hand a phase to Ray.

        Raises
        ------
        PlanError
            KD0976 if no machine of the cluster has what it needs.
        """
        needs = self._needs(step)
        largest = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        if not any(all(there.get(name, 0) >= number for name, number in needs.items()) for there in largest):
            asked = ", ".join(f"{number:g} {name}" for name, number in needs.items())
            raise refused(f"no machine of the cluster has {asked}, which phase `{task.name}` needs")
        remote = self._work.options(num_cpus=needs["CPU"], num_gpus=needs.get("GPU", 0), max_retries=0)
        self._tasks[remote.remote(self.run.snapshot, self.run.store, task.key)] = task

    def ended(self, task: Task) -> None:
        """Ray forgets the task."""
        self._tasks = {reference: one for reference, one in self._tasks.items() if one.key != task.key}

    def lost(self) -> list[Lost]:
        """Phases whose worker died, or could not begin."""
        lost = []
        done, _ = ray.wait(list(self._tasks), num_returns=len(self._tasks), timeout=0) if self._tasks else ([], [])
        for reference in done:
            task = self._tasks.pop(reference)
            try:
                reason = f"its worker ended with exit code {ray.get(reference)}"
            except Exception as problem:
                reason = f"its worker was lost ({type(problem).__name__})"
            # What it said of its end has been read, or is read before this is looked at.
            lost.append(Lost(task, "crash", reason))
        return lost

    def stop(self) -> None:
        """Ask every worker to save a checkpoint and to end."""
        for reference in self._tasks:
            with suppress(Exception):
                ray.cancel(reference, force=False)

    def close(self) -> None:
        """Leave the cluster; one that was started for this run ends."""
        ray.shutdown()

    def _needs(self, step: Planned) -> dict[str, float]:
        """What a phase asks of a machine."""
        needs = {"CPU": float(threads_predicted(step.cost))}
        most = max((node["Resources"].get("CPU", 1) for node in ray.nodes() if node["Alive"]), default=1)
        needs["CPU"] = min(needs["CPU"], most)  # more threads than cores are slow, and give the same bits
        device = self.run.options.device
        if device.startswith("cuda") or (device == "auto" and ray.cluster_resources().get("GPU", 0) > 0):
            needs["GPU"] = 1.0
            if self.gpu_memory and step.cost is not None:
                share = (step.cost.step_bytes + BASE) / (SHARE * self.gpu_memory)
                needs["GPU"] = min(1.0, max(LEAST_SHARE, round(share, 2)))
        return needs


def refused(reason: str) -> PlanError:
    """KD0976 for what the cluster does not accept."""
    return error("KD0976", None, name="ray", reason=reason.rstrip(".?!"))


def engine(run: Run) -> Ray:
    """The engine of a run."""
    return Ray(run)
