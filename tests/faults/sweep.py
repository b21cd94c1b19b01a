"""A run killed, or refused by the system, at every operation on its store; then run again without flags.

    python -m tests.faults.sweep kill error          # every operation once: minutes
    python -m tests.faults.sweep kill --short

Each operation of the process on a file of the store is a failpoint, named by the function that does it:
`atomic.put:fsync`. At one of them the process is killed before it is done, or the operation raises an error of the
system. What must hold afterwards is in `problems`. Trials are children of one process that has imported torch.
"""

from __future__ import annotations

import argparse
import builtins
import errno
import fcntl
import hashlib
import io
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from kdplan.cli import main
from kdplan.compile import compile_source
from kdplan.diagnostics.span import Source
from kdplan.runtime import saving

UNSTORED = "KD0916"
ERRORS = (errno.EIO, errno.ENOSPC, errno.EACCES)
PLANS = {
    "distil": """\
data digits = digits { limit = 100 }
recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 2  batch = 50  ema = 0.9  keep_epochs = [1] }
teacher big = digits_net(width = 2) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2)
phase kd of small on digits with quick {
  loss = cross_entropy(small.logits, labels) + kd(student = small.logits, teacher = big.logits)
  measure on digits.test { top1 }
}
measure table of big, small@kd, small@kd[ema] on digits.test { top1 }
""",
    "stored": """\
data digits = digits { limit = 100 }
recipe quick { optimizer = adam(lr = 0.01)  epochs = 2  batch = 50 }
recipe kept { optimizer = adam(lr = 0.01)  epochs = 2  batch = 50  frozen = stored }
teacher big = digits_net(width = 2) {
  phase train on digits with quick { loss = cross_entropy(self.logits, labels) }
}
student small = digits_net(width = 2)
phase kd of small on digits with kept { loss = kd(student = small.logits, teacher = big.logits) }
measure table of small@kd on digits.test { top1 }
""",
}
"""Small plans that together write every kind of file."""


@dataclass
class Points:
    """Counts the operations on files below `root`, and acts at one of them."""

    root: Path
    at: int = -1
    act: Callable[[], None] = lambda: None
    names: list[str] = field(default_factory=list)

    def install(self) -> None:
        """Put itself before the system's functions."""
        for name in ("open", "mkdir", "rename", "replace", "unlink", "rmdir", "chmod", "link"):
            self._wrap(os, name, lambda path, *_: os.fspath(path))
        for name in ("write", "fsync", "ftruncate", "fchmod"):
            self._wrap(os, name, lambda handle, *_: os.readlink(f"/proc/self/fd/{handle}"))
        self._wrap(fcntl, "flock", lambda handle, *_: os.readlink(f"/proc/self/fd/{handle}"))
        for module in (builtins, io):
            self._wrap(module, "open", lambda path, *_: os.fspath(path) if not isinstance(path, int) else "")

    def _wrap(self, module: Any, name: str, path_of: Callable[..., Any]) -> None:
        real = getattr(module, name)

        def wrapped(*args: Any, **named: Any) -> Any:
            if self._is_ours(path_of, *args):
                number = len(self.names)
                self.names.append(f"{_caller()}:{name}")
                if number == self.at:
                    self.act()
            return real(*args, **named)

        setattr(module, name, wrapped)

    def _is_ours(self, path_of: Callable[..., Any], *args: Any) -> bool:
        try:
            path = path_of(*args)
        except (OSError, TypeError):
            return False
        text = os.fsdecode(path) if isinstance(path, str | bytes) else ""
        return text.startswith(str(self.root))


def _caller() -> str:
    """The nearest function of kdplan, as `module.function`."""
    frame = sys._getframe(2)
    while frame is not None:
        name = frame.f_globals.get("__name__", "")
        if name.startswith("kdplan."):
            return f"{name.rpartition('.')[2]}.{frame.f_code.co_name}"
        frame = frame.f_back  # type: ignore[assignment]
    return "?"


