"""The builder: declarations as method calls. It writes the text of a plan, which is then compiled like a plan file."""

from __future__ import annotations

import linecache
import os
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from kdplan.api.terms import Term, Value, choice, to_node, word
from kdplan.constructs.table import KINDS
from kdplan.diagnostics.report import Diagnostic, Note, PlanError, Reporter
from kdplan.diagnostics.span import Source, Span
from kdplan.ir.plan import Plan
from kdplan.passes.form import check_form
from kdplan.passes.legal import check_plan
from kdplan.passes.load import load
from kdplan.passes.spell import NOWHERE
from kdplan.resolve.plan import resolve
from kdplan.syntax import ast
from kdplan.syntax.format import format_text
from kdplan.syntax.write import write

_CHOICES = {"optimizer", "schedule", "split", "protocol", "transforms", "choice"}
"""Types of settings whose strings are names from a table."""


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

    def __init__(self, root: Path | None = None, folder: Path | None = None) -> None:
        default = os.environ.get("KDPLAN_DATA")
        self.root = root if root is not None else Path(default) if default else None
        self.folder = folder if folder is not None else Path.cwd()
        self._declared: list[_Declared] = []

    # ---- declarations

    def use(self, file: str | Path, as_: str | None = None, **params: Value) -> Term:
        """Use another plan file, or a Python file; its names are attributes of the result: ``my.loss(a, b)``.

        `as_` is its name in this plan, `params` are values for its params.
        """
        alias = as_ or Path(file).stem
        self._declare("use", None, [("as", [word(alias)])], _settings(params), text=str(file))
        return word(alias)

    def param(self, name: str, value: Value = None, *, values: Sequence[Value] | range | None = None) -> Term:
        """Declare a named value, or with `values` an axis: what reads it is enumerated once for each."""
        clause: tuple[str, list[Value]]
        clause = ("=", [value]) if values is None else ("in", [values if isinstance(values, range) else list(values)])
        self._declare("param", name, [clause])
        return word(name)

    def data(self, name: str, source: str | Term | None = None, **settings: Value) -> Term:
        """Declare a data set; `source` is `name` by default.

        Settings: augment, normalize, split, fraction, limit, seed.
        """
        self._declare("data", name, [("=", [Term(choice(source if source is not None else name))])],
                      _settings(settings, "data"))  # fmt: skip
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
        clauses: list[tuple[str, list[Value]]] = [("of", [of])]
        if partition is not None:
            clauses.append(("=", [partition]))
        items = _settings({} if disjoint else {"disjoint": False}) + _settings(dict(parts or {}))
        self._declare("verticals", name, clauses, items)
        return word(name)

    def recipe(self, name: str | None = None, base: Term | None = None, **settings: Value) -> Term:
        """Declare a recipe: optimizer, schedule, epochs or steps, batch …; `base` is a recipe to inherit from."""
        if name is None:
            name = f"recipe_{sum(w.text.startswith('recipe ') for w in self._declared) + 1}"
        self._declare("recipe", name, [("=", [base])] if base is not None else [], _settings(settings, "recipe"))
        return word(name)

    def model(self, name: str, factory: str | Term, **arguments: Value) -> Term:
        """Declare a name for an architecture with some of its arguments."""
        self._declare("model", name, [("=", [_model(factory, arguments)])])
        return word(name)

    def teacher(
        self, name: str, model: str | Term, *, each: Mapping[str, Value] | None = None, **arguments: Value
    ) -> Term:
        """Declare a network that others learn from; see `network`."""
        return self._network("teacher", name, model, arguments, each)

    def student(
        self, name: str, model: str | Term, *, each: Mapping[str, Value] | None = None, **arguments: Value
    ) -> Term:
        """Declare a network that learns from others; see `network`."""
        return self._network("student", name, model, arguments, each)

    def network(
        self, name: str, model: str | Term, *, each: Mapping[str, Value] | None = None, **arguments: Value
    ) -> Term:
        """Declare a network: `model` with its arguments, a version (``small @ kd``), or a call such as ``fn.ema(…)``.

        `seed`, `weights` and `mode` are settings of the network; the other arguments are those of the model.
        ``each={"v": half}`` declares a family, indexed by ``word("v")``.
        """
        return self._network("network", name, model, arguments, each)

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
        items: list[ast.Item] = _settings(settings, "phase")
        for term, value in (logged or {}).items():
            items.append(_declaration("def", term, [("=", [value])]))
        if validate is not None:
            items.append(_declaration("measure", None, [("on", [validate[0]])], listing=list(validate[1])))
        items.extend(_settings({"loss": loss}))
        self._declare(
            "phase", name, [("of", _several(of)), ("on", _several(on)), ("with", _several(with_))], items, each=each
        )
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
    ) -> str:
        """Declare a measure: metrics of networks on data, by axes or verticals, averaged over others."""
        clauses = [("of", _several(of)), ("by", _words(by)), ("on", _several(on)), ("over", _words(over))]
        self._declare("measure", name, [c for c in clauses if c[1]], listing=list(metrics))
        return name

    def export(self, name: str, network: Term) -> str:
        """Declare a network to export."""
        self._declare("export", name, [("=", [network])])
        return name

    # ---- the plan

    def text(self) -> str:
        """Return the plan as the text of a plan file."""
        return format_text(Source("<python>", "\n\n".join(w.text for w in self._declared)))

    def build(self) -> Plan:
        """Return the core plan.

        Raises
        ------
        PlanError
            With every error, each with its declaration and the line of Python that wrote it.
        """
        starts: list[int] = []
        at = 0
        for w in self._declared:
            starts.append(at)
            at += len(w.text) + 2
        source = Source("<python>", "\n\n".join(w.text for w in self._declared))
        reporter = Reporter()
        try:
            module = load(source, self.folder, reporter)
            check_form(module, reporter)
            plan = resolve(module, self.root, reporter)
            reporter.raise_if_errors()
            check_plan(plan, reporter)
            reporter.raise_if_errors()
        except PlanError as e:
            raise PlanError([self._placed(d, source, starts) for d in e.diagnostics]) from None
        return plan

    def _placed(self, d: Diagnostic, source: Source, starts: list[int]) -> Diagnostic:
        """The diagnostic with a note: the line of Python that wrote its declaration."""
        if d.span is None or d.span.source is not source:
            return d
        w = self._declared[max(0, bisect_right(starts, d.span.start) - 1)]
        text = "".join(linecache.getlines(w.file))
        python = Source(w.file, text)
        line = python.line(w.line)
        offset = sum(len(x) + 1 for x in text.split("\n")[: w.line - 1]) + len(line) - len(line.lstrip())
        note = (
            Note("written here", Span(python, offset, offset + len(line.strip())))
            if line
            else Note(f"{w.file}:{w.line}")
        )
        return replace(d, notes=(*d.notes, note))

    # ---- writing

    def _network(
        self, kind: str, name: str, model: str | Term, arguments: dict[str, Value], each: Mapping[str, Value] | None
    ) -> Term:
        own: dict[str, Value] = {k: arguments.pop(k) for k in ("seed", "weights", "mode") if k in arguments}
        self._declare(kind, name, [("=", [_model(model, arguments)])], _settings(own, kind), each=each)
        return word(name)

    def _declare(
        self,
        kind: str,
        name: str | None,
        clauses: list[tuple[str, list[Value]]],
        items: list[ast.Item] | None = None,
        *,
        text: str | None = None,
        listing: list[Value] | None = None,
        each: Mapping[str, Value] | None = None,
    ) -> None:
        written = write(_declaration(kind, name, clauses, items, text=text, listing=listing, each=each))
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
            frame = frame.f_back
        self._declared.append(_Declared(written, frame.f_code.co_filename, frame.f_lineno))


