"""What an expression of the language evaluates to while a plan is resolved.

Signals are `kdplan.ir.expr` nodes and numbers, strings and booleans are `Const`; the rest stands here.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from kdplan.diagnostics.span import Span
from kdplan.ir import expr as ir
from kdplan.ir.plan import ClassSet, Data, Item, Network, Phase
from kdplan.ir.spec import Spec
from kdplan.passes.load import Declared, Module, UserCode
from kdplan.syntax import ast

Label = bool | int | float | str | list[Any] | None
"""How a value of an axis is shown in names."""

Settings = dict[str, tuple[Any, Span]]
"""Name of a setting → its value, where it stands."""


@dataclass(eq=False)
class NetInstance:
    """One network: a declaration with its family index and axis coordinates fixed."""

    declared: Declared
    network: Network
    coordinates: dict[str, Any]
    phases: dict[str, PhaseInstance] = field(default_factory=dict)
    """The phases of its body."""
    as_declared: ir.Version | None = None
    """What a bare name reads: None while fresh, or while several body phases end side by side."""
    fresh: bool = True
    stands_for: NetInstance | None = None
    """Of a merged network: the one whose parts it joins, whose bare name means it where it is trained."""

    @property
    def name(self) -> str:
        """The network's name in the core plan."""
        return self.network.name


@dataclass(eq=False)
class PhaseInstance:
    """One phase, likewise; `moved` says which slot trains which network."""

    declared: Declared
    phase: Phase
    coordinates: dict[str, Any]
    trained: dict[NetInstance, int]

    @property
    def name(self) -> str:
        """The phase's name in the core plan."""
        return self.phase.name


@dataclass(eq=False)
class ConstructInstance:
    """What a construct lowered to: its phases by their names within it, in order."""

    declared: Declared
    name: str
    phases: dict[str, PhaseInstance]
    networks: dict[str, NetInstance] = field(default_factory=dict)
    """What it made beside them, by its name within it: a student of them is a version of the construct's student."""


@dataclass
class NetValue:
    """A network, or a part of it, as some phase left it (`version`) or as the context says (None)."""

    instance: NetInstance
    version: ir.Version | None
    path: tuple[str, ...]
    span: Span
    coordinates: dict[str, Any] = field(default_factory=dict)
    left_by: str | None = None
    """The version as it is written, without indices: `small@mimic`, `small@mimic@s1`."""
    construct: ConstructInstance | None = None
    """Whose phases may stand behind a further `@`."""


@dataclass
class Applied:
    """A network or submodule applied to signals; attributes after it name what is tapped."""

    net: NetValue
    inputs: list[ir.Expr]
    path: tuple[str, ...]
    span: Span
    call: tuple[int, ...] = ()
    """Where the call stands: a value that another call reads again is another draw of random numbers."""
    since: str = ""
    """The tap that the inputs replace, in `through`."""


@dataclass
class Family:
    """A declaration with slots, not yet indexed; for phases, `net` is what stands left of the `@`."""

    declared: Declared
    net: NetValue | None
    span: Span


@dataclass
class Several:
    """What `[*]` and `[a..b]` select: what stands right of it applies to each."""

    items: list[Value]
    span: Span


@dataclass
class ListValue:
    """`[a, b]`, or the values of a comprehension or a range."""

    items: list[Value]
    span: Span


@dataclass
class DataValue:
    """A data set, or a part of it; `split` is None where none is named."""

    data: Data
    split: str | None
    classes: ClassSet | None
    unlabelled: bool
    span: Span


@dataclass
class VerticalsValue:
    """A set of verticals; if `disjoint`, each class is in exactly one."""

    data: Data
    parts: list[ClassSet]
    disjoint: bool
    span: Span


@dataclass
class PartOf:
    """`V(labels)`: for each sample the part of V that its label is in; an index of a family over V."""

    verticals: VerticalsValue
    labels: ir.Expr
    span: Span


