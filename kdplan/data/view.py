"""What a stream of samples is: which source, which of its samples, and what is done to each. Plain values, hashable."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any, Literal

from kdplan.data.protocol import ProtocolRule
from kdplan.diagnostics.span import Span

SPLIT_NAMES = ("train", "val", "test")

SplitKind = Literal["per_class", "fraction"]

Pairs = tuple[tuple[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Transform:
    """One entry of `augment`: a name of the table `TRANSFORMS` with its arguments.

    >>> Transform("pad_crop", (("size", 32), ("pad", 4))).get()
    {'size': 32, 'pad': 4}
    """

    name: str
    args: Pairs = ()
    span: Span | None = field(default=None, compare=False, repr=False)

    def get(self) -> dict[str, Any]:
        """The arguments by name."""
        return dict(self.args)


@dataclass(frozen=True, slots=True)
class SplitRule:
    """`split = per_class(train = 60, seed = 0)` or `split = fraction(train = 0.9, seed = 0)`.

    Both are balanced over classes. Samples that no part takes form the part `test`, or `val` if the source has a `test`
    of its own. The rule divides the source's `train`, or everything where the source has one part only.

    Parameters
    ----------
    kind : {"per_class", "fraction"}
    parts : tuple of (str, number)
        Samples of each class, or the share of each class.
    seed : int
    """

    kind: SplitKind
    parts: tuple[tuple[str, float], ...]
    seed: int = 0


@dataclass(frozen=True, slots=True)
class ViewSpec:
    """One view of a source.

    Parameters
    ----------
    source : str
        A name of the table `SOURCES`.
    args : tuple of (str, value)
        The source's arguments.
    split : str
        `train`, `test`, `val`, or a part that `rule` makes.
    rule : SplitRule, optional
        How the source is divided, where its own splits are not wanted.
    fraction : float
        The share of each class that is kept, above 0 and up to 1.
    limit : int, optional
        At most so many samples of all classes together, balanced over them.
    seed : int
        Decides which samples `fraction` and `limit` keep. A smaller share is always part of a larger one.
    classes : tuple of int, optional
        Only these classes, numbered anew in this order: of what `fraction` and `limit` leave.
    unlabelled : bool
        Leave the labels out: they are not read into the view at all.
    augment : tuple of Transform
        In order. Random ones work in training only; see `TransformSpec.measuring`.
    normalize : {"source", "none"} or (mean, std)
        Per channel, on the scale from 0 to 1. "source" takes the source's default, if it has one. Always the last step.
    protocol : ProtocolRule, optional
        How templates are made of the samples, for open-set recognition; the source's own protocol by default.
    eval : bool
        Whether training on this view also leaves random transforms out.

    Examples
    --------
    >>> view = ViewSpec("digits", split="test", classes=(3, 8))
    >>> view.with_(unlabelled=True).unlabelled
    True
    """

    source: str
    args: Pairs = ()
    split: str = "train"
    rule: SplitRule | None = None
    fraction: float = 1.0
    limit: int | None = None
    seed: int = 0
    classes: tuple[int, ...] | None = None
    unlabelled: bool = False
    augment: tuple[Transform, ...] = ()
    normalize: tuple[tuple[float, ...], tuple[float, ...]] | Literal["source", "none"] = "source"
    protocol: ProtocolRule | None = None
    eval: bool = False

    def with_(self, **changes: Any) -> ViewSpec:
        """This view with some settings changed."""
        return replace(self, **changes)
