"""Files to modules: reads a plan and the files that it uses, and makes the name tables that look-ups need.

Before: a plan file. After: a `Module` with a scope in which every declared name stands once.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from kdplan.constructs.table import AFTER_AT, KINDS, TRAINS, slots
from kdplan.diagnostics.missing import no_such_file
from kdplan.diagnostics.report import Note, PlanError, Reporter, error, listing, nearest
from kdplan.diagnostics.span import Source, Span
from kdplan.diagnostics.text import read_text
from kdplan.ir.functions import RESERVED
from kdplan.ir.imports import is_installed
from kdplan.ir.trust import check_trusted, registered, top_of
from kdplan.syntax import ast
from kdplan.syntax.build import PACKAGE
from kdplan.syntax.imports import names_in
from kdplan.syntax.parse import parse_recovering


@dataclass(eq=False)
class UserCode:
    """A Python file or package that the plan uses: `use "losses.py" as my`, `use package "mylab" as lab`."""

    path: str
    span: Span

    def __repr__(self) -> str:
        return f"UserCode({self.path!r})"


@dataclass(eq=False)
class Declared:
    """A declaration with the module in which its words have their meaning."""

    node: ast.Declaration
    module: Module

    def __post_init__(self) -> None:
        self.name = self.node.name or ""
        self.kind = self.node.kind

    @cached_property
    def slots(self) -> list[ast.Slot]:
        """Its indices, those included that its kind has without their being written."""
        return slots(self.node)

    def __repr__(self) -> str:
        return f"<{self.kind} {self.node.name}>"


@dataclass(eq=False)
class Override:
    """A param's value given from outside: an expression of the using file, or the value of `--set`."""

    value: ast.Expr
    module: Module
    set: bool = False
    """Whether `--set` gives it, and no file."""


@dataclass(eq=False)
class Module:
    """One plan file, loaded. `scope` holds its own names and those of the files it uses without `as`."""

    source: Source
    tree: ast.File
    folder: Path
    scope: dict[str, Declared | Module | UserCode] = field(default_factory=dict)
    after_at: dict[str, Declared] = field(default_factory=dict)
    """Phases, measures and exports: looked up only after `@` and on the command line."""
    inherited: dict[str, dict[Declared, ast.Declaration]] = field(default_factory=dict)
    """Params of files used without `as`, by name: each with the `use` that brings it in."""
    own: list[Declared] = field(default_factory=list)
    """Declarations of this very file, in order."""
    overrides: dict[str, Override] = field(default_factory=dict)
    uses: list[Module] = field(default_factory=list)
    broken: set[int] = field(default_factory=set)
    """`id`s of declarations whose form is wrong: whoever needs one of them fails silently, since that was reported."""
    lost: set[str] = field(default_factory=set)
    """Names of what could not be read or stands in the wrong way: not finding them is no second mistake."""
    blind: bool = False
    """Whether a used file is missing, so that any name may be one of its."""

    def every(self) -> Iterator[Module]:
        """This module and all that it uses, each once."""
        seen: dict[int, Module] = {}
        waiting = [self]
        while waiting:
            one = waiting.pop()
            if id(one) not in seen:
                seen[id(one)] = one
                waiting.extend(one.uses)
        yield from seen.values()

    def param(self, name: str) -> list[Declared]:
        """The params of a name that a file which uses this one sees: several where none of them is meant."""
        known = self.scope.get(name)
        if isinstance(known, Declared) and known.kind == "param":
            return [known]
        return list(self.inherited.get(name, ()))

    def params(self) -> dict[str, list[Declared]]:
        """The params that a file which uses this one sees, by name: several where none of them is meant."""
        known = {n: [d] for n, d in self.scope.items() if isinstance(d, Declared) and d.kind == "param"}
        return {name: list(several) for name, several in self.inherited.items()} | known

    def knows_of(self, name: str) -> bool:
        """Whether a name that is not found here may be the consequence of a mistake that was reported already."""
        return any(m.blind or name in m.lost for m in self.every())

    def __repr__(self) -> str:
        return f"Module({self.source.path!r})"