@dataclass
class Routing:
    """`t[V(labels)]`: networks, one for each part of V, of which each sample takes its own."""

    part_of: PartOf
    items: list[Value]
    span: Span


@dataclass
class ClassesValue:
    """Some classes of a data set, in an order."""

    classes: ClassSet
    data: Data
    span: Span


@dataclass
class RecipeValue:
    """Settings of a recipe by name, each with its span."""

    settings: Settings
    span: Span
    name: str = ""
    declared: Span | None = None


@dataclass
class ModelValue:
    """An architecture with arguments; `codes` and `spans` are those of `Network`."""

    item: Item
    classes: ClassSet | None
    code: UserCode | None
    span: Span
    seed: int | None = None
    """Of the network that it was taken from."""
    codes: dict[str, str] = field(default_factory=dict)
    spans: dict[str, Span] = field(default_factory=dict)
    """See `Network`."""


@dataclass
class FunctionValue:
    """A `def` with parameters; `names` are the local names around it."""

    declared: Declared
    span: Span
    names: dict[str, Any] = field(default_factory=dict)


@dataclass
class Builtin:
    """A function of the language's tables, not yet called."""

    spec: Spec
    span: Span


@dataclass
class UserFunction:
    """A function of a Python file; `name` is "" for the file itself."""

    code: UserCode
    name: str
    span: Span


@dataclass
class Case:
    """A record: `case(a = 1)`."""

    fields: dict[str, Value]
    span: Span


@dataclass
class Choice:
    """A named choice of the setting's own table: an optimizer, a schedule, a transform, a metric …"""

    item: Item
    span: Span


@dataclass
class Namespace:
    """A file that is used with `as`."""

    module: Module
    span: Span


@dataclass
class Part:
    """`upto(…)`: the part of a network that taps depend on."""

    nets: list[NetValue]
    since: list[str]
    span: Span


@dataclass
class Lazy:
    """An expression that is evaluated where it is read, since its meaning may depend on what is wanted there."""

    node: ast.Expr
    module: Module


Signal = ir.Const | ir.StreamField | ir.StepCounter | ir.Tap | ir.Call | ir.Op
SIGNALS = (ir.Const, ir.StreamField, ir.StepCounter, ir.Tap, ir.Call, ir.Op)

Value = (
    Signal
    | NetValue
    | Applied
    | Family
    | Several
    | ListValue
    | DataValue
    | VerticalsValue
    | PartOf
    | Routing
    | ClassesValue
    | RecipeValue
    | ModelValue
    | FunctionValue
    | Builtin
    | UserFunction
    | Case
    | Choice
    | Namespace
    | Part
)

Bound = dict[str, tuple[Label, Value]]
"""The chosen member of each index of a family: index → label, value."""

WORDS: dict[type, str] = {
    NetValue: "a network",
    Applied: "a signal",
    Family: "a family",
    Several: "several values",
    ListValue: "a list",
    DataValue: "data",
    VerticalsValue: "verticals",
    PartOf: "a choice among verticals",
    Routing: "networks that are chosen by label",
    ClassesValue: "a class set",
    RecipeValue: "a recipe",
    ModelValue: "a model",
    FunctionValue: "a function",
    Builtin: "a function",
    UserFunction: "a function",
    Case: "a record",
    Choice: "a choice",
    Namespace: "a file",
    Part: "a part of a network",
}


def describe(value: Value) -> str:
    """What a value is, for a message.

    >>> describe(ir.Const(3)), describe(ir.Const("x"))
    ('a number', 'a string')
    """
    if isinstance(value, ir.Const):
        if isinstance(value.value, bool):
            return "a boolean"
        if value.value is None:
            return "none"
        return "a string" if isinstance(value.value, str) else "a list" if isinstance(value.value, list) else "a number"
    if isinstance(value, NetValue) and value.path:
        return "a value inside of one"
    return WORDS.get(type(value), "a signal")
