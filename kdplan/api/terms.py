"""Terms: expressions of the language, written with Python's operators."""

from __future__ import annotations

import math
import numbers
from collections.abc import Callable, Mapping, Sequence
from types import EllipsisType
from typing import TypeAlias

from kdplan.diagnostics.report import nearest
from kdplan.ir.expr import SNAPSHOTS, STEP_COUNTERS, STREAM_FIELDS
from kdplan.ir.functions import FUNCTIONS, PLAN_FUNCTIONS
from kdplan.passes.spell import NOWHERE, attr, call, dotted, is_word, name, number, plain
from kdplan.syntax import ast
from kdplan.syntax.write import expression

Value: TypeAlias = "Term | str | float | range | Sequence[Value] | Mapping[str, Value] | None"
"""What can stand in a plan: a term, or a Python value that the language can write."""

Index: TypeAlias = "Value | slice | EllipsisType | tuple[Value | slice | EllipsisType, ...]"
"""What can stand between square brackets."""

_BASES = (ast.Name, ast.Attr, ast.Version, ast.Pick, ast.Call)


class Term:
    """An expression of a plan: a network, a tap, a signal, data, a class set, a number.

    ============================  =============================
    ``small.layer2``              a tap; ``digits.test``, ``digits.classes``, ``few.inputs``
    ``small(x)``, ``small.fc(x)``  a network or a submodule, applied to signals
    ``small @ kd``                network ``small`` as phase ``kd`` left it; ``small @ init`` with initial weights
    ``(small @ kd)["best"]``      a snapshot: ``"best"``, ``"ema"``, ``{"epoch": 3}``, ``{"cycle": 0}``
    ``t[half[0]]``, ``t[EVERY]``  members of a family; ``t[0:3]`` is ``t[0..2]``; ``{"w": 5}`` selects on an axis
    ``+ - * / ** < <= > >=``      arithmetic and masks; ``fn.eq``, ``fn.ne`` for equality
    ============================  =============================

    Write ``term["b"]`` for names that begin with an underscore or are no Python names.

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

    def __call__(self, *args: Value, **keywords: Value) -> Term:
        if isinstance(self._node, ast.Call):
            raise TypeError(f"`{self}` is a call already, and calls cannot be called")
        return Term(call(self._base(), [to_node(a) for a in args], {k: to_node(v) for k, v in keywords.items()}))

    def __matmul__(self, phase: object) -> Term:
        return Term(ast.Version(NOWHERE, self._base(), str(phase), NOWHERE))

    def __getitem__(self, index: Index) -> Term:
        indices = index if isinstance(index, tuple) else (index,)
        return Term(ast.Pick(NOWHERE, self._base(), [node for i in indices for node in _picks(i)]))

    def _base(self) -> ast.Expr:
        if not isinstance(self._node, _BASES):
            raise TypeError(f"`{self}` has no taps, versions or members")
        return self._node

    # ---- arithmetic

    def __add__(self, other: Value) -> Term:
        return _binary("+", self, other)

    def __radd__(self, other: Value) -> Term:
        return _binary("+", other, self)

    def __sub__(self, other: Value) -> Term:
        return _binary("-", self, other)

    def __rsub__(self, other: Value) -> Term:
        return _binary("-", other, self)

    def __mul__(self, other: Value) -> Term:
        return _binary("*", self, other)

    def __rmul__(self, other: Value) -> Term:
        return _binary("*", other, self)

    def __truediv__(self, other: Value) -> Term:
        return _binary("/", self, other)

    def __rtruediv__(self, other: Value) -> Term:
        return _binary("/", other, self)

    def __pow__(self, other: Value) -> Term:
        return _binary("**", self, other)

    def __rpow__(self, other: Value) -> Term:
        return _binary("**", other, self)

    def __lt__(self, other: Value) -> Term:
        return _binary("<", self, other)

    def __le__(self, other: Value) -> Term:
        return _binary("<=", self, other)

    def __gt__(self, other: Value) -> Term:
        return _binary(">", self, other)

    def __ge__(self, other: Value) -> Term:
        return _binary(">=", self, other)

    def equals(self, other: Value) -> Term:
        """Return ``self == other`` of the language, for claims with a margin; Python's own ``==`` compares terms."""
        return _binary("==", self, other)

    def __neg__(self) -> Term:
        return Term(ast.Negate(NOWHERE, self._node))


def _binary(op: str, left: Value, right: Value) -> Term:
    return Term(ast.Binary(NOWHERE, op, to_node(left), to_node(right)))


def to_node(value: Value) -> ast.Expr:
    """Return a term, or a Python number, boolean, string, list, dict or range, as an expression.

    Raises
    ------
    TypeError
        For anything else.
    ValueError
        For numbers and strings that the language cannot write: infinity, quotes, line ends.

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
            raise ValueError(f"a string of a plan has no quotes and no line ends: {value!r}")
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


def choice(value: Value) -> ast.Expr:
    """Return a value as an expression, where strings are names: of optimizers, transforms, metrics, models, layers.

    Raises
    ------
    TypeError, ValueError
        As `to_node`; also for a string that is no name.
    """
    if isinstance(value, str):
        first, _, path = value.partition(".")
        if not is_word(first) or not all(is_word(step) or step.isdecimal() for step in path.split(".") if path):
            raise ValueError(f"{value!r} is no name")
        return dotted(name(first), path) if path else name(first)
    if isinstance(value, list | tuple):
        return ast.List(NOWHERE, [choice(v) for v in value])
    return to_node(value)


def _picks(p: Value | slice | EllipsisType) -> list[ast.Expr]:
    """The picks between square brackets; all members for `...` and `:`."""
    if isinstance(p, EllipsisType) or p == slice(None):
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
    """Return a name of the plan as a term: that of a param, or the index of a family.

    Raises
    ------
    ValueError
        If it is no name of the language.

    Examples
    --------
    >>> print(word("big").layer1)
    big.layer1
    """
    if not is_word(text):
        raise ValueError(f"{text!r} is no name")
    return Term(name(text))


def item(entry: str, /, *args: Value, **settings: Value) -> Term:
    """Return a choice from a table with its settings: ``item("sgd", lr=0.1)``, ``item("pad_crop", 8, pad=1)``.

    >>> print(item("sgd", lr=0.1, momentum=0.9))
    sgd(lr = 0.1, momentum = 0.9)
    """
    return word(entry)(*args, **settings)


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
    def eq(a: Value, b: Value) -> Term:
        """Return a mask: 1 where the two are equal."""
        return _binary("==", a, b)

    @staticmethod
    def ne(a: Value, b: Value) -> Term:
        """Return a mask: 1 where the two differ."""
        return _binary("!=", a, b)


fn = _Functions()

inputs, labels, indices, targets = (word(w) for w in STREAM_FIELDS)
epoch, step, progress = (word(w) for w in STEP_COUNTERS)
init = "init"
"""`small @ init`: a network with its initial weights."""
