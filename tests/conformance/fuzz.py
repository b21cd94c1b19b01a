"""Random files with a network, for the comparison of a phase with plain PyTorch: readable, and to be run again.

A case is the text of a Python file with a class `Net` and how a phase uses it. `modules()` is a hypothesis strategy.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TypeVar

from hypothesis import strategies as st

from tests.conformance.fuzz_rows import (
    BLOCKS,
    DRAWS,
    FILE,
    HEAD,
    LAYERS,
    METHODS,
    OWN,
    PURE,
    RETURNS,
    STATE,
    VECTORS,
    WRITES,
    Row,
)

_T = TypeVar("_T")
_KINDS = {"layer": LAYERS, "pure": PURE, "draw": DRAWS, "write": WRITES, "state": STATE}
_CONSTANTS = ["0.5", "2", "-1.5", "0.1"]


@dataclass(frozen=True)
class Case:
    """A file, and how a phase uses its network.

    Attributes
    ----------
    source
        The text of the file.
    frozen
        Whether the network is a frozen teacher of a linear student, and not what is trained.
    training
        The network's mode.
    half
        Whether the phase has bf16 precision.
    twice
        Whether the loss has a second call of the network, on other inputs.
    part
        Whether only the network's head is trained.
    taps
        Numbers that choose sub-modules whose values are in the loss too.
    """

    source: str
    frozen: bool = False
    training: bool = True
    half: bool = False
    twice: bool = False
    part: bool = False
    taps: tuple[int, ...] = ()

    def __str__(self) -> str:
        use = ", ".join(f"{name}={value}" for name, value in vars(self).items() if name != "source")
        return f"# {use}\n{self.source}"


@dataclass
class _Class:
    """A class that is being written."""

    draw: st.DrawFn
    name: str
    blocks: list[str]
    init: list[str] = field(default_factory=list)
    lines: list[str] = field(default_factory=list)
    features: list[str] = field(default_factory=lambda: ["x"])
    count: int = 0

    def one(self, options: list[_T]) -> _T:
        return self.draw(st.sampled_from(options))

    def new(self, prefix: str) -> str:
        self.count += 1
        return f"{prefix}{self.count}"

    # statements

    def statement(self, indent: str, depth: int) -> None:
        """One row, or a block of rows."""
        kinds = ["layer", "pure", "pure", "draw", "write", "state", *(["block"] if depth else [])]
        kind = self.one(kinds)
        if kind == "block":
            self.block(indent, depth)
        else:
            self.row(self.one(_KINDS[kind]), indent)

    def row(self, row: Row, indent: str) -> None:
        """The lines of a row, with its letters filled in."""
        init, body = row
        names: dict[str, str] = {}
        if "$w" in body:
            names["w"] = self.written(indent)
        init, body = self.filled(init, names), self.filled(body, names)
        self.init += init.splitlines()
        self.lines += [indent + line for line in body.splitlines()]
        if "o" in names:
            self.features.append(names["o"])

    def written(self, indent: str) -> str:
        """A feature to write into: mostly a new value of its own."""
        base = self.one(self.features)
        if self.draw(st.integers(0, 3)) == 0 and base != "x":
            return base
        name = self.new("w")
        self.lines.append(f"{indent}{name} = {base} + {self.one(_CONSTANTS)}")
        self.features.append(name)
        return name

    def filled(self, text: str, names: dict[str, str]) -> str:
        """`text` with a value for each letter."""

        def value(match: re.Match[str]) -> str:
            letter = match[1]
            if letter == "v":
                return self.filled(self.one(VECTORS), names)
            if letter == "c":
                return self.one(_CONSTANTS)
            if letter == "B":
                return self.one(self.blocks) if self.blocks else "nn.Tanh"
            if letter not in names:
                late = self.features + 2 * self.features[-2:]
                names[letter] = self.one(late) if letter in "fg" else self.new({"o": "v"}.get(letter, letter))
            return names[letter]

        return re.sub(r"\$([a-zB])", value, text)

    def block(self, indent: str, depth: int) -> None:
        """A block of statements, after which an outer feature may be bound to an inner one."""
        outer = list(self.features)
        self.lines.append(indent + self.filled(self.one(BLOCKS), {}))
        for _ in range(self.draw(st.integers(1, 2))):
            self.statement(indent + "    ", depth - 1)
        if inner := self.features[len(outer) :]:
            self.lines.append(f"{indent}    {self.one(outer)} = {' + '.join(inner)}")
        self.features = outer

    # the class

    def text(self, statements: int, depth: int, returns: list[str]) -> str:
        """The whole class."""
        for _ in range(statements):
            self.statement("", depth)
        names = {"f": self.one(self.features), "o": self.new("v")}
        self.init.append("self.head = nn.Linear(4, 4)")
        # All values are read: draws and statistics that nothing reads are pruned, which is meant.
        self.lines.append(f"{names['o']} = self.head({' + '.join(self.features)})")
        self.lines += self.filled(self.one(returns), names).splitlines()
        body = "\n".join(self.lines)
        methods = [text for name, text in METHODS.items() if f"self.{name}" in body]
        if "self.note" in "\n".join(self.init):
            methods.append("def note(self, module, inputs, output):\n    self.noticed = output.detach()")
        own = [
            line for name, line in OWN.items() if re.search(rf"self\.{name}\b|\"{name}\"", "\n".join([body, *methods]))
        ]
        init = ["super().__init__()", *own, *self.init]
        parts = [_function("__init__(self)", init), *methods, _function("forward(self, x)", self.lines)]
        return f"class {self.name}(nn.Module):\n" + "\n\n".join(map(_indented, parts))


def _function(head: str, lines: list[str]) -> str:
    return f"def {head}:\n{_indented(chr(10).join(lines))}"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" if line else "" for line in text.splitlines())


@st.composite
def sources(draw: st.DrawFn, most: int = 6) -> str:
    """The text of a file with a class `Net` from [B, 4] to logits [B, 4], alone or in a structure."""
    blocks: list[str] = []
    classes: list[str] = []
    for number in range(draw(st.integers(0, 2))):
        name = f"Block{number}"
        classes.append(
            _Class(draw, name, list(blocks)).text(
                draw(st.integers(1, 3)), 1, ["return $o", "return $o", "$o.mul_(0.5)\nreturn $o"]
            )
        )
        blocks.append(name)
    classes.append(_Class(draw, "Net", blocks).text(draw(st.integers(1, most)), 2, RETURNS))
    text = "\n\n\n".join(classes)
    used: list[str] = []
    for _ in FILE:  # a definition may ask for another
        held = "\n".join([text, *(FILE[name] for name in used)])
        used = [name for name in FILE if re.search(rf"\b{name}\b", held)]
    return "\n\n".join([HEAD, *(f"{FILE[name]}\n" for name in used), text]) + "\n"


def cases(most: int = 6) -> st.SearchStrategy[Case]:
    """A file and how a phase uses it."""
    return st.builds(
        Case,
        sources(most),
        frozen=st.sampled_from([False, False, True]),
        training=st.sampled_from([True, True, False]),
        half=st.sampled_from([False, False, False, True]),
        twice=st.sampled_from([False, False, True]),
        part=st.sampled_from([False, False, False, True]),
        taps=st.lists(st.integers(0, 7), max_size=2).map(tuple),
    )
