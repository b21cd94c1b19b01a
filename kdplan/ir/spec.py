"""How the language describes its own words: one shape for functions, constructors, settings and kinds.

The tables built from these (`functions`, `kinds`, `choices`) are what the checker looks up and what the reference in
`grammar/README.md` is generated from.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

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
    implementation: str = ""
    """`module:function`, where its name alone does not say it."""
    one_of: tuple[str, ...] = ()
    """Parameters of which a call gives exactly one."""
    over_classes: bool = False
    """Its first two signals are over the same classes, in the same order."""
    alike: dict[str, str] = field(default_factory=dict)
    """In what its signals agree, by convention ("" where there is none): `shape`, `size` (height and width), or
    `channels`. Of four signals, the first is compared with the third and the second with the fourth."""

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
