"""Which files a user's Python file consists of: itself and the modules that it imports, found without running any.

Modules beside the file, or in packages beside it, are the user's; so are modules that Python would find outside of its
own library and of the folders of installed packages, such as on `PYTHONPATH`. Installed packages count by version.
"""

from __future__ import annotations

import ast
import hashlib
import importlib.util
import sys
import sysconfig
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from importlib import metadata
from importlib.machinery import ModuleSpec
from pathlib import Path

_REQUIRED = ("kdplan", "torch", "torchvision", "numpy", "networkx", "lark", "pydantic", "sklearn", "PIL", "safetensors")
"""Packages that every run has, whose versions stand in its `environment.json`."""
PACKAGES = Path("/dev/null/packages")
"""Where the code is that a plan takes from a package: no file."""
_LIBRARIES = tuple({sysconfig.get_path(name) for name in ("stdlib", "platstdlib")})


@dataclass(frozen=True)
class Module:
    """A module of the user: its name, where it is, and its source as it was read once.

    Attributes
    ----------
    name
        As it is imported: `lab.layers`.
    """

    name: str
    path: Path
    content: bytes = field(repr=False)
    package: bool = False

    @property
    def digest(self) -> str:
        """The SHA-256 of the source."""
        return hashlib.sha256(self.content).hexdigest()


@dataclass(frozen=True)
class Code:
    """A user's file with all that it imports.

    Attributes
    ----------
    local
        Name -> module, of the modules in the file's folder; the file itself is among them.
    elsewhere
        Modules of the user that Python finds by itself.
    packages
        Installed packages -> versions, without those that kdplan needs itself.
    """

    path: Path
    local: dict[str, Module]
    elsewhere: tuple[Module, ...]
    packages: dict[str, str]

    @property
    def main(self) -> Module:
        """The file itself."""
        return next(m for m in self.local.values() if m.path == self.path)

    @property
    def tops(self) -> set[str]:
        """First parts of the names of modules beside the file."""
        return {name.partition(".")[0] for name in self.local}

    @property
    def files(self) -> dict[Path, str]:
        """Every file -> the hash of its source."""
        return {m.path: m.digest for m in (*self.local.values(), *self.elsewhere) if m.path.parent != PACKAGES}

    @property
    def digest(self) -> str:
        """The hash of everything; of a file that imports nothing of its own, the SHA-256 of its source."""
        others = [m for m in self.local.values() if m.path != self.path]
        if not others and not self.elsewhere and not self.packages:
            return self.main.digest
        parts = [["", self.main.digest], *sorted([m.name, m.digest] for m in others)]
        parts += sorted([_dotted(m.path), m.digest] for m in self.elsewhere)
        parts += sorted([name, version] for name, version in self.packages.items())
        return hashlib.sha256(repr(parts).encode()).hexdigest()


def read(path: Path) -> Code:
    """Read a file, and every module that it or one of those imports, wherever in the source the `import` stands.

    Raises
    ------
    FileNotFoundError
        If there is no such file. A module that does not exist is left to whoever runs the import.

    Examples
    --------
    >>> import tempfile
    >>> folder = Path(tempfile.mkdtemp())
    >>> _ = (folder / "net.py").write_text("import torch, helper")
    >>> _ = (folder / "helper.py").write_text("x = 1")
    >>> sorted(read(folder / "net.py").local)
    ['helper', 'net']
    """
    path = path.expanduser().resolve()
    if not path.is_file():
        raise FileNotFoundError(f"there is no file {path}")
    return _with_imports(Module(path.stem.replace(".", "_"), path, path.read_bytes()))


def read_package(name: str) -> Code | None:
    """The code of a module that Python finds by itself; None of packages that every run has.

    Examples
    --------
    >>> read_package("torchvision.ops") is None, read_package("no_such_package").packages
    (True, {'no_such_package': 'not installed'})
    """
    if name.partition(".")[0] in _REQUIRED:
        return None
    return _with_imports(Module("", PACKAGES / name, f"import {name}".encode()))


def is_installed(package: str) -> bool:
    """Whether Python finds a package under this name; nothing of it is run."""
    return _found_by_python(package) is not None


def found_now(module: Module) -> str:
    """The hash of the module that this process would import under the name of one that Python finds; "" for none."""
    spec = _found_by_python(module.name.partition(".")[0])
    there = {m.name: m.digest for m in _modules_of(spec, module.name)} if spec is not None else {}
    return there.get(module.name, "")


