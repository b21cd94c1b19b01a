"""Expressions of the language, written with Python's operators."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable
from typing import Any

from kdplan.diagnostics.report import nearest
from kdplan.ir.expr import SNAPSHOTS, STEP_COUNTERS, STREAM_FIELDS
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS
from kdplan.passes.spell import NOWHERE, attr, call, is_word, name, number, plain
from kdplan.syntax import ast
from kdplan.syntax.write import expression

_APPLIES = (ast.Name, ast.Attr, ast.Version, ast.Pick, ast.Call)


class Term:
    """Anything that an expression of a plan can stand for: a network, a tap, a signal, data, a class set, a number.

    ============================  =============================
    ``small.layer2``              a tap; ``digits.test``, ``digits.classes``, ``few.inputs``
    ``small(x)``, ``small.fc(x)``  a network or a submodule, applied to signals
    ``small @ kd``                network ``small`` as phase ``kd`` left it; ``small @ init`` as it starts
    ``(small @ kd)["best"]``      a snapshot: ``"best"``, ``"ema"``, ``{"epoch": 3}``, ``{"cycle": 0}``
    ``t[half[0]]``, ``t[EVERY]``  members of a family; ``t[0:3]`` is ``t[0..2]``; ``{"w": 5}`` picks on an axis
    ``+ - * / ** < <= > >=``      arithmetic and masks; ``fn.eq``, ``fn.ne`` for equality
    ============================  =============================

    Names that begin with an underscore, and ``a.b`` where ``b`` is no word, are reached by ``term["b"]``.

    Examples
    --------
    >>> print(0.5 * fn.cross_entropy(word("small").logits, labels) - 1)
    0.5 * cross_entropy(small.logits, labels) - 1
    """

    __slots__ = ("_node",)
    __iter__ = None

    def __init__(self, node: ast.Expr) -> None:
        self._node = node

    def __str__(self) -> str:
        return expression(self._node)

    def __repr__(self) -> str:
        return f"<Term {self}>"

    def __bool__(self) -> bool:
        raise TypeError(f"`{self}` is known only while a phase runs: it is neither true nor false here")

    def __getattr__(self, tap: str) -> Term:
        if tap.startswith("_"):
            raise AttributeError(tap)
        return Term(attr(self._base(), tap))

    def __call__(self, *args: Any, **keywords: Any) -> Term:
        if isinstance(self._node, ast.Call):
            raise TypeError(f"`{self}` is a call already, and calls cannot be called")
        return Term(call(self._base(), [to_node(a) for a in args], {k: to_node(v) for k, v in keywords.items()}))

    def __matmul__(self, phase: object) -> Term:
        return Term(ast.Version(NOWHERE, self._base(), str(phase), NOWHERE))

    def __getitem__(self, picked: Any) -> Term:
        picks = picked if isinstance(picked, tuple) else (picked,)
        return Term(ast.Pick(NOWHERE, self._base(), [node for p in picks for node in _picks(p)]))

    def _base(self) -> ast.Expr:
        if not isinstance(self._node, _APPLIES):
            raise TypeError(f"`{self}` has no taps, versions or members")
        return self._node

    # ---- arithmetic

    def __add__(self, other: Any) -> Term:
        return _binary("+", self, other)

    def __radd__(self, other: Any) -> Term:
        return _binary("+", other, self)

    def __sub__(self, other: Any) -> Term:
        return _binary("-", self, other)

    def __rsub__(self, other: Any) -> Term:
        return _binary("-", other, self)

    def __mul__(self, other: Any) -> Term:
        return _binary("*", self, other)

    def __rmul__(self, other: Any) -> Term:
        return _binary("*", other, self)

    def __truediv__(self, other: Any) -> Term:
        return _binary("/", self, other)

    def __rtruediv__(self, other: Any) -> Term:
        return _binary("/", other, self)

    def __pow__(self, other: Any) -> Term:
        return _binary("**", self, other)

    def __rpow__(self, other: Any) -> Term:
        return _binary("**", other, self)

    def __lt__(self, other: Any) -> Term:
        return _binary("<", self, other)

    def __le__(self, other: Any) -> Term:
        return _binary("<=", self, other)

    def __gt__(self, other: Any) -> Term:
        return _binary(">", self, other)

    def __ge__(self, other: Any) -> Term:
        return _binary(">=", self, other)

    def __neg__(self) -> Term:
        return Term(ast.Negate(NOWHERE, self._node))


def _binary(op: str, left: Any, right: Any) -> Term:
    return Term(ast.Binary(NOWHERE, op, to_node(left), to_node(right)))


def to_node(value: Any) -> ast.Expr:
    """A term, or a Python number, text, list or range, as an expression.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For numbers and strings that the language cannot hold: infinity, quotes, line ends.

    Examples
    --------
    >>> print(expression(to_node([1, -0.5, "a", range(0, 3), word("w")])))
    [1, -0.5, "a", 0..2, w]
    """
    if isinstance(value, Term):
        return value._node
    if value is None or isinstance(value, bool):
        return plain(value)
    if isinstance(value, str):
        if '"' in value or "\n" in value:
            raise ValueError(f"a string of a plan holds no quotes and no line ends: {value!r}")
        return plain(value)
    if isinstance(value, numbers.Integral):
        return number(int(value))
    if isinstance(value, numbers.Real):
        if not math.isfinite(value):
            raise ValueError(f"{value} is no number of a plan")
        return number(float(value))
    if isinstance(value, range):
        if value.step != 1:
            raise ValueError("ranges of a plan have a step of 1")
        return ast.Range(NOWHERE, number(value.start), number(value.stop - 1))
    if isinstance(value, list | tuple):
        return ast.List(NOWHERE, [to_node(v) for v in value])
    if isinstance(value, dict):
        return call(name("case"), [], {str(k): to_node(v) for k, v in value.items()})
    raise TypeError(f"{value!r} ({type(value).__name__}) cannot stand in a plan")


def choice(value: Any) -> ast.Expr:
    """As `to_node`, where a string is a name from a table: an optimizer, a transform, a metric, a model."""
    if isinstance(value, str):
        if not is_word(value):
            raise ValueError(f"{value!r} is no name")
        return name(value)
    if isinstance(value, list | tuple):
        return ast.List(NOWHERE, [choice(v) for v in value])
    return to_node(value)


def _picks(p: Any) -> list[ast.Expr]:
    if p is Ellipsis or p == slice(None):
        return [ast.All(NOWHERE)]
    if isinstance(p, slice):
        return [to_node(range(p.start or 0, p.stop))]
    if isinstance(p, dict):
        return [ast.Coordinate(NOWHERE, k, _picks(v)[0]) for k, v in p.items()]
    if isinstance(p, str) and p in SNAPSHOTS:
        return [name(p)]
    return [to_node(p)]


EVERY = slice(None)
"""All members: `t[EVERY]`, `x[{"seed": EVERY}]`; `t[:]` is the same."""


def word(text: str) -> Term:
    """A name of the plan as a term: a param's, or the index of a family."""
    if not is_word(text):
        raise ValueError(f"{text!r} is no name")
    return Term(name(text))


