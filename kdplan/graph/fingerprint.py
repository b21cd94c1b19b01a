"""The hash of all that decides whether a graph is right: sources, settings, modes, shapes; not the weights.

Sources are the files of the user's classes and functions, and the files that these import from their folders or from
folders that are no library's. Verdicts are kept under it, so what it does not cover must not be kept: see `Unknown`.
"""

from __future__ import annotations

import hashlib
import json
import sys
import time
from collections import deque
from collections.abc import Iterable
from enum import Enum
from functools import lru_cache, partial
from pathlib import Path
from types import BuiltinFunctionType, CodeType, FunctionType, MethodType, ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from kdplan import __version__
from kdplan.diagnostics.boundary import is_users
from kdplan.graph.kept import user_module
from kdplan.ir.imports import read
from kdplan.ir.user_code import source_of

_STARTED = time.time()
_PLAIN = (bool, int, float, complex, str, bytes, type(None), type(...))
_TORCH = (torch.dtype, torch.device, torch.Size, torch.layout, torch.memory_format, slice, range)
_VERSIONED = ("torch", "numpy", "kdplan")
_INTERNAL = frozenset(nn.Module().__dict__) - {"training", "_parameters", "_buffers", "_modules"}


class Unknown(Exception):
    """A value that decides what code does, and whose content is not known."""


def fingerprint(*things: object) -> str | None:
    """The hash of networks, functions and their arguments; None where something in them has unknown content.

    Examples
    --------
    >>> fingerprint(nn.Linear(2, 3)) == fingerprint(nn.Linear(2, 3)) != fingerprint(nn.Linear(3, 2))
    True
    >>> fingerprint(iter([1])) is None
    True
    """
    contents = _Contents()
    try:
        parts = [contents.of(thing) for thing in things]
        files = sorted(sources(contents.files).items())
        if any(Path(f).stat().st_mtime > _STARTED for f, _ in files):
            return None  # what was imported may be an older text
        files += sorted(contents.codes.items())
        libraries = sorted((name, _digest(Path(name)), v) for name, v in contents.libraries.items())
    except (Unknown, OSError, SyntaxError, UnicodeDecodeError, RecursionError):
        return None
    return hashlib.sha256(json.dumps([_versions(), parts, files, libraries]).encode()).hexdigest()


def refined(known: str | None, *values: object) -> str | None:
    """The hash of what one is of, used with some plain values; None where there is none.

    >>> refined("a", 1) != refined("a", 2), refined(None, 1)
    (True, None)
    """
    return hashlib.sha256(f"{known} {values!r}".encode()).hexdigest() if known is not None else None


@lru_cache(maxsize=1)
def _versions() -> list[str]:
    """What runs the code: Python, libraries, and the passes of this package, by their text."""
    own = hashlib.sha256()
    for file in sorted(Path(__file__).parent.glob("*.py")):
        own.update(file.read_bytes())
    return [sys.version, torch.__version__, np.__version__, __version__, own.hexdigest()]


def sources(files: Iterable[str]) -> dict[str, str]:
    """The hashes of user's files, and of those that they import, by path."""
    hashes: dict[str, str] = {}
    for file in files:
        hashes |= {str(path): digest for path, digest in read(Path(file)).files.items()}
    return hashes


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


# ---- values


