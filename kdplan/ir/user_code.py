"""Python files of the user, as modules."""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from pathlib import Path
from types import ModuleType

LOADED: dict[str, str] = {}
"""Path of a file -> the hash of its text when it was last read as a module."""


def module_of_file(path: Path, name: str) -> ModuleType:
    """A Python file as a new module called `name`; what the file raises goes to the caller, who knows the plan's span.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    """
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
