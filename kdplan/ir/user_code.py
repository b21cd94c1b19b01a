"""Python files of the user, as modules."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from types import ModuleType

from kdplan.diagnostics.report import PlanError, diagnostic
from kdplan.diagnostics.span import Span

_REFUSED: ContextVar[bool] = ContextVar("_REFUSED", default=False)


class CodeRefused(PlanError):
    """Code of the user is wanted where none may run; its diagnostic is a warning."""

    def __init__(self, code: str, what: str = "a part of the plan", span: Span | None = None) -> None:
        super().__init__([diagnostic("KD0544", span, what=what, code=code)])
        self.code = code

    def about(self, what: str, span: Span | None) -> CodeRefused:
        """The same, about what cannot be checked for it."""
        return CodeRefused(self.code, what, span)


@contextmanager
def no_code(refused: bool = True) -> Iterator[None]:
    """Inside, `check_allowed` raises.

    >>> with no_code():
    ...     check_allowed("net.py")
    Traceback (most recent call last):
    kdplan.ir.user_code.CodeRefused: KD0544: A part of the plan is not checked: it needs `net.py`, which is not run.
    """
    token = _REFUSED.set(refused)
    try:
        yield
    finally:
        _REFUSED.reset(token)


def code_is_refused() -> bool:
    """Whether code of the user may not run now."""
    return _REFUSED.get()


def check_allowed(code: str) -> None:
    """Call this before code of the user, a file or a module, is imported or called.

    Raises
    ------
    CodeRefused
    """
    if code_is_refused():
        raise CodeRefused(Path(code).name)


LOADED: dict[str, str] = {}
"""Path of a file -> the hash of its text when it was last read as a module."""


def module_of_file(path: Path, name: str) -> ModuleType:
    """A Python file as a new module called `name`; what the file raises goes to the caller, who knows the plan's span.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CodeRefused
        Inside of `no_code`.
    """
    check_allowed(str(path))
    path = path.expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None and spec.loader is not None, path
    module = importlib.util.module_from_spec(spec)
    LOADED[str(path)] = hashlib.sha256(path.read_bytes()).hexdigest()
    sys.modules[name] = module  # data classes look their module up while they are made
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module
