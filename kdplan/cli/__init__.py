"""The command line: arguments in, exit codes out."""

from __future__ import annotations

import os
import sys
from collections.abc import Sequence

from kdplan.cli.exit_codes import FINE, WRONG
from kdplan.diagnostics.render import render_text, to_json
from kdplan.diagnostics.report import PlanError
from kdplan.runtime.interrupt import INTERRUPTED


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command.

    Returns
    -------
    int
        0 fine, 1 a phase failed, 2 plan or usage error, 3 locked, 4 corrupt store, 10 (with `--detailed-exitcode`)
        something to do, 75 interrupted and resumable.
    """
    from kdplan.cli.parser import parser

    # Threads that spin while they wait slow small steps tenfold as soon as anything else runs on the machine.
    # It must be said before torch is imported, and changes no number.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    given = parser().parse_args(arguments)
    try:
        code: int = given.command(given)
        return code
    except PlanError as problem:
        show(problem, getattr(given, "format", "text"))
        return int(getattr(problem, "exit_code", WRONG))
    except KeyboardInterrupt:
        return INTERRUPTED
    except BrokenPipeError:
        sys.stderr.close()  # whoever read the output has gone
        return FINE


def show(problem: PlanError, form: str = "text") -> None:
    """The mistakes, for a person on standard error or as JSON on standard output."""
    if form == "json":
        import json

        print(json.dumps(to_json(problem.diagnostics), indent=2, ensure_ascii=False))
        return
    print(render_text(problem.diagnostics, color=sys.stderr.isatty()), file=sys.stderr)
