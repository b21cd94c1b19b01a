"""Python files of the user as modules: read once for a plan, and run from the source that was read.

So what runs is what a key was made of, also where a file is edited meanwhile. Such a file can import what lies beside
it, as a program does; files of one name in two folders do not meet.
"""

from __future__ import annotations

import base64
import builtins
import hashlib
import importlib
import importlib.abc
import linecache
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from importlib.machinery import ModuleSpec
from importlib.util import spec_from_loader
from pathlib import Path
from types import ModuleType
from typing import Any

from kdplan.diagnostics.boundary import PREFIX as PREFIX
from kdplan.diagnostics.report import PlanError, diagnostic
from kdplan.diagnostics.span import Span
from kdplan.ir.imports import PACKAGES, Code, Module, found_now, read, read_package, version_now

_read: dict[Path, Code] = {}
_reported: set[Path] = set()
_roots: dict[str, Code] = {}
"""Name of the package that a file's folder becomes -> the file's code."""


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


def begin(folder: Path = Path("/")) -> None:
    """Forget what was read below a folder: a plan that is compiled anew reads its files anew."""
    for path in [p for p in _read if p.is_relative_to(folder.resolve()) or p.parent == PACKAGES]:
        del _read[path]
        _reported.discard(path)


def code(path: Path) -> Code:
    """A file's code, as it was first asked for since `begin`.

    Raises
    ------
    FileNotFoundError
    """
    at = path.expanduser().resolve()
    if at not in _read:
        _read[at] = read(at)
    return _read[at]


def package_code(module: str) -> Code | None:
    """The code of a module of an installed package, as it was first asked for; None of packages of every run."""
    at = PACKAGES / module
    if at not in _read and (read_now := read_package(module)) is not None:
        _read[at] = read_now
    return _read.get(at)


def files_of(factory: str) -> dict[str, str]:
    """The files of a factory `file.py:name` or `module:name`: the name of each with its hash; none of other code.

    A package counts by its version, or by its files where they are the user's.
    """
    where, _, _ = factory.rpartition(":")
    try:
        held = code(Path(where)) if where.endswith(".py") else package_code(where) if where else None
    except OSError:  # of a plan that was compiled where the file is
        return {}
    if held is None:
        return {}
    return {path.name: digest for path, digest in held.files.items()} | held.packages


def dump_read() -> list[dict[str, Any]]:
    """All that was read since `begin`, as plain values: the sources themselves, for a process on another machine."""

    def plain(module: Module) -> dict[str, Any]:
        content = base64.b64encode(module.content).decode()
        return {"name": module.name, "path": str(module.path), "content": content, "package": module.package}

    return [
        {
            "path": str(c.path),
            "local": {name: plain(module) for name, module in c.local.items()},
            "elsewhere": [plain(module) for module in c.elsewhere],
            "packages": c.packages,
        }
        for c in _read.values()
    ]


def load_read(data: list[dict[str, Any]]) -> None:
    """Sets what was read to what `dump_read` gave: the files themselves are not looked at any more.

    Modules that Python finds by itself are compared with their files before each phase, as always.
    """

    def module(plain: Mapping[str, Any]) -> Module:
        return Module(plain["name"], Path(plain["path"]), base64.b64decode(plain["content"]), plain["package"])

    _read.clear()
    for one in data:
        local = {name: module(plain) for name, plain in one["local"].items()}
        elsewhere = tuple(module(plain) for plain in one["elsewhere"])
        _read[Path(one["path"])] = Code(Path(one["path"]), local, elsewhere, one["packages"])
        _reported.update(m.path for m in local.values())


def different() -> list[str]:
    """What this process finds by itself and what is not as it was read: modules by name, packages with versions."""
    modules = {m.name: m for c in _read.values() for m in c.elsewhere if m.path.parent != PACKAGES}
    packages = {name: version for c in _read.values() for name, version in c.packages.items()}
    wrong = [name for name, module in modules.items() if found_now(module) != module.digest]
    return wrong + [f"{name} {version}" for name, version in packages.items() if version_now(name) != version]


def source_of(module: str) -> tuple[str, str] | None:
    """The name below its root, and the hash of all its code, of a module that was made here; None of others."""
    root, _, name = module.partition(".")
    return (name, _roots[root].digest) if root in _roots else None


def edited() -> tuple[list[Path], list[Path]]:
    """Files that changed since they were read: those that run as they were read, and those that may not.

    The first are given once. The others are modules that Python finds by itself, and loads when it is asked to.
    """
    files = {path: digest for c in _read.values() for path, digest in c.files.items()}
    changed = [path for path, digest in files.items() if path not in _reported and not _is(path, digest)]
    elsewhere = {m.path for c in _read.values() for m in c.elsewhere}
    _reported.update(p for p in changed if p not in elsewhere)
    return [p for p in changed if p not in elsewhere], [p for p in changed if p in elsewhere]


