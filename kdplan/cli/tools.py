"""The commands that need no store: layout of plan files, error codes, the schema."""

from __future__ import annotations

import argparse
import difflib
import json
import sys
from collections.abc import Iterator
from pathlib import Path

from kdplan.cli.inputs import read_source
from kdplan.diagnostics.report import error, nearest, table
from kdplan.syntax.format import format_text


def fmt(given: argparse.Namespace) -> int:
    """`kdplan fmt FILES`: writes them in the one layout."""
    changed = 0
    for path in _plan_files(given.files):
        source = read_source(path)
        laid_out = format_text(source)
        if laid_out == source.text:
            continue
        changed += 1
        if given.diff:
            before, after = source.text.splitlines(keepends=True), laid_out.splitlines(keepends=True)
            sys.stdout.writelines(difflib.unified_diff(before, after, str(path), str(path)))
        elif given.check:
            print(f"would change {path}")
        else:
            path.write_text(laid_out, encoding="utf-8")
            print(f"changed {path}")
    return 1 if changed and given.check else 0


def _plan_files(paths: list[Path]) -> Iterator[Path]:
    for path in paths:
        if path.is_dir():
            yield from sorted(path.rglob("*.kd"))
        else:
            yield path


def explain(given: argparse.Namespace) -> int:
    """`kdplan explain KD0123`."""
    from kdplan.compile import check_text
    from kdplan.diagnostics.render import explain as text_of

    text = text_of(given.code, check_text)
    if text is None:
        raise error("KD0015", None, code=given.code, nearest=nearest(given.code.upper(), table()))
    print(text)
    return 0


def schema(given: argparse.Namespace) -> int:
    """`kdplan schema`."""
    from kdplan.ir.schema import schema as of_plans

    print(json.dumps(of_plans(), indent=2))
    return 0
