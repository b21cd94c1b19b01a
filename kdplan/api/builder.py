"""The builder: declarations as method calls. It writes the text of a plan, which is then compiled like a plan file."""

from __future__ import annotations

import hashlib
import linecache
import os
import sys
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import Any

from kdplan.api.declaration import Part, declaration, is_setting
from kdplan.api.results import Results, run
from kdplan.api.terms import Term, Value, choice, word
from kdplan.compile import Compiled, compile_source, inspect
from kdplan.constructs.table import CONSTRUCTS, TRAINS
from kdplan.diagnostics.report import WRITTEN, Diagnostic, Note, PlanError, nearest
from kdplan.diagnostics.span import Source, Span
from kdplan.ir.plan import Plan
from kdplan.ir.trust import trusting
from kdplan.passes.schedule import Facts
from kdplan.runtime.options import RunOptions
from kdplan.syntax.build import PACKAGE
from kdplan.syntax.format import format_text
from kdplan.syntax.write import write


class PhaseName(str):
    """What `PlanBuilder.phase` returns: the right side of ``small @ kd``."""

    __slots__ = ()


@dataclass
class _Declared:
    """The text of a declaration, and the line of Python that declared it."""

    text: str
    file: str
    line: int


class PlanBuilder:
    """A plan, declaration by declaration.

    Each method writes one declaration and returns a term for it. `build` checks the plan and reports all errors
    together, each with the line of Python that wrote the declaration.

    Parameters
    ----------
    root : Path, optional
        The folder of data sets; `KDPLAN_DATA` of the environment by default.
    folder : Path, optional
        The folder to which file names are relative; the current one by default.
    trust : sequence of str
        Installed packages whose code may run, besides those in `KDPLAN_TRUST`.

    Examples
    --------
    >>> from kdplan.api import fn, item, labels
    >>> p = PlanBuilder()
    >>> digits = p.data("digits", augment=[item("pad_crop", 8, pad=1)])
    >>> big = p.teacher("big", "digits_net", width=16, classes=digits.classes)
    >>> small = p.student("small", "digits_net", width=4)
    >>> quick = p.recipe("quick", optimizer=item("sgd", lr=0.1), epochs=3, batch=64)
    >>> weight = p.param("weight", values=[1, 5])
    >>> train = p.phase("train", of=big, on=digits, with_=quick, loss=fn.cross_entropy(big.logits, labels))
    >>> kd = p.phase("kd", of=small, on=digits, with_=quick,
    ...              loss=weight * fn.kd(small.logits, (big @ train).logits, temperature=4))
    >>> _ = p.measure("table", of=[big @ train, small @ kd], on=digits.test, metrics=["top1"])
    >>> list(p.build().phases)
    ['train', 'kd[weight=1]', 'kd[weight=5]']
    >>> print(p.text().splitlines()[-1])
    measure table of big@train, small@kd on digits.test { top1 }
    """

    def __init__(self, root: Path | None = None, folder: Path | None = None, trust: Sequence[str] = ()) -> None:
        default = os.environ.get("KDPLAN_DATA")
        self.root = root if root is not None else Path(default) if default else None
        self.folder = folder if folder is not None else Path.cwd()
        self.trust = tuple(trust)
        self._declared: list[_Declared] = []

    # ---- declarations

    def use(self, file: str | Path, as_: str | None = None, **params: Value) -> Term:
        """Use another plan file, or a Python file; its names are attributes of the result: ``my.loss(a, b)``.

        `as_` is its name in this plan, `params` are values for its params.
        """
        alias = as_ or Path(file).stem
        self._declare("use", None, {"as": word(alias), **params}, text=str(file))
        return word(alias)

    def use_package(self, name: str, as_: str | None = None) -> Term:
        """Use an installed package, or a module of it, that the user trusts: ``lab.net(width = 8)``."""
        alias = as_ or name.rpartition(".")[2]
        self._declare(*PACKAGE, {"as": word(alias)}, text=name)
        return word(alias)

    def param(self, name: str, value: Value = None, *, values: Sequence[Value] | range | None = None) -> Term:
        """Declare a named value, or with `values` an axis: what reads it is enumerated once for each."""
        swept = values if values is None or isinstance(values, range) else list(values)
        self._declare("param", name, {"value": value} if values is None else {"in": swept})
        return word(name)

    def data(self, name: str, source: str | Term | None = None, **settings: Value) -> Term:
        """Declare a data set; `source` is `name` by default."""
        self._declare("data", name, {"value": Term(choice(source if source is not None else name)), **settings})
        return word(name)

    def verticals(
        self,
        name: str,
        of: Term,
        partition: Term | None = None,
        *,
        disjoint: bool = True,
        parts: Mapping[str, Value] | None = None,
    ) -> Term:
        """Declare a vertical map of a data set's classes.

        Its verticals are `parts` by name, or those of `partition`, such as ``item("random", parts=2)``.
        """
        given: dict[str, Any] = {"of": of, **({} if partition is None else {"value": partition})}
        self._declare("verticals", name, {**given, **({} if disjoint else {"disjoint": False}), **(parts or {})})
        return word(name)

    def recipe(self, name: str | None = None, base: Term | None = None, **settings: Value) -> Term:
        """Declare a recipe: optimizer, schedule, epochs or steps, batch …; `base` is a recipe to inherit from."""
        if name is None:
            name = f"recipe_{sum(w.text.startswith('recipe ') for w in self._declared) + 1}"
        self._declare("recipe", name, {**({} if base is None else {"value": base}), **settings})
        return word(name)

    def model(self, name: str, factory: str | Term, **arguments: Value) -> Term:
        """Declare a name for an architecture with some of its arguments."""
        self._declare("model", name, {"value": _model(factory, arguments)})
        return word(name)

    def teacher(
        self,
        name: str,
        model: str | Term,
        *parts: Part,
        each: Mapping[str, Value] | None = None,
        **arguments: Value,
    ) -> Term:
        """Declare a network that others learn from; see `network`."""
        return self._network("teacher", name, model, parts, arguments, each)

    def student(
        self,
        name: str,
        model: str | Term,
        *parts: Part,
        each: Mapping[str, Value] | None = None,
        **arguments: Value,
    ) -> Term:
        """Declare a network that learns from others; see `network`."""
        return self._network("student", name, model, parts, arguments, each)

    def network(
        self,
        name: str,
        model: str | Term,
        *parts: Part,
        each: Mapping[str, Value] | None = None,
        **arguments: Value,
    ) -> Term:
        """Declare a network: `model` with its arguments, a version (``small @ kd``), or a call such as ``fn.ema(…)``.

        Arguments that a network has as settings (``seed``, ``weights``, ``mode`` …) are these; the others are those
        of the model. ``each={"v": half}`` declares a family, indexed by ``word("v")``. `parts` are phases of its body:
        ``part.phase("train", on=digits, with_=quick, loss=…)``.
        """
        return self._network("network", name, model, parts, arguments, each)

    def phase(
        self,
        name: str,
        *,
        of: Term | Sequence[Term],
        on: Term | Sequence[Term],
        with_: Term | Sequence[Term],
        loss: Value,
        logged: Mapping[str, Value] | None = None,
        validate: tuple[Term, Sequence[str | Term]] | None = None,
        each: Mapping[str, Value] | None = None,
        **settings: Value,
    ) -> PhaseName:
        """Declare a training run.

        Parameters
        ----------
        of, on, with_
            The networks to train, their data, and the recipes: one of each, or lists.
        loss
            The scalar to minimise.
        logged
            Terms to write to the metrics, by name.
        validate
            Data and metrics to measure after every epoch; the first metric chooses snapshot ``"best"``.
        each
            Index and values of a family of phases.
        **settings
            `seed`, and settings that override the recipe's.
        """
        given = {"of": of, "on": on, "with": with_, "loss": loss, "logged": logged, "validate": validate, "each": each}
        self._declare("phase", name, {**given, **settings})
        return PhaseName(name)

    def measure(
        self,
        name: str,
        *,
        of: Term | Sequence[Term],
        on: Term | Sequence[Term],
        metrics: Sequence[str | Term],
        by: str | Term | Sequence[str | Term] = (),
        over: str | Term | Sequence[str | Term] = (),
        baseline: Term | None = None,
    ) -> str:
        """Declare a measure: metrics of networks on data, by axes or verticals, averaged over others, and compared with
        a baseline."""
        settings = {"baseline": baseline} if baseline is not None else {}
        self._declare("measure", name, _read(of, on, metrics, by, over) | settings)
        return name

    def claim(
        self,
        name: str,
        *,
        of: Term | Sequence[Term],
        on: Term | Sequence[Term],
        metrics: Sequence[str | Term],
        by: str | Term | Sequence[str | Term] = (),
        over: str | Term | Sequence[str | Term] = (),
        **settings: Any,
    ) -> str:
        """Declare a claim: ``of=small @ kd > small @ alone``, ``of=(small @ kd).equals(big)`` with a ``margin``, or
        versions with ``trend="rising"``."""
        self._declare("claim", name, _read(of, on, metrics, by, over) | settings)
        return name

    def export(self, name: str, network: Term) -> str:
        """Declare a network to export."""
        self._declare("export", name, {"value": network})
        return name

    def __getattr__(self, kind: str) -> Callable[..., Any]:
        """Return the method of a construct: every construct of the language is one.

        ``p.stages("mimic", part.head(loss=…), of=small, from_=big, on=digits, with_=quick, stages="auto")`` has the
        construct's clauses and settings as keywords, and what stands in its body as arguments. It returns what
        `phase` returns where a construct is named after ``@``, and else what `network` returns.
        """
        if kind not in CONSTRUCTS:
            near = nearest(kind, dir(self))
            raise AttributeError(f"a plan has no `{kind}`" + (f"; did you mean `{near}`?" if near else ""))
        return partial(self._construct, kind)

    def __dir__(self) -> list[str]:
        return sorted({*super().__dir__(), *CONSTRUCTS})

    # ---- the plan

    def text(self) -> str:
        """Return the plan as the text of a plan file."""
        return format_text(self._source())

    def build(self) -> Plan:
        """Return the core plan.

        Raises
        ------
        PlanError
            With every error, each with its declaration and the line of Python that wrote it.
        """
        return self.compile().plan

    def compile(
        self, *, params: Mapping[str, str] | None = None, facts: Facts | None = None, only: Sequence[str] = ()
    ) -> Compiled:
        """Return the compiled plan; as `kdplan.compile.compile_source` does of a plan file.

        Raises
        ------
        PlanError
            As `build`.
        """
        source = self._source()
        with self._located(source):
            return compile_source(source, self.folder, self.root, params=params, facts=facts, only=tuple(only))

    def check(self) -> list[Diagnostic]:
        """Build the graphs of all phases, as `kdplan check` does, and return the warnings.

        Raises
        ------
        PlanError
            As `build`, and with every error of the graphs.
        """
        compiled = self.compile()
        with self._located(compiled.source):
            inspect(compiled)
        return [self._placed(d, compiled.source) for d in compiled.warnings]

    def run(
        self, store: str | Path = ".kdplan", options: RunOptions | None = None, only: Sequence[str] = ()
    ) -> Results:
        """Train what the store, a folder or an address, does not hold, and return the measures as tables, by name.

        Raises
        ------
        PlanError
            As `check`, or with the error of a phase that failed.
        """
        options = replace(options or RunOptions(), data_root=self.root)
        source = self._source()
        if not options.plan_file and self._declared:
            # A script may build many plans, so each text is remembered for itself.
            options.plan_file = self._declared[0].file
            options.settings = hashlib.sha256(source.text.encode()).hexdigest()[:16]
        with self._located(source):
            return run(
                lambda facts: compile_source(source, self.folder, self.root, facts=facts, only=tuple(only)),
                str(store),
                options,
            )

    def _source(self) -> Source:
        return Source("<python>", "\n\n".join(w.text for w in self._declared))

    @contextmanager
    def _located(self, source: Source) -> Iterator[None]:
        """Add the lines of Python to what goes wrong within."""
        try:
            with trusting(self.trust):
                yield
        except PlanError as e:
            e.diagnostics = [self._placed(d, source) for d in e.diagnostics]
            raise

    def _placed(self, d: Diagnostic, source: Source) -> Diagnostic:
        """The diagnostic with a note: the line of Python that wrote its declaration."""
        if d.span is None or d.span.source is not source:
            return d
        starts = [0, *accumulate(len(w.text) + 2 for w in self._declared)]
        w = self._declared[min(bisect_right(starts, d.span.start), len(self._declared)) - 1]
        text = "".join(linecache.getlines(w.file))
        python = Source(w.file, text)
        line = python.line(w.line)
        offset = sum(len(x) + 1 for x in text.split("\n")[: w.line - 1]) + len(line) - len(line.lstrip())
        note = Note(WRITTEN, Span(python, offset, offset + len(line.strip()))) if line else Note(f"{w.file}:{w.line}")
        return replace(d, notes=(*d.notes, note))

    # ---- writing

    def _network(
        self,
        kind: str,
        name: str,
        model: str | Term,
        parts: Sequence[Part],
        arguments: dict[str, Value],
        each: Mapping[str, Value] | None,
    ) -> Term:
        own: dict[str, Any] = {k: arguments.pop(k) for k in list(arguments) if is_setting(kind, k)}
        self._declare(kind, name, {"value": _model(model, arguments), "each": each, **own}, parts)
        return word(name)

    def _construct(self, kind: str, name: str, *parts: Part, **given: Any) -> Term | PhaseName:
        self._declare(kind, name, given, parts)
        return PhaseName(name) if kind in TRAINS else word(name)

    def _declare(
        self,
        kind: str,
        name: str | None,
        given: Mapping[str, Any],
        parts: Sequence[Part] = (),
        text: str | None = None,
    ) -> None:
        written = write(declaration(kind, name, given, parts, text))
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
            frame = frame.f_back
        self._declared.append(_Declared(written, frame.f_code.co_filename, frame.f_lineno))


def _model(model: str | Term, arguments: Mapping[str, Value]) -> Term:
    term = Term(choice(model))
    return term(**arguments) if arguments or isinstance(model, str) else term


def _read(
    of: Term | Sequence[Term],
    on: Term | Sequence[Term],
    metrics: Sequence[str | Term],
    by: str | Term | Sequence[str | Term],
    over: str | Term | Sequence[str | Term],
) -> dict[str, Any]:
    """Clauses and metrics of what reads networks; clauses that name nothing are left out."""
    clauses = {"of": _several(of), "on": _several(on), "by": _words(by), "over": _words(over)}
    return {**{word: value for word, value in clauses.items() if value}, "metrics": list(metrics)}


def _several(values: Term | Sequence[Value]) -> list[Value]:
    return list(values) if isinstance(values, list | tuple) else [values]


def _words(values: str | Term | Sequence[str | Term]) -> list[Value]:
    return [word(v) if isinstance(v, str) else v for v in _several(values)]
