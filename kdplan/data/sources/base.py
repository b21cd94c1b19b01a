"""What every reader of a data set gives."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from kdplan.data.files import Where
from kdplan.data.params import Arguments
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span
from kdplan.ir.protocol import Protocol
from kdplan.ir.spec import Spec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True, slots=True)
class Objects:
    """What is to be found in N images, padded to the M of the image that holds most.

    Parameters
    ----------
    boxes : array
        float32 [N, M, 4]: left, top, right, bottom, in pixels of the file.
    classes : array
        int64 [N, M]; -1 where an image holds fewer.
    crowd : array
        bool [N, M]: a box around many that are not annotated one by one. None is trained on, and a detection there is
        no mistake.
    areas : array
        float32 [N, M], in pixels of the file; that of the outline where the annotations have one.
    sizes : array
        int64 [N, 2]: height and width of the file.
    """

    boxes: Array
    classes: Array
    crowd: Array
    areas: Array
    sizes: Array

    def rows(self, rows: Array) -> Objects:
        """Those of some images."""
        return Objects(*(a[rows] for a in (self.boxes, self.classes, self.crowd, self.areas, self.sizes)))


@dataclass(frozen=True, slots=True)
class Canvas:
    """What images of all sizes are put on, at the top left.

    An image is scaled until its shorter side is `shorter`, unless its longer side would be more than `longer`, or it
    would not fit; sides are rounded down, as torchvision's detectors do.

    Examples
    --------
    >>> Canvas(800, 1344, 800, 1333).scaled(np.array([[480, 640], [1000, 4000]])).tolist()
    [[800, 1066], [333, 1333]]
    """

    height: int
    width: int
    shorter: int
    longer: int

    def scaled(self, sizes: Array) -> Array:
        """Heights and widths int64 [N, 2] of files -> those on the canvas."""
        size = sizes.astype(np.float64)
        limits = (
            self.shorter / size.min(1), self.longer / size.max(1), self.height / size[:, 0], self.width / size[:, 1]
        )  # fmt: skip
        # A hair more than the quotient, which may be rounded to just below the whole number that it means.
        scale: Array = np.minimum.reduce(limits)[:, None] * (1 + 1e-9)
        rounded: Array = np.maximum(np.floor(size * scale), 1).astype(np.int64)
        return rounded


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
    objects : callable, optional
        Gives what is to be found in the images, for detection.
    """

    size: int
    inputs: Callable[[], Array] | None = None
    labels: Callable[[], Array] | None = None
    files: Sequence[str] | None = None
    boxes: Sequence[tuple[int, int, int, int] | None] | None = None
    objects: Callable[[], Objects] | None = None


@dataclass(frozen=True, slots=True)
class Opened:
    """A data set that is there.

    `shape` is one sample's shape ([C, H, W] for images), None where samples differ; `mean` and `std` are per channel on
    the scale from 0 to 1. `protocol` says what is compared with what, for sets that are for open-set recognition.
    `canvas` is what images for detection are put on, and `objects` the most that one of them holds.
    """

    parts: dict[str, Part]
    fingerprint: Callable[[], str]
    classes: tuple[str, ...] = ()
    superclasses: dict[str, tuple[str, ...]] | None = None
    shape: tuple[int, ...] | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    protocol: Callable[[], Protocol] | None = None
    canvas: Canvas | None = None
    objects: int = 0
    whole: bool = False
    """Whether inputs are whole numbers that are no images, such as the numbers of words."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceSpec(Spec):
    """A row of the table of sources: a data set, or a reader of a user's own files.

    `version` is raised whenever the reader gives other numbers for the same files: fingerprints hash it.
    """

    open: Callable[[Arguments, Where], Opened] = field(repr=False)
    """From the checked arguments to the data set."""
    layout: str = ""
    """Files under the data folder, for the reference."""

    @property
    def label(self) -> str:
        """Name and version, as fingerprints hash them: `digits/1`."""
        return f"{self.name}/{self.version}"


def check_labels(name: str, split: str, labels: Array, classes: int, span: Span | None = None) -> Array:
    """`labels` [N], which must all be in 0..classes-1."""
    if len(labels) and (labels.min() < 0 or labels.max() >= classes):
        low, high = int(labels.min()), int(labels.max())
        raise error("KD0717", span, name=name, split=split, low=low, high=high, count=classes, last=classes - 1)
    return labels