Reader = Callable[[Path], str]


def read_file(path: Path) -> str:
    """The text of a plan file.

    Raises
    ------
    OSError, UnicodeDecodeError
        Where it cannot be read; `load` reports KD0211 or KD0225.
    """
    return read_text(path)


def load(
    source: Source,
    folder: Path,
    reporter: Reporter,
    read: Reader = read_file,
    overrides: Mapping[str, tuple[ast.Expr, Span]] | None = None,
) -> Module:
    """Parse `source` and every file that it uses.

    Mistakes go to `reporter`; what could be read is returned. `overrides` are values of `--set` for the file's own
    params, each with where its name stands.

    Examples
    --------
    >>> module = load(Source("a.kd", "param w = 3"), Path("."), Reporter())
    >>> sorted(module.scope)
    ['w']
    """
    loader = _Loader(reporter, read)
    module = loader.module(source, folder, [(folder / Path(source.path).name).resolve()])
    for name, (value, span) in (overrides or {}).items():
        _override(module, name, Override(value, module, set=True), span, reporter)
    return module


def _override(module: Module, name: str, override: Override, span: Span, reporter: Reporter) -> None:
    target = module.scope.get(name)
    several = module.param(name)
    if len(several) > 1:
        reporter.add(ambiguous(name, module, span).diagnostics)
        return
    if not (isinstance(target, Declared) and target.kind == "param"):
        params = [n for n, d in module.scope.items() if isinstance(d, Declared) and d.kind == "param"]
        near = nearest(name, params)
        known = f"Choose from {listing(sorted(params))}." if params else "Declare one: `param NAME = VALUE`."
        help = f"Did you mean `{near}`?" if near else known
        reporter.report("KD0210", span, name=name, file=module.source.path, help=help)
        return
    target.module.overrides[name] = override


def ambiguous(name: str, module: Module, span: Span, reader: str = "") -> PlanError:
    """KD0278: a name that is a param of several used files; `reader` reads it without naming it."""
    params = module.inherited[name]
    files = list(dict.fromkeys(p.module.source.path for p in params))
    help = f"Declare a `param {name}` in this file."
    direct = [use for param, use in params.items() if any(u is param.module for u in module.uses)]
    if direct and not reader:
        stem = Path(direct[0].text or "").stem
        help = f'Write `use "{direct[0].text}" as {stem}`, and `{stem}.{name}`.'
    where = listing(files) if len(files) > 1 else f"{files[0]} twice, with different settings"
    return error("KD0278", span, name=name, files=where, help=help)


def _own(shared: dict[Path, Module], tree: ast.File, node: ast.Declaration) -> dict[Path, Module]:
    """The modules that a file which is used with settings may share with others: none if a setting is a param that the
    file has from a file of its own, since setting it must not reach anybody else."""
    declared = {d.name for d in tree.declarations if d.kind == "param"}
    settings = {i.name for i in node.items or [] if isinstance(i, ast.Setting)}
    return shared if settings <= declared else {}


def _is_name(node: ast.Expr, name: str) -> bool:
    return isinstance(node, ast.Name) and node.name == name


