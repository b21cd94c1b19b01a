"""One plan through the compiler: no exception but its errors, no hang, little memory."""

from __future__ import annotations

import contextlib
import signal
import time
import traceback
from collections.abc import Iterator
from pathlib import Path

from kdplan.compile import Compiled, compile_source, inspect
from kdplan.diagnostics.render import render_text, to_json
from kdplan.diagnostics.report import PlanError
from kdplan.diagnostics.span import Source

SECONDS, MEGABYTES = 2.0, 500.0
"""What an error may take: of a processor, and of memory beyond that before."""


class Endless(BaseException):
    """Raised where a plan takes far too long."""


def fault(text: str, folder: Path, root: Path | None, *, torch: bool = False) -> str:
    """What is wrong with how a plan is compiled, and with `torch` checked; "" for nothing."""
    with _limited(20):
        before, start = _peak(reset=True), time.process_time()
        compiled: Compiled | None = None
        try:
            compiled = compile_source(Source("plan.kd", text), folder, root)
            if torch:
                inspect(compiled)
            shown = compiled.warnings
        except PlanError as problem:
            shown = problem.diagnostics
            if not shown:
                return "an error without a message"
        except (Exception, Endless):
            return traceback.format_exc()
        taken, needed = time.process_time() - start, (_peak() - before) / 1e6
        render_text(shown, color=False)
        to_json(shown)
    instances = len(compiled.plan.phases) + len(compiled.plan.networks) if compiled is not None else 0
    if not torch and taken > SECONDS + 2e-3 * instances:
        return f"{taken:.1f} s for {instances} networks and phases: {[d.code for d in shown][:5]}"
    if needed > MEGABYTES:
        return f"{needed:.0f} MB: {[d.code for d in shown][:5]}"
    return ""


@contextlib.contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def end(number: int, frame: object) -> None:
        raise Endless

    old = signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, old)


def _peak(reset: bool = False) -> int:
    """The most bytes of memory since the last reset; 0 where the system does not say."""
    with contextlib.suppress(OSError):
        if reset:
            Path("/proc/self/clear_refs").write_text("5")
        for line in Path("/proc/self/status").read_text().splitlines():
            if line.startswith("VmHWM"):
                return int(line.split()[1]) * 1024
    return 0