def item(what: str, *args: Any, **settings: Any) -> Term:
    """A choice from a table with its settings: ``item("sgd", lr=0.1)``, ``item("pad_crop", 8, pad=1)``.

    >>> print(item("sgd", lr=0.1, momentum=0.9))
    sgd(lr = 0.1, momentum = 0.9)
    """
    return word(what)(*args, **settings)


class _Functions:
    """The functions of the language: ``fn.cross_entropy(small.logits, labels)``; ``fn.eq`` and ``fn.ne`` compare."""

    def __getattr__(self, function: str) -> Callable[..., Term]:
        if function.startswith("_"):
            raise AttributeError(function)
        if function not in FUNCTIONS and function not in PLAN_FUNCTIONS:
            near = nearest(function, [*FUNCTIONS, *PLAN_FUNCTIONS])
            raise AttributeError(f"there is no function `{function}`" + (f"; did you mean `{near}`?" if near else ""))
        return word(function)

    def __dir__(self) -> list[str]:
        return sorted([*FUNCTIONS, *PLAN_FUNCTIONS, "eq", "ne"])

    @staticmethod
    def eq(a: Any, b: Any) -> Term:
        """A mask: 1 where the two are equal."""
        return _binary("==", a, b)

    @staticmethod
    def ne(a: Any, b: Any) -> Term:
        """A mask: 1 where the two differ."""
        return _binary("!=", a, b)


fn = _Functions()

inputs, labels, indices, targets = (word(w) for w in STREAM_FIELDS)
epoch, step, progress = (word(w) for w in STEP_COUNTERS)
init = "init"
"""`small @ init`: a network as it starts."""