def _declaration(
    kind: str,
    name: str | None,
    clauses: list[tuple[str, list[Value]]],
    items: list[ast.Item] | None = None,
    *,
    text: str | None = None,
    listing: list[Value] | None = None,
    each: Mapping[str, Value] | None = None,
) -> ast.Declaration:
    if name is not None:
        word(name)  # refuses what is no name
    slots = [ast.Slot(NOWHERE, n, NOWHERE, to_node(v)) for n, v in (each or {}).items()]
    nodes = [ast.Clause(NOWHERE, w, NOWHERE, [to_node(e) for e in exprs]) for w, exprs in clauses]
    listed = [choice(m) for m in listing] if listing is not None else None
    return ast.Declaration(
        NOWHERE, kind, NOWHERE, name, NOWHERE, text, None, slots, nodes, items or None, listed, NOWHERE
    )


def _settings(values: Mapping[str, Value], kind: str | None = None) -> list[ast.Item]:
    settings: list[ast.Item] = []
    for name, value in values.items():
        spec = KINDS[kind].setting(name) if kind is not None else None
        node = choice(value) if spec is not None and spec.type in _CHOICES else to_node(value)
        settings.append(ast.Setting(NOWHERE, name, NOWHERE, node))
    return settings


def _model(model: str | Term, arguments: Mapping[str, Value]) -> Term:
    term = Term(choice(model))
    return term(**arguments) if arguments or isinstance(model, str) else term


def _several(values: Term | Sequence[Value]) -> list[Value]:
    return list(values) if isinstance(values, list | tuple) else [values]


def _words(values: str | Term | Sequence[str | Term]) -> list[Value]:
    return [word(v) if isinstance(v, str) else v for v in _several(values)]
