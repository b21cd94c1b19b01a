"""Errors of the store, each with the exit code that scripts rely on."""

from __future__ import annotations

import errno
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Self

from kdplan.diagnostics.report import Diagnostic, PlanError, diagnostic


class StoreError(PlanError):
    """The store cannot do a task; `exit_code` is that of the command line.

    StoreError
    ├── StoreLocked       another process works on the phase (3)
    ├── StoreCorrupt      a file of the store is missing, cut or altered (4)
    ├── StoreMissing      nothing is stored under that key or name (4)
    ├── StoreUnwritable   disk full, no permission, a file too large (1)
    └── StoreLost         this process did not renew its lease, and another may work on the phase (75)
    """

    exit_code = 4
    folder: Path | None = None
    """The folder that is damaged or missing."""

    def __init__(self, problem: Diagnostic) -> None:
        super().__init__([problem])

    @classmethod
    def of(cls, code: str, **values: Any) -> Self:
        """The error of row `code`, filled with `values`, of which `folder` is kept."""
        problem = cls(diagnostic(code, None, **values))
        problem.folder = values.get("folder")
        return problem


class StoreLocked(StoreError):
    """Another process works on the phase."""

    exit_code = 3


class StoreCorrupt(StoreError):
    """A file of the store is missing, cut short or altered."""


class StoreMissing(StoreError):
    """Nothing is stored under that key or name."""


class StoreUnwritable(StoreError):
    """The store's folder takes no more: the disk is full, or it may not be written."""

    exit_code = 1


class StoreLost(StoreError):
    """This process has lost its lease of a phase: it stops, and the phase can be resumed."""

    exit_code = 75


_FULL = {errno.ENOSPC, errno.EDQUOT}
_FORBIDDEN = {errno.EACCES, errno.EPERM, errno.EROFS}


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Turns the operating system's refusals to write `path` into errors with a code.

    Other libraries' errors count too where their message has the system's error number, as those of safetensors do.

    Raises
    ------
    StoreUnwritable
        If the disk is full (KD0905), permission is missing (KD0906), or the system refuses for another reason (KD0907).
    """
    try:
        yield
    except OSError as problem:
        raise _unwritable(path, problem.errno, str(problem.strerror or problem)) from problem
    except StoreError:
        raise
    except Exception as problem:
        os_error = re.search(r"\(os error (\d+)\)", str(problem))
        if os_error is None:
            raise
        raise _unwritable(path, int(os_error[1]), str(problem)) from problem


def _unwritable(path: Path, number: int | None, reason: str) -> StoreError:
    code = "KD0905" if number in _FULL else "KD0906" if number in _FORBIDDEN else "KD0907"
    return StoreUnwritable.of(code, path=path, folder=path.parent, reason=reason)
