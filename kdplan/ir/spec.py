"""How the language describes its own words: one shape for functions, constructors, settings and kinds.

The tables built from these (`functions`, `kinds`, `choices`) are what the checker looks up and what the reference in
`grammar/README.md` is generated from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

REQUIRED: Any = type("Required", (), {"__repr__": lambda self: "required"})()
"""The default of a parameter that has none."""


@dataclass(frozen=True, slots=True)
class Param:
    """A parameter of whatever a plan can call: a function, a model, an optimizer, a transform …

    `type` is one of: `signal`, `number`, `integer`, `string`, `boolean`, `classes`, `verticals`, `ancestors`,
    `numbers`, `integers`, `positions`, `choice`, `any`, `name`. None as a default means that it may be left out.
    """

    name: str
    type: str
    default: Any = REQUIRED
    doc: str = ""
    low: float | None = None
    high: float | None = None
    above: float | None = None
    """A limit that is itself not allowed."""
    choices: tuple[str, ...] = ()
    at_most_classes: bool = False
    """It counts classes, so there must be so many."""
    roles: tuple[str, ...] = ()
    """Of a signal of a function over classes: the roles that it may have (`logits`, `probabilities`, `labels`)."""

    @property
    def required(self) -> bool:
        """Whether a call must give it."""
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class Spec:
    """A function or constructor: what it is called, what it takes, what it means."""

    name: str
    params: tuple[Param, ...] = ()
    doc: str = ""
    more: bool = False
    """Takes any number of further positional arguments."""
    result: str = ""
    formula: str = ""
    source: str = ""
    example: str = ""
    version: int = 1
    """Raised when what it computes changes: part of every key that uses it."""
    keyed: tuple[str, ...] = ()
    """Its signals in the order in which keys number them, where calls had another order once."""
    implementation: str = ""
    """`module:function`, where its name alone does not say it."""
    one_of: tuple[str, ...] = ()
    """Parameters of which a call gives exactly one."""
    over_classes: bool = False
    """Its first two signals are over the same classes, in the same order."""
    alike: dict[str, str] = field(default_factory=dict)
    """In what its signals agree, by convention ("" where there is none): `shape`, `size` (height and width), or
    `channels`. Of four signals, the first is compared with the third and the second with the fourth."""
    distributions: bool = False
    """It compares distributions over classes: probabilities are taken as logits of themselves, without temperature."""
    activation: str = ""
    """Of a loss on logits: the function (`softmax`, `sigmoid`) whose probabilities it compares with its targets."""
    sparse: bool = False
    """It takes sparse signals too. A loss has a function of the same name in `kdplan.nn.sparse` for them."""
    built: Literal["function", "adapter", "sparse", "route"] = "function"
    """How it becomes nodes: a call of its function in `kdplan.nn`; a trainable layer (`kdplan.graph.adapter`); scores
    with their classes (`kdplan.graph.sparse_signals`); one network of several (`kdplan.graph.routes`)."""
    gives: Literal["signal", "term", "same", "probabilities", "joined", "selected"] = "signal"
    """What its result is: a signal of no known role; a term without a name of its own, as of an operator; what its
    first argument is; probabilities over the classes of its first argument; scores over the classes of all arguments;
    some of the first argument's classes, by the parameter `at`."""

    @property
    def content(self) -> str:
        """The name as keys hold it: with the version, once there was an earlier one.

        >>> Spec("kl").content, Spec("kl", version=2).content
        ('kl', 'kl 2')
        """
        return self.name if self.version == 1 else f"{self.name} {self.version}"

    def param(self, name: str) -> Param | None:
        """The parameter of this name, if there is one."""
        return next((p for p in self.params if p.name == name), None)


@dataclass(frozen=True, slots=True)
class SettingSpec:
    """A setting of a kind: `type` names a rule in `kdplan.resolve.setting_values`."""

    name: str
    type: str
    doc: str
    default: str = ""
    example: str = ""
    low: float | None = None
    above: float | None = None
    high: float | None = None
    choices: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Kind:
    """A kind of declaration and all that may stand in it."""

    name: str
    doc: str
    form: str
    example: str
    clauses: tuple[str, ...] = ()
    """Prepositions, `=` and `in` that it takes."""
    required: tuple[str, ...] = ()
    """Those of them that it must have."""
    settings: tuple[SettingSpec, ...] = ()
    inner: tuple[str, ...] = ()
    """Kinds that may stand in its body."""
    named: bool = True
    slots: bool = False
    listing: bool = False
    """Its body may be a comma list."""
    free: bool = False
    """Its settings may have any name."""
    nested: bool = False
    """It stands only in the bodies of other kinds."""
    pairs: bool = False
    """Its body holds pairs `a ~ b`."""
    default_name: str | None = None
    """What it is called where it has no name of its own."""
    help: dict[str, str] = field(default_factory=dict)
    """Advice for words that people try here."""

    def setting(self, name: str) -> SettingSpec | None:
        """The setting of this name, if the kind has it."""
        return next((s for s in self.settings if s.name == name), None)
