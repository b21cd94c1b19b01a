"""The builder: declarations as method calls. It writes the plan's text, which is then compiled like any other."""

from __future__ import annotations

import linecache
import os
import sys
from bisect import bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from kdplan.api.terms import Term, choice, to_node, word
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
class _Written:
    text: str
    file: str
    line: int


class PlanBuilder:
    """A plan, declaration by declaration.

    Each method writes one declaration and returns what stands for it in later ones. Nothing is checked before `build`
    (or `compile`), which tells all mistakes together, with the line of Python that each comes from.

    Parameters
    ----------
    root : Path, optional
        Where data sets are looked for; the environment's `KDPLAN_DATA` by default.
    folder : Path, optional
        What file names are relative to; the current folder by default.

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
    ...              loss=weight * fn.kd((big @ train).logits, small.logits, temperature=4))
    >>> _ = p.measure("table", of=[big @ train, small @ kd], on=digits.test, metrics=["top1"])
    >>> list(p.build().phases)
    ['train', 'kd[weight=1]', 'kd[weight=5]']
    >>> print(p.text().splitlines()[-1])
    measure table of big@train, small@kd on digits.test { top1 }
    """

    def __init__(self, root: Path | None = None, folder: Path | None = None) -> None:
        found = os.environ.get("KDPLAN_DATA")
        self.root = root if root is not None else Path(found) if found else None
        self.folder = folder if folder is not None else Path.cwd()
        self._written: list[_Written] = []

    # ---- declarations

    def use(self, file: str | Path, as_: str | None = None, **params: Any) -> Term:
        """Another plan file, or a Python file; its names are the result's attributes: ``my.loss(a, b)``."""
        alias = as_ or Path(file).stem
        self._declare("use", None, [("as", [word(alias)])], _settings(params), text=str(file))
        return word(alias)

    def param(self, name: str, value: Any = None, *, values: Sequence[Any] | range | None = None) -> Term:
        """A named value, or with `values` an axis: whatever reads it is made once for each."""
        clause = ("=", [value]) if values is None else ("in", [values if isinstance(values, range) else list(values)])
        self._declare("param", name, [clause])
        return word(name)

    def data(self, name: str, source: str | Term | None = None, **settings: Any) -> Term:
        """A data set; `source` is `name` unless it is given. Settings: augment, normalize, split, fraction, limit,
        seed."""
        self._declare("data", name, [("=", [Term(choice(source if source is not None else name))])],
                      _settings(settings, "data"))  # fmt: skip
        return word(name)

    def verticals(
        self,
        name: str,
        of: Term,
        made: Term | None = None,
        *,
        disjoint: bool = True,
        parts: Mapping[str, Any] | None = None,
    ) -> Term:
        """A partition of a data set's classes: ``made`` (``item("random", parts=2)``) or its `parts` by name."""
        clauses = [("of", [of])] + ([("=", [made])] if made is not None else [])
        items = _settings({} if disjoint else {"disjoint": False}) + _settings(dict(parts or {}))
        self._declare("verticals", name, clauses, items)
        return word(name)

    def recipe(self, name: str | None = None, base: Term | None = None, **settings: Any) -> Term:
        """How a phase trains: optimizer, schedule, epochs or steps, batch …; `base` is a recipe to inherit from."""
        if name is None:
            name = f"recipe_{sum(w.text.startswith('recipe ') for w in self._written) + 1}"
        self._declare("recipe", name, [("=", [base])] if base is not None else [], _settings(settings, "recipe"))
        return word(name)

    def model(self, name: str, factory: str | Term, **arguments: Any) -> Term:
        """A name for an architecture with some of its arguments."""
        self._declare("model", name, [("=", [_model(factory, arguments)])])
        return word(name)

    def teacher(self, name: str, model: str | Term, **arguments: Any) -> Term:
        """A network that others learn from; see `network`."""
        return self._network("teacher", name, model, arguments)

    def student(self, name: str, model: str | Term, **arguments: Any) -> Term:
        """A network that learns from others; see `network`."""
        return self._network("student", name, model, arguments)

    def network(self, name: str, model: str | Term, **arguments: Any) -> Term:
        """A network: `model` with its arguments, a version (``small @ kd``), or ``fn.merge(…)``, ``fn.average(…)``,
        ``fn.ema(…)``.

        `seed`, `weights` and `mode` are the network's settings, all else are arguments of the model;
        ``each={"v": half}`` makes a family, indexed by ``word("v")``.
        """
        return self._network("network", name, model, arguments)

    def phase(
        self,
        name: str,
        *,
        of: Any,
        on: Any,
        with_: Any,
        loss: Any,
        logged: Mapping[str, Any] | None = None,
        validate: tuple[Term, Sequence[Any]] | None = None,
        each: Mapping[str, Any] | None = None,
        **settings: Any,
    ) -> PhaseName:
        """One training run.

        Parameters
        ----------
        of, on, with_
            What moves, on what data, by what recipe: one of each, or lists.
        loss
            The scalar that is made small.
        logged
            Terms that are written to the metrics, by name.
        validate
            Data and metrics that are measured after every epoch; the first metric chooses snapshot ``"best"``.
        each
            Index and values, for a family of phases.
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

    def measure(self, name: str, *, of: Any, on: Any, metrics: Sequence[Any], by: Any = (), over: Any = ()) -> str:
        """Numbers about networks on data."""
        clauses = [("of", _several(of)), ("by", _words(by)), ("on", _several(on)), ("over", _words(over))]
        self._declare("measure", name, [c for c in clauses if c[1]], listing=list(metrics))
        return name

    def export(self, name: str, network: Term) -> str:
        """One network to hand out."""
        self._declare("export", name, [("=", [network])])
        return name

    # ---- the plan

    def text(self) -> str:
        """The plan as a plan file."""
        return format_text(Source("<python>", "\n\n".join(w.text for w in self._written)))

    def build(self) -> Plan:
        """The core plan.

        Raises
        ------
        PlanError
            With every mistake, each with the text that was written and the line of Python that wrote it.
        """
        starts: list[int] = []
        at = 0
        for w in self._written:
            starts.append(at)
            at += len(w.text) + 2
        source = Source("<python>", "\n\n".join(w.text for w in self._written))
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
        """A diagnostic with the line of Python that wrote the declaration in which it stands."""
        if d.span is None or d.span.source is not source:
            return d
        w = self._written[max(0, bisect_right(starts, d.span.start) - 1)]
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

    def _network(self, kind: str, name: str, model: str | Term, arguments: dict[str, Any]) -> Term:
        own: dict[str, Any] = {k: arguments.pop(k) for k in ("seed", "weights", "mode") if k in arguments}
        each = arguments.pop("each", None)
        self._declare(kind, name, [("=", [_model(model, arguments)])], _settings(own, kind), each=each)
        return word(name)

    def _declare(
        self,
        kind: str,
        name: str | None,
        clauses: list[tuple[str, list[Any]]],
        items: list[ast.Item] | None = None,
        **more: Any,
    ) -> None:
        written = write(_declaration(kind, name, clauses, items, **more))
        frame = sys._getframe(1)
        while frame.f_back is not None and frame.f_globals.get("__name__") == __name__:
            frame = frame.f_back
        self._written.append(_Written(written, frame.f_code.co_filename, frame.f_lineno))


def _declaration(
    kind: str,
    name: str | None,
    clauses: list[tuple[str, list[Any]]],
    items: list[ast.Item] | None = None,
    *,
    text: str | None = None,
    listing: list[Any] | None = None,
    each: Mapping[str, Any] | None = None,
) -> ast.Declaration:
    if name is not None:
        word(name)  # refuses what is no name
    slots = [ast.Slot(NOWHERE, n, NOWHERE, to_node(v)) for n, v in (each or {}).items()]
    made = [ast.Clause(NOWHERE, w, NOWHERE, [to_node(e) for e in exprs]) for w, exprs in clauses]
    listed = [choice(m) for m in listing] if listing is not None else None
    return ast.Declaration(
        NOWHERE, kind, NOWHERE, name, NOWHERE, text, None, slots, made, items or None, listed, NOWHERE
    )


def _settings(values: Mapping[str, Any], kind: str | None = None) -> list[ast.Item]:
    found: list[ast.Item] = []
    for name, value in values.items():
        spec = KINDS[kind].setting(name) if kind is not None else None
        node = choice(value) if spec is not None and spec.type in _CHOICES else to_node(value)
        found.append(ast.Setting(NOWHERE, name, NOWHERE, node))
    return found


def _model(model: str | Term, arguments: dict[str, Any]) -> Term:
    made = Term(choice(model))
    return made(**arguments) if arguments or isinstance(model, str) else made


def _several(values: Any) -> list[Any]:
    return list(values) if isinstance(values, list | tuple) else [values]


def _words(values: Any) -> list[Any]:
    return [word(v) if isinstance(v, str) else v for v in _several(values)]