@dataclass
class Bench:
    """A folder in which one plan is run in stores of its own."""

    folder: Path
    plan: str
    digests: dict[str, str] = field(default_factory=dict)
    names: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        (self.folder / "plan.kd").write_text(PLANS[self.plan])
        compile_source(Source("plan.kd", PLANS[self.plan]), self.folder)  # what this loads, no child loads again
        code, said = self.child(self.store, None)
        assert code == 0, said
        self.digests = digests(self.store)
        shutil.rmtree(self.store)
        code, said = self.child(self.store, Points(self.store))
        assert code == 0, said
        self.names = json.loads((self.folder / "names.json").read_text())
        assert digests(self.store) == self.digests

    @property
    def store(self) -> Path:
        return self.folder / "store"

    def child(self, store: Path, points: Points | None) -> tuple[int, str]:
        """Run the plan in a child; its exit code (negative for a signal) and what it printed."""
        output = self.folder / "output"
        pid = os.fork()
        if pid == 0:
            self._run(store, points, output)
        deadline = time.monotonic() + 120
        while True:
            ended, status = os.waitpid(pid, os.WNOHANG)
            if ended:
                return os.waitstatus_to_exitcode(status), output.read_text(errors="replace")
            if time.monotonic() > deadline:
                os.kill(pid, signal.SIGKILL)
                os.waitpid(pid, 0)
                return 124, "no end within two minutes"
            time.sleep(0.01)

    def _run(self, store: Path, points: Points | None, output: Path) -> None:
        code = 99
        try:
            handle = os.open(output, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(handle, 1)
            os.dup2(handle, 2)
            sys.stdout, sys.stderr = os.fdopen(1, "w", closefd=False), os.fdopen(2, "w", closefd=False)
            if points is not None:
                points.install()
            code = main(["run", str(self.folder / "plan.kd"), "--store", str(store), "--checkpoint-seconds", "0"])
            sys.stdout.flush()
            if points is not None and points.at < 0:
                (self.folder / "names.json").write_text(json.dumps(points.names))
        except BaseException as problem:
            sys.stderr.write(f"Traceback: {problem!r}")
        finally:
            sys.stderr.flush()
            os._exit(code)

    def trial(self, at: int, kind: str, number: int = 0) -> list[str]:
        """What is wrong after one failure and one more run; [] if nothing is."""
        shutil.rmtree(self.store, ignore_errors=True)
        code, said = self.child(self.store, Points(self.store, at, lambda: _fail(kind, number)))
        wrong = []
        if kind == "kill" and code not in (-signal.SIGKILL, 0):
            wrong.append(f"the killed run ended with {code}")
        if kind == "error" and code not in (0, 1, 2, 3, 4):
            wrong.append(f"the refused run ended with {code}")
        if "Traceback" in said:
            wrong.append(f"a traceback: {said[-1500:]}")
        lost = sorted(name for name, _ in self.digests.items() - digests(self.store).items()) if code == 0 else []
        # A number that cannot be stored was shown, and is computed again: a warning, no failure.
        if lost and (UNSTORED not in said or any(not name.startswith("measures/") for name in lost)):
            wrong.append(f"success without {lost}")
        return wrong + self.problems()

    def problems(self) -> list[str]:
        """What a plain run does not put right."""
        finished = {p: p.stat().st_mtime_ns for p in self.store.glob("phases/*/manifest.json")}
        code, said = self.child(self.store, None)
        wrong = [] if code == 0 else [f"the next run ended with {code}: {said[-1500:]}"]
        if digests(self.store) != self.digests:
            wrong.append("other artifacts")
        again = [str(p) for p, time in finished.items() if not p.exists() or p.stat().st_mtime_ns != time]
        if again:
            wrong.append(f"trained again: {again}")
        litter = [str(p) for p in self.store.rglob("*") if p.name.startswith((".new-", ".old-"))]
        litter += [str(p) for p in self.store.glob("work/*")]
        if litter:
            wrong.append(f"litter: {litter}")
        return wrong


def _fail(kind: str, number: int) -> None:
    if kind == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    raise OSError(number, os.strerror(number))


def digests(store: Path) -> dict[str, str]:
    """Of every weight and every number that was measured."""
    files = [*store.glob("phases/*/weights-*"), *store.glob("measures/*")]
    return {str(p.relative_to(store)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}


def places(names: list[str], short: bool) -> Iterator[int]:
    """The operations to fail at: all, or of each name the first, the last and one between."""
    if not short:
        yield from range(len(names))
        return
    draw = random.Random(0)
    by_name: dict[str, list[int]] = {}
    for number, name in enumerate(names):
        by_name.setdefault(name, []).append(number)
    for numbers in by_name.values():
        yield from sorted({numbers[0], draw.choice(numbers)})


def preload() -> None:
    """Load what every child needs, and start no threads, which do not survive a fork."""
    import sklearn.datasets  # noqa: F401
    import torch
    import torch._dynamo  # optimizers load it at their first step

    import kdplan.cli.run
    import kdplan.runtime.execute  # noqa: F401

    torch.set_num_threads(1)


def sweep(kinds: list[str], plans: list[str], short: bool, share: tuple[int, int] = (0, 1)) -> dict[str, Any]:
    """All trials: their number by kind, the failpoints, and what was wrong."""
    preload()
    counts: dict[str, int] = {}
    points: set[str] = set()
    wrong: list[str] = []
    for plan in plans:
        with tempfile.TemporaryDirectory() as folder:
            bench = Bench(Path(folder), plan)
            points.update(bench.names)
            print(plan, len(bench.names), "operations", len(set(bench.names)), "names", file=sys.stderr, flush=True)
            for kind in kinds:
                for at in list(places(bench.names, short))[share[0] :: share[1]]:
                    found = bench.trial(at, kind, ERRORS[at % len(ERRORS)])
                    counts[kind] = counts.get(kind, 0) + 1
                    if found:
                        print(plan, kind, at, bench.names[at], found, file=sys.stderr, flush=True)
                    wrong += [f"{plan}, {kind} at {at} ({bench.names[at]}): {text}" for text in found]
    return {"counts": counts, "points": sorted(points), "wrong": wrong}


def run() -> int:
    """Print the result as JSON; 1 if something was wrong."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("kinds", nargs="+", choices=["kill", "error"])
    parser.add_argument("--plans", nargs="+", default=list(PLANS), choices=list(PLANS))
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--thread", action="store_true", help="a thread writes checkpoints, however small")
    parser.add_argument("--share", type=int, nargs=2, default=(0, 1), metavar=("PART", "OF"))
    chosen = parser.parse_args()
    if chosen.thread:
        saving.AT_ONCE = 0
    result = sweep(chosen.kinds, chosen.plans, chosen.short, tuple(chosen.share))
    print(json.dumps(result, indent=1))
    return int(bool(result["wrong"]))


if __name__ == "__main__":
    sys.exit(run())