def listed() -> dict[str, str]:
    """What was read, for the record: each file with the hash of its source, each installed package with its version."""
    files = {str(path): digest for c in _read.values() for path, digest in c.files.items()}
    return files | {name: version for c in _read.values() for name, version in c.packages.items()}


def _is(path: Path, digest: str) -> bool:
    try:
        return Module("", path, path.read_bytes()).digest == digest
    except OSError:
        return False


def module_of_file(path: Path) -> ModuleType:
    """A Python file as a module; what the file raises goes to the caller, who knows the plan's span.

    Functions and classes of one file are those of one module, until `forget_modules`.

    Raises
    ------
    FileNotFoundError
        If there is no such file.
    CodeRefused
        Inside of `no_code`.
    """
    check_allowed(str(path))
    source = code(path)
    root = PREFIX + hashlib.sha256(f"{source.digest} {source.path}".encode()).hexdigest()[:16]
    _roots[root] = source
    name = f"{root}.{source.main.name}"
    if name in sys.modules:
        return sys.modules[name]
    before = set(sys.modules)
    with _same_draws():
        try:
            module = importlib.import_module(name)
        except BaseException:
            _drop(root)  # what was loaded half
            raise
    _check_names(source, before)
    return module


def forget_modules() -> None:
    """Drop the modules, so that what comes next finds none of the state that they may have gathered."""
    for root in _roots:
        _drop(root)


def _drop(root: str) -> None:
    for name in [n for n in sys.modules if n == root or n.startswith(f"{root}.")]:
        del sys.modules[name]


def _check_names(source: Code, before: set[str]) -> None:
    """Modules beside the file that came in by another way than an `import` that can be read in the source."""
    known = set(source.files)
    for name in set(sys.modules) - before:
        file = getattr(sys.modules[name], "__file__", None)
        if file is None or name.startswith(PREFIX) or not Path(file).is_absolute():
            continue  # some modules of libraries have a name there, and no path
        path = Path(file).resolve()
        if path.parent.is_relative_to(source.path.parent) and path not in known and "site-packages" not in path.parts:
            how = "write `import`, and put the module beside the file or on PYTHONPATH"
            raise ImportError(f"{path.name} is imported in a way that cannot be read in the source; {how}")


@contextmanager
def _same_draws() -> Iterator[None]:
    """What a file draws while it is loaded depends on the file alone."""
    # Neither is imported for this: who has not can draw nothing from it.
    numpy, torch = (sys.modules.get(name) for name in ("numpy", "torch"))
    python, arrays = random.getstate(), numpy.random.get_state() if numpy else None
    tensors = torch.random.get_rng_state() if torch else None
    random.seed(0)
    if numpy:
        numpy.random.seed(0)
    if torch:
        torch.default_generator.manual_seed(0)
    try:
        yield
    finally:
        random.setstate(python)
        if numpy and arrays is not None:
            numpy.random.set_state(arrays)
        if torch and tensors is not None:
            torch.random.set_rng_state(tensors)


class _Loader(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Finds modules of read files below their roots, and runs them from the source that was read."""

    def find_spec(
        self, fullname: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if not fullname.startswith(PREFIX):
            return None
        root, _, name = fullname.partition(".")
        if (source := _roots.get(root)) is None:
            return None
        module = source.local.get(name)
        inside = not name or any(n.startswith(f"{name}.") for n in source.local)
        if module is None and not inside:
            return None
        spec = spec_from_loader(fullname, self, is_package=module is None or module.package)
        if spec is not None and module is not None:
            spec.origin, spec.has_location = str(module.path), True
        return spec

    def create_module(self, spec: ModuleSpec) -> ModuleType | None:
        return None

    def exec_module(self, module: ModuleType) -> None:
        root, _, name = module.__name__.partition(".")
        source = _roots[root]
        if name not in source.local:
            return  # a folder
        part = source.local[name]
        text = part.content.decode("utf-8", errors="replace")
        # Tracebacks and `inspect` show what runs, not what the file has become.
        linecache.cache[str(part.path)] = (len(text), None, text.splitlines(keepends=True), str(part.path))
        module.__dict__["__builtins__"] = vars(builtins) | {"__import__": _importer(root, source.tops)}
        exec(compile(part.content, str(part.path), "exec", dont_inherit=True), module.__dict__)


def _importer(root: str, tops: set[str]) -> Any:
    """`import` of a module below `root`: a name of a module beside the file means that module."""

    def own_import(
        name: str,
        globals: Mapping[str, Any] | None = None,
        locals: Mapping[str, Any] | None = None,
        fromlist: Sequence[str] | None = (),
        level: int = 0,
    ) -> ModuleType:
        top = name.partition(".")[0]
        if level or top not in tops:
            return builtins.__import__(name, globals, locals, fromlist or (), level)
        module = builtins.__import__(f"{root}.{name}", globals, locals, fromlist or (), 0)
        return module if fromlist else sys.modules[f"{root}.{top}"]

    return own_import


sys.meta_path.insert(0, _Loader())
