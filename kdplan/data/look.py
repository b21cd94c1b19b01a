"""What is known of a view before its samples are read: how many there are, their labels, shape and normalisation."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kdplan.data.catalog import open_source, sample_shape
from kdplan.data.select import choose
from kdplan.data.sources.base import Array, Opened, Part
from kdplan.data.transforms import out_shape
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import error
from kdplan.diagnostics.span import Span

Normal = tuple[tuple[float, ...], tuple[float, ...]]
"""Mean and standard deviation of each channel."""


@dataclass(frozen=True, slots=True)
class Look:
    """A view whose samples are not read yet.

    Parameters
    ----------
    opened : Opened
        Its source.
    part : Part
        The part of the source that it reads.
    rows : array
        int64 [N]: its samples.
    shape : tuple of int
        One sample's shape after augmentation.
    normal : tuple, optional
        Mean and deviation.
    labels : array, optional
        int64 [N], in the source's numbers; None for a view without labels.
    """

    opened: Opened
    part: Part
    rows: Array
    shape: tuple[int, ...]
    normal: Normal | None
    labels: Array | None


def look(spec: ViewSpec, root: Path | None, *, cache: Path | None = None, span: Span | None = None) -> Look:
    """A view, checked as far as that is possible without its samples.

    Raises
    ------
    PlanError
        KD07xx for data that are missing, samples that there are not, transforms that do not fit.

    Examples
    --------
    >>> known = look(ViewSpec("digits", split="test"), None)
    >>> len(known.rows), known.shape, known.labels[:3].tolist()
    (360, (1, 8, 8), [4, 2, 5])
    """
    opened = open_source(spec.source, dict(spec.args), root, cache=cache, span=span)
    part, rows = choose(spec, opened, span)
    labels = part.labels()[rows] if part.labels is not None and not spec.unlabelled else None
    sample = sample_shape(opened, spec.augment, cache)
    shape = out_shape(sample, spec.augment, True, span)
    measured = out_shape(sample, spec.augment, False, span)
    if shape != measured:
        why = f"training images are {list(shape)}, and images for measuring {list(measured)}"
        raise error("KD0730", span, name="augment", why=why)
    return Look(opened, part, rows, shape, _normal(spec, opened, shape, span), labels)


def of_channels(normal: Normal, channels: int) -> Normal:
    """A source's normalisation for images of so many channels: of a colour set made grey, the middle of its channels.

    >>> of_channels(((0.25, 0.5, 0.75), (0.5, 0.5, 0.5)), 1)
    ((0.5,), (0.5,))
    """
    mean, std = normal
    if len(mean) in (1, channels):
        return normal
    return (sum(mean) / len(mean),), (sum(std) / len(std),)


def _normal(spec: ViewSpec, opened: Opened, shape: tuple[int, ...], span: Span | None) -> Normal | None:
    if spec.normalize == "none":
        return None
    if spec.normalize == "source":
        mean, std = opened.mean, opened.std
        if mean is None or std is None:
            return None
        return of_channels((mean, std), shape[0])
    pair = spec.normalize
    if len(pair) != 2 or len(pair[0]) != len(pair[1]) or len(pair[0]) not in (1, shape[0]) or min(pair[1]) <= 0:
        expected = f"two lists of {shape[0]} numbers, mean and deviation, deviations above 0"
        values = str([list(p) for p in pair])
        raise error("KD0721", span, owner=spec.source, arg="normalize", expected=expected, found=values)
    return pair