class _Contents:
    """Values as JSON; their code is in `files` of the user's, and in files of libraries, with the versions of these."""

    def __init__(self) -> None:
        self.files: set[str] = set()
        self.codes: dict[str, str] = {}
        """Modules of files that a plan uses: they run as they were read, with what they import."""
        self.libraries: dict[str, str] = {}
        self._seen: dict[int, tuple[int, object]] = {}

    def of(self, value: Any) -> object:
        """What a value is.

        Raises
        ------
        Unknown
        """
        if isinstance(value, _PLAIN) and not isinstance(value, Enum):
            return [type(value).__name__, repr(value)]
        if isinstance(value, _TORCH):
            return repr(value)
        if id(value) in self._seen:
            return self._seen[id(value)][0]
        self._seen[id(value)] = (len(self._seen), value)
        return [self._class(type(value)), self._parts(value)]

    def _parts(self, value: Any) -> object:
        if isinstance(value, Tensor):
            held = isinstance(value, nn.Parameter) or value.is_meta
            return [[*value.shape], str(value.dtype), value.requires_grad, None if held else self._numbers(value)]
        if isinstance(value, np.ndarray) and value.dtype != object:
            return [[*value.shape], str(value.dtype), hashlib.sha256(value.tobytes()).hexdigest()]
        if isinstance(value, list | tuple | deque):
            return [self.of(v) for v in value]
        if isinstance(value, dict):
            return [[self.of(k), self.of(v)] for k, v in value.items()]
        if isinstance(value, set | frozenset):
            return sorted(json.dumps(self.of(v)) for v in value)
        if isinstance(value, FunctionType | MethodType | BuiltinFunctionType | partial):
            return self._function(value)
        if isinstance(value, type):
            return self._class(value)
        if isinstance(value, ModuleType):
            self._file(value.__name__)
            return value.__name__
        if isinstance(value, nn.Module):
            return self._module(value)
        users = self._file(type(value).__module__)
        if isinstance(value, Enum) or (users and hasattr(value, "__dict__")):
            return [[n, self.of(v)] for n, v in vars(value).items() if not n.startswith("__")]
        raise Unknown(type(value).__name__)

    def _module(self, value: nn.Module) -> object:
        attributes = {n: v for n, v in vars(value).items() if n not in _INTERNAL}
        buffers = attributes.pop("_buffers")
        shapes = [[n, None if b is None else [[*b.shape], str(b.dtype)]] for n, b in buffers.items()]
        hooks = [v for n, v in vars(value).items() if n in _INTERNAL and isinstance(v, dict) and v]
        return [shapes, [[n, self.of(v)] for n, v in attributes.items()], [self.of(h) for h in hooks]]

    def _function(self, value: Any) -> object:
        if isinstance(value, partial):
            return [self.of(value.func), self.of(value.args), self.of(value.keywords)]
        if isinstance(value, MethodType):
            return [self.of(value.__self__), self.of(value.__func__)]
        name = [self._module_name(value), value.__qualname__]
        if isinstance(value, BuiltinFunctionType):
            owner = value.__self__
            return [name, None if owner is None or isinstance(owner, ModuleType) else self.of(owner)]
        file = value.__code__.co_filename
        users = self._file(value.__module__) or is_users(file) or file.startswith("<")
        if is_users(file) and source_of(value.__module__ or "") is None:
            self.files.add(file)  # a file that is in no table of modules
        if not users and not value.__closure__:
            return name
        cells = [self.of(c.cell_contents) for c in value.__closure__ or ()]
        return [name, _code(value.__code__), cells, self.of(value.__defaults__), self.of(value.__kwdefaults__)]

    def _class(self, kind: type) -> str:
        for base in kind.__mro__:
            self._file(base.__module__)
        return f"{self._module_name(kind)}.{kind.__qualname__}"

    @staticmethod
    def _module_name(value: Any) -> str:
        """Of a user's code its file: the names of such modules are made up anew in every process."""
        module = user_module(value)
        return str(getattr(module, "__file__", None) or value.__module__)

    def _file(self, module: str | None) -> bool:
        """Note the file of a module; whether it is a user's."""
        if (own := source_of(module or "")) is not None:
            self.codes[own[0]] = own[1]
            return True
        held = sys.modules.get(module or "")
        file, top = getattr(held, "__file__", None), (module or "").partition(".")[0]
        if held is None or file is None or not file.endswith(".py"):
            return False
        if is_users(file):
            self.files.add(file)
            return True
        if top not in _VERSIONED and top not in sys.stdlib_module_names:
            self.libraries[file] = str(getattr(sys.modules.get(top), "__version__", ""))
        return False

    @staticmethod
    def _numbers(value: Tensor) -> str:
        held = value.detach().cpu().contiguous()
        return hashlib.sha256(held.reshape(-1).view(torch.uint8).numpy().tobytes() if held.numel() else b"").hexdigest()


def _code(code: CodeType) -> list[object]:
    """What a function does: two of one name in one file differ in it."""
    constants = [
        _code(c) if isinstance(c, CodeType) else sorted(map(repr, c)) if isinstance(c, frozenset) else repr(c)
        for c in code.co_consts
    ]
    return [code.co_code.hex(), [*code.co_names], [*code.co_varnames], constants]