class _Loader:
    def __init__(self, reporter: Reporter, read: Reader) -> None:
        self.reporter = reporter
        self.read = read
        self.plain: dict[Path, Module] = {}
        self.trees: dict[Path, ast.File] = {}

    def module(self, source: Source, folder: Path, chain: list[Path]) -> Module:
        """Parse one file; `chain` are the files that use one another down to it."""
        before = len(self.reporter.errors)
        tree = parse_recovering(source, self.reporter)
        module = self.of_tree(tree, folder, chain)
        if len(self.reporter.errors) > before:
            _lose(module)
        return module

    def of_tree(self, tree: ast.File, folder: Path, chain: list[Path]) -> Module:
        """A new module of a parsed file, with the names that it declares and uses."""
        module = Module(tree.source, tree, folder)
        for item in tree.items:
            if not isinstance(item, ast.Declaration):
                continue
            if item.kind == "use":
                self.use(item, module, chain)
            elif item.name is not None and item.kind in KINDS:
                declared = Declared(item, module)
                module.own.append(declared)
                self.declare(module, item.name, declared, item.name_span or item.span)
        for name, params in module.inherited.items():
            self.inherit(module, name, params)
        return module

    def inherit(self, module: Module, name: str, params: dict[Declared, ast.Declaration]) -> None:
        """Bring params of used files into scope, all of one name. This file's own param is meant before others'
        (KD0273 where it is not passed on); of two that are others' none is, and who reads the name has to say which."""
        own = module.scope.get(name)
        if isinstance(own, Declared) and own.kind == "param":
            for param, use in params.items():
                if name not in param.module.overrides and not re.search(rf"\b{name}\b", use.span.text):
                    span, file = own.node.name_span or own.node.span, param.module.source.path
                    self.reporter.report("KD0273", span, name=name, file=file)
            return
        for param in params:
            override = param.module.overrides.get(name)
            if own is None and override is not None and override.module is module and _is_name(override.value, name):
                lacking = f"Write `{name} = …`: this file has no `{name}` of its own."
                self.reporter.report("KD0205", override.value.span, name=name, help=lacking)
                module.lost.add(name)
                return
        if own is not None or len(params) == 1:
            for param, use in params.items():
                self.declare(module, name, param, use.span)

    def declare(self, module: Module, name: str, thing: Declared | Module | UserCode, span: Span) -> None:
        """Bring a name into scope. Reports KD0206 for the name of a built-in, KD0207 for a second meaning."""
        if isinstance(thing, Declared) and thing.kind in AFTER_AT:
            table: dict[str, Declared] = module.after_at
            known: Declared | Module | UserCode | None = table.get(name)
            if known is None:
                table[name] = thing
        else:
            if name in RESERVED and span.source is module.source:
                kind = thing.kind if isinstance(thing, Declared) else "name"
                module.lost.add(name)
                self.reporter.report("KD0206", span, name=name, kind=kind)
                return
            known = module.scope.get(name)
            if known is None:
                module.scope[name] = thing
        if known is not None and known is not thing:
            first = _span(known)
            self.reporter.report(
                "KD0207",
                span,
                name=name,
                first=f"{first.file} line {first.line}",
                notes=[Note("declared here first", first)],
            )

    def use(self, node: ast.Declaration, module: Module, chain: list[Path]) -> None:
        """Follow one `use`. Reports KD0211 for a missing file, KD0212 for code without `as`, KD0213 for a circle."""
        if node.text is None:
            return  # the form check speaks of it
        path = (module.folder / node.text).resolve()
        as_clause = node.clause("as")
        alias = as_clause.exprs[0].name if as_clause and isinstance(as_clause.exprs[0], ast.Name) else None
        if node.name == PACKAGE[1]:
            self.package(node, module, node.text, alias or node.text.rpartition(".")[2])
            return
        if node.name is not None:
            module.lost.update([alias] if alias else [])
            return  # the form check speaks of it
        if path.suffix == ".py":
            if not path.is_file():
                self.reporter.add(no_such_file(node.text, [module.folder], node.span).diagnostics)
                module.lost.update([alias] if alias else [])
            elif alias is None:
                self.reporter.report("KD0212", node.span, file=node.text, stem=path.stem)
            else:
                self.declare(module, alias, UserCode(str(path), node.span), node.span)
            return
        if path in chain:
            self.reporter.report("KD0213", node.span, file=node.text)
            return
        settings = [i for i in node.items or [] if isinstance(i, ast.Setting)]
        used = self.loaded(path, node, module.folder, chain, plain=not settings)
        if used is None:
            module.lost.update([alias] if alias else [])
            module.blind = module.blind or alias is None
            return
        module.uses.append(used)
        for setting in settings:
            _override(used, setting.name, Override(setting.value, module), setting.name_span, self.reporter)
        if alias is not None:
            self.declare(module, alias, used, node.span)
            return
        for name, thing in used.scope.items():
            if not (isinstance(thing, Declared) and thing.kind == "param"):
                self.declare(module, name, thing, node.span)
        for name, params in used.params().items():
            module.inherited.setdefault(name, {}).update(dict.fromkeys(params, node))
        for name, declared in used.after_at.items():
            if declared.kind in TRAINS:
                self.declare(module, name, declared, node.span)

    def package(self, node: ast.Declaration, module: Module, name: str, alias: str) -> None:
        """`use package "mylab" as lab`. Reports KD1003, KD1004 and KD1007 for packages of which no code may run."""
        module.lost.add(alias)
        try:
            if not all(part.isidentifier() for part in name.split(".")) or not is_installed(top_of(name)):
                raise error("KD1007", node.span, name=name)
            if not registered(top_of(name)):
                check_trusted(f"{name}:", node.span)
        except PlanError as problem:
            self.reporter.add(problem.diagnostics)
            return
        module.lost.discard(alias)
        self.declare(module, alias, UserCode(name, node.span), node.span)

    def loaded(self, path: Path, node: ast.Declaration, folder: Path, chain: list[Path], plain: bool) -> Module | None:
        """The module of a used file: the same for every `use` without settings, a new one for each with settings."""
        if plain and path in self.plain:
            return self.plain[path]
        before = len(self.reporter.errors)
        if path not in self.trees:
            text = self.text(path, node, folder)
            if text is None:
                return None
            self.trees[path] = parse_recovering(Source(_short(path, node.span.file), text), self.reporter)
        tree = self.trees[path]
        shared, self.plain = self.plain, self.plain if plain else _own(self.plain, tree, node)
        used = self.of_tree(tree, path.parent, [*chain, path])
        self.plain = shared
        if len(self.reporter.errors) > before:
            _lose(used)
        if plain:
            self.plain[path] = used
        return used

    def text(self, path: Path, node: ast.Declaration, folder: Path) -> str | None:
        """The text of a used file, or None. Reports KD0211 where it is missing, KD0225 where it cannot be read."""
        try:
            return self.read(path)
        except FileNotFoundError:
            self.reporter.add(no_such_file(node.text or "", [folder], node.span).diagnostics)
        except UnicodeDecodeError as problem:
            why = f"byte {problem.start} is not UTF-8"
            self.reporter.report("KD0225", node.span, file=node.text, problem=why)
        except OSError as problem:
            self.reporter.report("KD0225", node.span, file=node.text, problem=problem.strerror or str(problem))
        return None


_HEAD = re.compile(r"^[^\n=\{#]*", re.MULTILINE)
_WORD = re.compile(r"[A-Za-z_]\w*")


def _lose(module: Module) -> None:
    """After mistakes of syntax: the names that the lines of a file most likely declare."""
    for head in _HEAD.findall(module.source.text):
        words = _WORD.findall(head)
        if words and words[0] == "use":
            alias = re.search(r"\bas\s+(\w+)", head)
            module.lost.update([alias[1]] if alias else [])
            module.blind = module.blind or alias is None
        elif words and words[0] in KINDS:
            module.lost.update(words[1:2])
            module.blind = module.blind or len(words) == 1
        else:
            module.lost.update(words[:2])
    module.lost.update(names_in(module.source.text))


def _short(path: Path, user: str) -> str:
    """How messages call a used file: relative to where the using file is called from, where that is possible."""
    base = Path(user).parent
    try:
        return str(base / path.relative_to(base.resolve()))
    except ValueError:
        return str(path)


def _span(thing: Declared | Module | UserCode) -> Span:
    if isinstance(thing, Declared):
        return thing.node.name_span or thing.node.span
    if isinstance(thing, UserCode):
        return thing.span
    return Span(thing.source, 0, 0)
