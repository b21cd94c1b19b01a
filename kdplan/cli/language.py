"""The commands about the language, which need no store: `fmt`, `explain` and `schema`."""

from __future__ import annotations

import argparse
import difflib
import json
import string
import sys
from collections.abc import Iterator
from pathlib import Path

from kdplan.cli.exit_codes import ExitCode
from kdplan.cli.inputs import read_source
from kdplan.diagnostics.report import error, table
from kdplan.syntax.format import format_text


def fmt(arguments: argparse.Namespace) -> int:
    """`kdplan fmt FILES`: rewrite plan files in the standard layout; with `--check` or `--diff` only compare.

    Raises
    ------
    PlanError
        KD0010 if a file cannot be read, and what its syntax violates.
    """
    changes = 0
    for path in _plan_files(arguments.files):
        source = read_source(path)
        formatted = format_text(source)
        if formatted == source.text:
            continue
        changes += 1
        if arguments.diff:
            before, after = source.text.splitlines(keepends=True), formatted.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(before, after, str(path), str(path)))
        elif arguments.check:
            print(f"would change {path}")
        else:
            path.write_text(formatted, encoding="utf-8")
            print(f"changed {path}")
    return ExitCode.FAILED if changes and arguments.check else ExitCode.DONE


def _plan_files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.kd"))
        else:
            yield path


def explain(arguments: argparse.Namespace) -> int:
    """`kdplan explain CODE`: print what an error code means, with an example.

    Raises
    ------
    PlanError
        KD0015 if there is no such code.
    """
    from kdplan.compile import check_text
    from kdplan.diagnostics.render import explain as explanation

    text = explanation(arguments.code, check_text)
    if text is None:
        raise error("KD0015", None, code=arguments.code, nearest=_code_with_digits(arguments.code))
    print(text)
    return ExitCode.DONE


def _code_with_digits(text: str) -> str | None:
    """The code of a number in another notation, such as `205` or `kd-0205`; codes that are near in number differ in
    all else.

    >>> _code_with_digits("kd205"), _code_with_digits("99999")
    ('KD0205', None)
    """
    code = f"KD{''.join(c for c in text if c in string.digits).zfill(4)}"
    return code if code in table() else None


def schema(arguments: argparse.Namespace) -> int:
    """`kdplan schema`: print the JSON schema of core plans."""
    from kdplan.ir.schema import schema as plan_schema

    print(json.dumps(plan_schema(), indent=2))
    return ExitCode.DONE
