"""Workers on this machine: each is a process that imports torch once and then trains one phase after another."""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from kdplan.ir.dag import Planned
from kdplan.runtime.engines.engine import Lost, Run
from kdplan.runtime.worker import Task, command

SHARE = 0.8
"""The share of a device's memory that predictions may fill."""
BASE = 600_000_000
"""Bytes that a worker takes on its device besides what is predicted: libraries, and on a GPU its context."""
GRACE = 10.0
"""Seconds that workers without a task have to end."""


@dataclass
class _Worker:
    """A worker process."""

    process: subprocess.Popen[str]
    log: Path
    task: Task | None = None
    device: str = ""
    """The device of its last phase, whose memory it may still hold."""


@dataclass
class _Device:
    """What is trained on a device: phase -> bytes."""

    capacity: float
    phases: dict[str, float] = field(default_factory=dict)
    alone: bool = False

    def room(self, size: float) -> float | None:
        """The bytes that are left with a phase of this size; None where it does not fit beside the others."""
        left = self.capacity - sum(self.phases.values()) - size
        return left if not self.phases or (left >= 0 and not self.alone) else None


class Local:
    """Trains up to `run.jobs` phases at a time in processes of this machine.

    A phase goes to the device with the most memory left; where its predicted memory does not fit beside the others, it
    waits. The number of threads of a phase follows from the phase, so its bits do not depend on how many run.
    """

    look = 0.05
    requeues = False

    def __init__(self, run: Run, jobs: int) -> None:
        self.run, self.jobs = run, jobs
        self._workers: list[_Worker] = []
        self._devices: dict[str, _Device] = {}
        self._alone: set[str] = set()
        self._number = 0

    def warm(self, count: int) -> None:
        """Start workers before there is anything to do, so that they import torch meanwhile."""
        for _ in range(min(count, self.jobs) - len(self._workers)):
            self._start()

    def room(self, step: Planned, alone: bool = False) -> str | None:
        """The device with the most memory left, if fewer phases than `jobs` are trained and this one fits there."""
        if sum(w.task is not None for w in self._workers) >= self.jobs:
            return None
        self._devices = self._devices or _devices(self.run.options.device)
        left = {name: device.room(_bytes(step, name)) for name, device in self._devices.items()}
        fitting = {n: free for n, free in left.items() if free is not None and not (alone and self._devices[n].phases)}
        if not fitting:
            return None
        name = max(fitting, key=lambda n: fitting[n])
        if alone:
            self._alone.add(step.key)
        return name

    def submit(self, task: Task, step: Planned) -> None:
        """Give a phase to a worker that has none, or to a new one."""
        idle = [w for w in self._workers if w.task is None and w.process.poll() is None]
        # A worker keeps memory of the device that it has used.
        worker = min(idle, key=lambda w: (w.device != task.device, w.device != ""), default=None) or self._start()
        worker.task, worker.device = task, task.device
        device = self._devices[task.device]
        device.phases[task.key], device.alone = _bytes(step, task.device), task.key in self._alone
        assert worker.process.stdin is not None
        with suppress(BrokenPipeError):  # it has just ended: `lost` says so
            worker.process.stdin.write(f"{task.key} {task.device}\n")
            worker.process.stdin.flush()

    def ended(self, task: Task) -> None:
        """The worker of this phase has none any more."""
        for worker in self._workers:
            if worker.task is not None and worker.task.key == task.key:
                worker.task = None
        device = self._devices[task.device]
        device.phases.pop(task.key, None)
        device.alone = False
        self._alone.discard(task.key)

    def lost(self) -> list[Lost]:
        """Phases of processes that have ended."""
        gone = [w for w in self._workers if w.process.poll() is not None]
        self._workers = [w for w in self._workers if w not in gone]
        lost = [Lost(w.task, "crash", _how(w)) for w in gone if w.task is not None]
        for one in lost:
            self.ended(one.task)
        return lost

    def stop(self) -> None:
        """Ask every worker to save a checkpoint and to end."""
        for worker in self._workers:
            with suppress(OSError):
                worker.process.terminate()

    def close(self) -> None:
        """Let the workers end. One that still trains saves a checkpoint first, and nobody waits for it."""
        for worker in self._workers:
            with suppress(OSError):
                assert worker.process.stdin is not None
                worker.process.stdin.close()
        for worker in self._workers:
            with suppress(subprocess.TimeoutExpired):
                worker.process.wait(GRACE if worker.task is None else 0.0)

    def _start(self) -> _Worker:
        log = self.run.folder / f"worker-{self._number}.log"
        self._number += 1
        with log.open("ab") as output:
            process = subprocess.Popen(
                command(*self.run.arguments("-")),
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                text=True,
                start_new_session=True,  # Ctrl-C goes to this process alone, which asks them to stop
            )
        worker = _Worker(process, log)
        self._workers.append(worker)
        return worker


def _how(worker: _Worker) -> str:
    """How a worker ended, in words."""
    code = worker.process.returncode
    if code < 0:
        with suppress(ValueError):
            return f"its worker was ended by {signal.Signals(-code).name}"
    try:
        lines = worker.log.read_text(encoding="utf-8", errors="replace").strip().splitlines()
    except OSError:
        lines = []
    return f"its worker ended with exit code {code}" + (f": {lines[-1].strip()}" if lines else "")


def _bytes(step: Planned, device: str) -> float:
    """The memory of a device that a phase is predicted to take."""
    if step.cost is None:
        return BASE
    return BASE + (step.cost.step_bytes if device.startswith("cuda") else step.cost.process_bytes)


def _devices(name: str) -> dict[str, _Device]:
    """The devices that workers may use."""
    import torch

    from kdplan.runtime.device import choose_device

    device = choose_device(name)
    if device.type != "cuda":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
        return {device.type: _Device(SHARE * memory)}
    numbers = range(torch.cuda.device_count()) if name in ("auto", "cuda") else [device.index or 0]
    return {f"cuda:{n}": _Device(SHARE * torch.cuda.get_device_properties(n).total_memory) for n in numbers}


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def automatic_jobs(planned: Mapping[str, Planned], device: str) -> int:
    """How many phases of a plan are worth training at a time on this machine.

    On GPUs as many as there are, or more where several fit into one's memory. On a CPU as many as it has cores for:
    a phase of larger steps uses several.
    """
    from kdplan.runtime.device import threads_predicted

    devices = _devices(device)
    costs = [s.cost for s in planned.values() if s.action not in ("cached", "blocked") and s.cost is not None]
    if "cpu" in devices or "mps" in devices:
        threads = sorted(map(threads_predicted, costs)) or [1]
        return max(1, cores() // threads[len(threads) // 2])
    sizes = sorted(BASE + cost.step_bytes for cost in costs) or [BASE]
    fitting = sum(max(1, int(d.capacity // sizes[len(sizes) // 2])) for d in devices.values())
    return max(len(devices), min(fitting, 4 * len(devices), cores()))
