"""Where commands write: checked before anything is computed."""

from __future__ import annotations

import os
from pathlib import Path

from kdplan.diagnostics.report import error


def named_folder(option: str, text: str) -> Path:
    """Return the folder that an option names; it need not exist.

    Raises
    ------
    PlanError
        KD0017 if it has no name, is an address, or a file stands there.

    Examples
    --------
    >>> named_folder("--store", "s3://bucket/x")  # doctest: +ELLIPSIS
    Traceback (most recent call last):
    kdplan.diagnostics.report.PlanError: KD0017: Nothing can be written to `--store s3://bucket/x`: it is ...
    """
    path = Path(text).expanduser()
    problem = None
    if not text.strip():
        problem = "the name is empty"
    elif "://" in text:
        problem = "it is an address"
    elif path.suffix == f".{option.lstrip('-')}" and not path.is_dir():  # --csv table.csv
        problem = "it is a file's name"
    elif (there := _existing(path)) is not None and not there.is_dir():
        problem = f"`{there}` is a file"
    if problem is not None:
        raise error("KD0017", None, option=option, path=text, problem=problem)
    return path


def writable_folder(option: str, text: str) -> Path:
    """Return the folder that an option names, in which files can be made; nothing stays there.

    Raises
    ------
    PlanError
        KD0017 as `named_folder`, and if the system refuses to write there.
    """
    path = named_folder(option, text)
    _probe(option, text, _existing(path) or Path())
    return path


def writable_file(option: str, text: str) -> Path:
    """Return the file that an option names, in a folder that is there.

    Raises
    ------
    PlanError
        KD0017 if there is no such folder, or the system refuses to write there.
    """
    path = Path(text).expanduser()
    if not path.parent.is_dir():
        raise error("KD0017", None, option=option, path=text, problem=f"there is no folder `{path.parent}`")
    _probe(option, text, path.parent)
    return path


def _existing(path: Path) -> Path | None:
    """The path, or the nearest folder above that is there."""
    whole = Path(os.path.abspath(path))
    return next((p for p in (whole, *whole.parents) if p.exists()), None)


def _probe(option: str, text: str, folder: Path) -> None:
    """KD0017 if no file can be made in a folder."""
    from kdplan.runtime.store.atomic import scratch

    try:
        with scratch(folder):
            pass
    except OSError as problem:
        raise error("KD0017", None, option=option, path=text, problem=problem.strerror or str(problem)) from None
