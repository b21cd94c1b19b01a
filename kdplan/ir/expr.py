"""Signal expressions: what a loss is made of, once names, axes and functions of the plan are resolved.

An expression is a tree of six kinds of node. Shapes, roles and gradients are not known here: `kdplan.graph.assemble`
finds them when it builds the phase's graph.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Annotated, Any, Literal, get_args

from kdplan.ir.json_form import EXCLUDED, ByKind, NotInSchema

STREAM_FIELDS = ("inputs", "labels", "indices", "targets")
"""What a stream gives for each batch."""

CounterName = Literal["epoch", "step", "progress"]
STEP_COUNTERS: tuple[CounterName, ...] = get_args(CounterName)

SNAPSHOTS = ("last", "best", "ema")
"""Snapshots that are named by a word; the others are named by an epoch or a cycle."""

Location = Annotated[Any, NotInSchema()]
"""A span, for messages only: it is no part of the value, of its equality, or of the JSON form."""


def location() -> Any:
    """A field for a `Location`: no part of the value, given by keyword."""
    return field(default=None, compare=False, repr=False, kw_only=True, metadata=EXCLUDED)


def locations() -> Any:
    """The same for several, by name."""
    return field(default_factory=dict, compare=False, repr=False, kw_only=True, metadata=EXCLUDED)


@dataclass(slots=True)
class Version:
    """Weights: network `network` as phase `phase` left it; `phase` None means as it starts (fresh, loaded or derived).

    `snapshot` is `last`, `best`, `ema`, `epoch=N` or `cycle=N`.
    """

    network: str
    phase: str | None = None
    snapshot: str = "last"
    span: Location = location()

    def __str__(self) -> str:
        tail = f"@{self.phase}" if self.phase is not None else "@init"
        return f"{self.network}{tail}" + (f"[{self.snapshot}]" if self.snapshot != "last" else "")


@dataclass(slots=True)
class InTraining:
    """The network of the phase's `trainees[slot]`, as it is at this step."""

    slot: int
    span: Location = location()


@dataclass(slots=True)
class Const:
    """A number, string or boolean, or a list of them."""

    value: bool | int | float | str | list[Any] | None
    kind: Literal["const"] = "const"
    span: Location = location()


@dataclass(slots=True)
class StreamField:
    """`inputs`, `labels`, `indices`, `targets` of the phase's stream number `stream`."""

    stream: int
    field: str
    kind: Literal["stream"] = "stream"
    span: Location = location()


@dataclass(slots=True)
class StepCounter:
    """Training time as a scalar: `epoch` (from 0), `step` (from 0), `progress` (0 to 1)."""

    name: CounterName
    kind: Literal["clock"] = "clock"  # the name in JSON
    span: Location = location()


@dataclass(slots=True)
class Tap:
    """Network `of`, or its submodule `submodule`, applied to `inputs`; the inner value at `path` ("" is the output).

    `path` is a dotted module path, or `logits`, `probabilities`, `features`. With `since`, `inputs` replace the
    value at that path, and nothing before it runs. Taps with one `call` share what the network draws at random.
    """

    of: Version | InTraining
    inputs: list[Expr]
    path: str
    submodule: str = ""
    since: str = ""
    kind: Literal["tap"] = "tap"
    call: int = 0
    span: Location = location()


@dataclass(slots=True)
class Call:
    """A built-in function, or a user's `module:function`, of signals and settings."""

    function: str
    args: list[Expr]
    keywords: dict[str, Expr] = field(default_factory=dict)
    kind: Literal["call"] = "call"
    span: Location = location()


@dataclass(slots=True)
class Op:
    """Arithmetic or comparison, elementwise: + - * / ** == != < <= > >= and `neg`. + and * take two or more.

    `list` is a list of signals, which only functions of the user take.
    """

    op: Literal["+", "-", "*", "/", "**", "==", "!=", "<", "<=", ">", ">=", "neg", "list"]
    args: list[Expr]
    kind: Literal["op"] = "op"
    span: Location = location()


Expr = Annotated[Const | StreamField | StepCounter | Tap | Call | Op, ByKind()]


def children(expr: Expr) -> list[Expr]:
    """The expressions that `expr` is made of, one level down.

    >>> children(Op("+", [Const(1), Const(2)]))
    [Const(value=1, kind='const'), Const(value=2, kind='const')]
    """
    if isinstance(expr, Op):
        return expr.args
    if isinstance(expr, Call):
        return [*expr.args, *expr.keywords.values()]
    if isinstance(expr, Tap):
        return expr.inputs
    return []


_WITH_CHILDREN = frozenset({"op", "call", "tap"})


def walk(expr: Expr) -> list[Expr]:
    """`expr` and everything below it; parents before children. Iterative: sums may be thousands of terms deep."""
    nodes: list[Expr] = []
    stack = [expr]
    while stack:
        node = stack.pop()
        nodes.append(node)
        if node.kind in _WITH_CHILDREN:  # most nodes have none, and plans have millions
            stack.extend(reversed(children(node)))
    return nodes


def number_text(value: Any) -> str:
    """A value as keys write it: 1 and 1.0 are one content; strings and booleans are never equal to numbers.

    >>> number_text(1.0), number_text(0.5), number_text("1")
    ('1', '0.5', "'1'")
    """
    if isinstance(value, float) and value.is_integer() and abs(value) < 1e15:
        value = int(value)
    return repr(value)
