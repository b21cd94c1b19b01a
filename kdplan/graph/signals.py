"""What a signal is: its role, the classes that it is over, and whether two signals fit together."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

from torch import Tensor, fx

from kdplan.ir.plan import ClassSet

Role = Literal["features", "logits", "probabilities", "labels", "inputs", "number"]


@dataclass(frozen=True)
class Signal:
    """A node of the phase's graph, or a number, with what it means.

    Attributes
    ----------
    value
        An fx node, a Python number, or a list of these.
    role
        What the numbers stand for.
    classes
        The ordered class set of logits, probabilities or labels, where it is known.
    count
        How many classes there are, where only that is known.
    name
        What messages call it.
    ids
        Of a sparse signal the node of the classes [B, K] that its scores [B, K] belong to, as numbers of the data set
        that `classes` names (as columns, where that is unknown); -1 for none.
    """

    value: Any
    role: Role = "features"
    classes: tuple[str, tuple[int, ...]] | None = None
    count: int | None = None
    name: str = ""
    ids: fx.Node | None = None

    @property
    def tensor(self) -> Tensor:
        """The fake tensor behind it."""
        assert isinstance(self.value, fx.Node), self.value
        held = self.value.meta["val"]
        assert isinstance(held, Tensor), held
        return held

    @property
    def is_tensor(self) -> bool:
        """Whether it is a node whose value is a tensor."""
        return isinstance(self.value, fx.Node) and isinstance(self.value.meta["val"], Tensor)

    @property
    def shape(self) -> tuple[int, ...]:
        """The tensor's shape; () for a number."""
        return tuple(self.tensor.shape) if self.is_tensor else ()


def class_set(classes: ClassSet | None) -> tuple[str, tuple[int, ...]] | None:
    """A class set as a value that can be compared: its data set and its classes in order."""
    return (classes.data, tuple(classes.ids)) if classes is not None else None


def shown(shape: tuple[int, ...], batch: bool = True) -> str:
    """A shape for a message, without its batch dimension.

    >>> shown((128, 16, 32, 32)), shown((128,)), shown(())
    ('16×32×32', 'one number for each sample', 'a scalar')
    """
    if not shape:
        return "a scalar"
    rest = shape[1:] if batch else shape
    return "×".join(map(str, rest)) if rest else "one number for each sample"


def dims(shape: tuple[int, ...]) -> str:
    """A shape with its batch dimension as a letter.

    >>> dims((128, 10)), dims(())
    ('[B, 10]', '[]')
    """
    return f"[{', '.join(['B', *map(str, shape[1:])])}]" if shape else "[]"


def permutation(a: Signal, b: Signal) -> list[int] | None:
    """How to reorder `a`'s classes to stand in the order of `b`'s: None if they are in order or unknown.

    Raises
    ------
    LookupError
        If the two are over different classes.

    >>> a = Signal(None, "logits", ("cifar", (3, 5)))
    >>> permutation(a, Signal(None, "labels", ("cifar", (5, 3))))
    [1, 0]
    """
    if a.classes is not None and b.classes is not None and a.classes[0] == b.classes[0]:
        if a.classes == b.classes:
            return None
        if sorted(a.classes[1]) != sorted(b.classes[1]):
            raise LookupError("class sets differ")
        position = {c: i for i, c in enumerate(a.classes[1])}
        return [position[c] for c in b.classes[1]]
    counts = [c for c in (a.count, b.count) if c is not None]
    if len(set(counts)) > 1:
        raise LookupError("class counts differ")
    return None