def version_now(package: str) -> str:
    """The version of an installed package as `Code.packages` has it."""
    return _version(package) if _found_by_python(package) is not None else "not installed"


def _with_imports(main: Module) -> Code:
    path = main.path
    local, elsewhere, packages = {main.name: main}, dict[Path, Module](), dict[str, str]()
    todo = [main]
    while todo:
        module = todo.pop()
        for name in _imported(module):
            parts = list(_local(path.parent, name)) if module.path not in elsewhere else []
            if parts:
                new = [m for m in parts if m.name not in local]
                local.update((m.name, m) for m in new)
                todo += new
                continue
            top = name.partition(".")[0]
            if top in local or top in packages or top in _REQUIRED or top in sys.stdlib_module_names:
                continue
            spec = _found_by_python(top)
            if spec is None or _is_installed(spec):
                packages[top] = _version(top) if spec is not None else "not installed"
                continue
            for m in _modules_of(spec, name):
                if m.path not in elsewhere:
                    elsewhere[m.path] = m
                    todo.append(m)
    return Code(path, local, tuple(elsewhere.values()), packages)


# ---- imports of one source


def _imported(module: Module) -> list[str]:
    package = module.name if module.package else module.name.rpartition(".")[0]
    return list(dict.fromkeys(_names(module.content, package)))


@lru_cache(maxsize=4096)
def _names(content: bytes, package: str) -> tuple[str, ...]:
    """Names of the modules that a source imports; `from a import b` gives `a` and `a.b`, of which one may not exist.

    >>> _names(b"import a.b\\ndef f():\\n    from . import c", "")
    ('a.b', 'c')
    """
    try:
        tree = ast.parse(content)
    except (SyntaxError, ValueError, RecursionError):
        return ()  # whoever runs it reports that
    names: list[str] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".") if package else []
            above = above[: len(above) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            names += [base] if base else []
            names += [f"{base}.{a.name}".lstrip(".") for a in node.names if a.name != "*"]
    return tuple(names)


# ---- where modules are


def _local(folder: Path, name: str) -> Iterator[Module]:
    """The modules in `folder` that `import name` runs: packages above it, and itself where it is one."""
    parts = name.split(".")
    for n in range(1, len(parts) + 1):
        at = folder.joinpath(*parts[:n])
        dotted = ".".join(parts[:n])
        if (at / "__init__.py").is_file():
            yield Module(dotted, at / "__init__.py", (at / "__init__.py").read_bytes(), package=True)
        elif at.with_name(f"{at.name}.py").is_file():
            path = at.with_name(f"{at.name}.py")
            yield Module(dotted, path, path.read_bytes())
            return
        elif not at.is_dir() or (n == 1 and (spec := _found_by_python(dotted)) is not None and spec.origin is not None):
            return  # a folder without `__init__.py` is a package only where there is no other of its name


def _found_by_python(top: str) -> ModuleSpec | None:
    """What Python would import under a name without a dot; nothing is run."""
    try:
        return importlib.util.find_spec(top)
    except (ImportError, ValueError, AttributeError):
        return None


def _is_installed(spec: ModuleSpec) -> bool:
    locations = [spec.origin] if spec.has_location and spec.origin else list(spec.submodule_search_locations or ())
    if not locations:
        return True  # built in
    path = Path(locations[0])
    return bool({"site-packages", "dist-packages"} & set(path.parts)) or str(path).startswith(_LIBRARIES)


def _modules_of(spec: ModuleSpec, name: str) -> Iterator[Module]:
    """The files of a package that Python finds by itself, down to the module `name`."""
    if spec.submodule_search_locations is None:
        if spec.origin:
            yield Module(spec.name, Path(spec.origin).resolve(), Path(spec.origin).read_bytes())
        return
    for location in spec.submodule_search_locations:
        root = Path(location)
        for m in _local(root.parent, name) if root.name == spec.name else ():
            yield Module(m.name, m.path.resolve(), m.content, m.package)


def _version(top: str) -> str:
    try:
        return metadata.version(top)
    except metadata.PackageNotFoundError:
        names = metadata.packages_distributions().get(top)
        return metadata.version(names[0]) if names else ""


def _dotted(path: Path) -> str:
    """The name of a module that Python finds, from its path: without the part above its outermost package."""
    parts = [path.stem]
    for folder in path.parents:
        if not (folder / "__init__.py").is_file():
            break
        parts.insert(0, folder.name)
    return ".".join(parts)
