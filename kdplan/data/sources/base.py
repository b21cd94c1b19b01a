"""What every reader of a data set gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdplan.data.files import Where
from kdplan.data.params import Param
from kdplan.ir.protocol import Protocol

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Part:
    """One split of a data set; arrays are read when asked for.

    Parameters
    ----------
    size : int
    inputs : callable, optional
        Gives the inputs [N, ...]; images are [N, C, H, W].
    labels : callable, optional
        Gives int64 [N]; None for a set without labels.
    files : sequence of str, optional
        Image files, for sets that are too large to be held; then `inputs` is None.
    boxes : sequence, optional
        For each file the box (left, top, right, bottom in pixels) that it is cut to, or None for all of it.
    """

    size: int
    inputs: Callable[[], Array] | None = None
    labels: Callable[[], Array] | None = None
    files: Sequence[str] | None = None
    boxes: Sequence[tuple[int, int, int, int] | None] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A data set that was found.

    `shape` is one sample's shape ([C, H, W] for images), None where samples differ; `mean` and `std` are per channel on
    the scale from 0 to 1. `protocol` says what is compared with what, for sets that are for open-set recognition.
    """

    parts: dict[str, Part]
    fingerprint: Callable[[], str]
    classes: tuple[str, ...] = ()
    superclasses: dict[str, tuple[str, ...]] | None = None
    shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    protocol: Callable[[], Protocol] | None = None


@dataclass(frozen=True, slots=True)
class SourceSpec:
    """A row of the table of sources, for checking and for the reference.

    `version` is raised whenever the reader gives other numbers for the same files; it is part of the fingerprint.
    """

    name: str
    doc: str
    open: Callable[[dict[str, Any], Where], Opened] = field(repr=False)
    params: tuple[Param, ...] = ()
    extra: bool = False
    version: int = 1
    layout: str = ""

    @property
    def label(self) -> str:
        return f"{self.name}/{self.version}"
