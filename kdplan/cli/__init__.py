"""The command line: arguments in, exit codes out."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.streams import outliving
from kdplan.diagnostics.report import PlanError
from kdplan.runtime.interrupt import STOPS, stopped_by_keyboard_interrupt

TRAINING = ("run", "work")
"""Commands that train, and can be stopped and resumed."""


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code.

    Parameters
    ----------
    arguments
        The command line after `kdplan`; the arguments of this process by default.

    Returns
    -------
    int
        One of `ExitCode`.
    """
    from kdplan.cli.parser import parser

    # Threads that spin while they wait slow small steps tenfold as soon as anything else runs on the machine.
    # OpenMP reads this once, when torch is imported. It changes no number.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    parsed = parser().parse_args(arguments)
    parsed.words = list(sys.argv[1:] if arguments is None else arguments)
    runs = parsed.command.__name__ in TRAINING
    with outliving("the reader of the output has gone; the run goes on" if runs else "") as output_failed:
        with stopped_by_keyboard_interrupt(STOPS if runs else ()):
            code = _exit_code(parsed)
        return ExitCode.FAILED if code == ExitCode.DONE and output_failed() else code


def _exit_code(parsed: argparse.Namespace) -> int:
    """Run the command; what it raises becomes an exit code and a message."""
    try:
        with _trusting(parsed):
            code: int = parsed.command(parsed)
        return code
    except PlanError as problem:
        print_errors(problem, getattr(parsed, "format", "text"))
        return int(getattr(problem, "exit_code", ExitCode.INVALID))
    except KeyboardInterrupt as problem:
        again = "; the same command goes on where this one stopped" if parsed.command.__name__ in TRAINING else ""
        print(f"stopped by {problem or 'SIGINT'}{again}", file=sys.stderr)
        return ExitCode.INTERRUPTED
    except BaseException as problem:  # the last resort: what has no diagnostic of its own
        from kdplan.diagnostics.boundary import foreign, is_foreign

        if not is_foreign(problem) or os.environ.get("KDPLAN_TRACEBACK"):
            raise
        print_errors(foreign("KD0016", None, problem), getattr(parsed, "format", "text"))
        return ExitCode.FAILED if parsed.command.__name__ in TRAINING else ExitCode.INVALID


def _trusting(parsed: argparse.Namespace) -> AbstractContextManager[None]:
    """Inside, code of the packages that a command names may run too."""
    if not hasattr(parsed, "trust"):
        return nullcontext()
    from kdplan.ir.trust import trusting

    return trusting(parsed.trust)


def print_errors(problem: PlanError, form: str = "text") -> None:
    """Print errors: as text on standard error, or with `form` "json" as JSON on standard output."""
    from kdplan.diagnostics.render import render_text, to_json

    if form == "json":
        import json

        print(json.dumps(to_json(problem.diagnostics), indent=2, ensure_ascii=False))
        return
    print(render_text(problem.diagnostics, color=sys.stderr.isatty()), file=sys.stderr)
