"""A view, opened: samples of any index, augmented as a pure function of (seed, epoch, index)."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from kdplan.data.ahead import BatchNumbers
from kdplan.data.augment import Draws, HeldNumbers, augment, flipped
from kdplan.data.images import pixels
from kdplan.data.look import Normal, look
from kdplan.data.select import view_protocol
from kdplan.data.sources.base import Array, Canvas, Part
from kdplan.data.sources.coco import check_size
from kdplan.data.transforms import out_shape, steps
from kdplan.data.view import ViewSpec
from kdplan.diagnostics.report import Note, PlanError
from kdplan.diagnostics.span import Span
from kdplan.ir.protocol import Protocol

Batch = dict[str, Tensor]
Raw = Tensor | tuple[Tensor, ...]
"""Inputs before normalisation, and what else a worker finds out on the way."""
_HELD = 4


class Dataset:
    """The samples of a view.

    Use `open_view`. Two kinds: arrays held on the device, and image files that are read when asked for.

    Attributes
    ----------
    spec : ViewSpec
    classes : tuple of str
        The view's classes in label order; empty if it is unlabelled.
    shape : tuple of int
        One sample's shape after augmentation, without the batch.
    device : torch.device
    protocol : callable
        Gives what is compared with what, for open-set recognition, or None; see `view_protocol`.
    in_memory : bool
        False if samples are read from files; then loader workers help.
    host_labels : Tensor or None
        The labels in the CPU's memory too, where `device` is another: what they decide need not wait for it.
    """

    in_memory = True

    def __init__(
        self,
        spec: ViewSpec,
        classes: tuple[str, ...],
        shape: tuple[int, ...],
        labels: Tensor | None,
        normal: tuple[Tensor, Tensor] | None,
        device: torch.device,
    ) -> None:
        self.spec = spec
        self.classes = classes
        self.shape = shape
        self.device = device
        self._normal = normal
        self._scaled: dict[float, tuple[Tensor, Tensor]] = {}
        self._labels = labels
        self.host_labels: Tensor | None = None
        self.protocol: Callable[[], Protocol | None] = partial(view_protocol, spec, None)
        self._steps = {train: steps(spec.augment, train and not spec.eval) for train in (False, True)}

    def __len__(self) -> int:
        raise AssertionError("made by open_view")

    inputs_wanted = False
    """Whether batches cannot do without inputs."""

    @property
    def labels(self) -> Tensor | None:
        """int64 [N], of all samples, in the view's own numbers; None if it is unlabelled."""
        return self._labels

    def raw(self, indices: Tensor, epoch: int, train: bool, seed: int, stream: int) -> Raw:
        """Inputs after augmentation, before normalisation: [B, ...]; indices int64 [B]."""
        raise AssertionError("made by open_view")

    def finish(self, raw: Raw | None, indices: Tensor, there: Tensor | None = None) -> Batch:
        """The batch from what `raw` gave: on the device, normalised, with its labels; without inputs from None.

        `indices` are on the CPU, `there` the same on the device, if they are there already.
        """
        at = there if there is not None else self._sent(indices)
        batch = {"indices": at}
        if raw is not None:
            assert isinstance(raw, Tensor)
            batch["inputs"] = self._normalized(self._sent(raw))
        if self._labels is not None:
            batch["labels"] = self._labels.index_select(0, at)
        return batch | self._on_host(indices)

    def _sent(self, tensor: Tensor) -> Tensor:
        """The tensor on the device. The CPU does not wait: what a GPU fetches itself lies in memory that stays."""
        if self.device.type == "cuda" and tensor.device.type == "cpu":
            tensor = tensor.pin_memory()
        return tensor.to(self.device, non_blocking=True)

    def _on_host(self, indices: Tensor) -> Batch:
        """Fields that the CPU reads, where it would have to wait for the device: `host_indices`, `host_labels`."""
        if self.device.type == "cpu":
            return {}
        labels = {} if self.host_labels is None else {"host_labels": self.host_labels.index_select(0, indices)}
        return {"host_indices": indices, **labels}

    def batch(self, indices: Tensor, epoch: int = 0, train: bool = False, *, seed: int = 0, stream: int = 0) -> Batch:
        """Some samples.

        Parameters
        ----------
        indices : Tensor
            int64 [B], numbers within this view.
        epoch : int
        train : bool
            Whether random transforms are applied.
        seed : int
            64 bits of it count.
        stream : int
            Tells streams apart that share a seed.

        Returns
        -------
        dict
            `inputs` float32 [B, *shape] (whole-number inputs that are no images stay int64), `indices` int64 [B], and
            unless the view is unlabelled `labels` int64 [B]; all on the device. For detection see `BoxDataset`. Where
            the device is no CPU, `host_indices` and `host_labels` are the same numbers in the CPU's memory.
        """
        return self.finish(self.raw(indices, epoch, train, seed, stream), indices)

    def _normalized(self, x: Tensor) -> Tensor:
        if x.dtype == torch.int64:
            return x
        if self._normal is None:
            return x.float() / 255 if x.dtype == torch.uint8 else x.float()
        scale = 255.0 if x.dtype == torch.uint8 else 1.0
        if scale not in self._scaled:
            self._scaled[scale] = (self._normal[0] * scale, self._normal[1] * scale)
        mean, std = self._scaled[scale]
        return x.to(torch.float32, copy=True).sub_(mean).div_(std)


class ArrayDataset(Dataset):
    """Samples held on the device: inputs uint8 (images), float32 or int64 [N, ...]."""

    def __init__(self, inputs: Tensor, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        self._inputs = inputs
        self._held: dict[tuple[int, int, int], HeldNumbers] = {}

    def __len__(self) -> int:
        return len(self._inputs)

    def raw(self, indices: Tensor, epoch: int, train: bool, seed: int, stream: int) -> Tensor:
        """Augmented samples [B, ...] by their indices int64 [B], before normalisation."""
        at = indices.to(self._inputs.device, non_blocking=True)
        return augment(self._inputs.index_select(0, at), self._steps[train], at, self._numbers(seed, epoch, stream))

    def _numbers(self, seed: int, epoch: int, stream: int) -> HeldNumbers:
        """The epoch's numbers; those of the last few streams are kept."""
        key = (seed, epoch, stream)
        if key not in self._held:
            if len(self._held) >= _HELD:
                del self._held[next(iter(self._held))]
            self._held[key] = HeldNumbers(len(self), self._inputs.device, seed, epoch, stream)
        return self._held[key]


class FileDataset(Dataset):
    """Image files, decoded when asked for."""

    in_memory = False

    def __init__(self, part: Part, rows: Array, *args: object, **kwargs: object) -> None:
        super().__init__(*args, **kwargs)  # type: ignore[arg-type]
        assert part.files is not None
        self._files = [part.files[i] for i in rows.tolist()]
        self._boxes = [part.boxes[i] for i in rows.tolist()] if part.boxes is not None else None
        self._fitting: set[tuple[int, ...]] = set()

    def __len__(self) -> int:
        return len(self._files)

    def raw(self, indices: Tensor, epoch: int, train: bool, seed: int, stream: int) -> Raw:
        """Augmented images [B, C, H, W] by their indices int64 [B]; each is decoded and transformed alone."""
        # Images differ in size, so each goes through its transforms alone, as a batch of one.
        indices = indices.cpu()
        todo, numbers = self._steps[train], BatchNumbers(indices, seed, epoch, stream)
        done = []
        for at in indices.split(1):  # type: ignore[no-untyped-call]
            box = self._boxes[int(at)] if self._boxes is not None else None
            image = read_image(self._files[int(at)], box)[None]
            self._check(image, self._files[int(at)])
            done.append(augment(image, todo, at, numbers, alone=True))
        return torch.cat(done)

    def _check(self, image: Tensor, path: str) -> None:
        """Whether the transforms fit an image [1, 3, H, W]; each size is checked once."""
        size = tuple(image.shape[1:])
        if size in self._fitting:
            return
        try:
            for train in (False, True):
                out_shape(size, self.spec.augment, train)
        except PlanError as e:
            where = Note(f"the image is {path}")
            raise PlanError([replace(d, notes=(*d.notes, where)) for d in e.diagnostics]) from e
        self._fitting.add(size)


class BoxDataset(FileDataset):
    """Image files for detection, each on a canvas, with the boxes of what they show.

    Batches have no `labels`, but for the M boxes that an image has at most:

    - `boxes` float32 [B, M, 4]: left, top, right, bottom, in pixels of the canvas;
    - `classes` int64 [B, M], -1 where there is no box; `crowd` bool [B, M]; `areas` float32 [B, M], in pixels of the
      file;
    - `sizes` float32 [B, 2]: height and width that the image takes of the canvas; `scales` float32 [B, 2]: of them to
      the file's.
    """

    inputs_wanted = True

    def __init__(self, part: Part, canvas: Canvas, rows: Array, *args: object, **kwargs: object) -> None:
        super().__init__(part, rows, *args, **kwargs)
        assert part.objects is not None
        self._canvas = canvas
        self._found = objects = part.objects().rows(rows)
        sizes = canvas.scaled(objects.sizes)
        scales = sizes / objects.sizes
        boxes = objects.boxes * scales[:, None, [1, 0, 1, 0]]
        self._sizes = sizes
        arrays = {"boxes": boxes.astype(np.float32), "sizes": sizes.astype(np.float32),
                  "scales": scales.astype(np.float32), "classes": objects.classes, "crowd": objects.crowd,
                  "areas": objects.areas}  # fmt: skip
        self._objects = {name: torch.from_numpy(a).to(self.device) for name, a in arrays.items()}

    def raw(self, indices: Tensor, epoch: int, train: bool, seed: int, stream: int) -> Raw:
        """Images uint8 [B, 3, H, W], and bool [B] which of them were mirrored."""
        from torchvision.transforms.v2.functional import resize  # type: ignore[import-untyped, unused-ignore]

        indices = indices.cpu()
        todo, numbers = self._steps[train], BatchNumbers(indices, seed, epoch, stream)
        images = torch.zeros(len(indices), 3, self._canvas.height, self._canvas.width, dtype=torch.uint8)
        mirrored = torch.zeros(len(indices), dtype=torch.bool)
        for n, at in enumerate(indices.split(1)):  # type: ignore[no-untyped-call]
            image = read_image(self._files[int(at)])
            check_size(self._files[int(at)], image.shape[1:], self._found.sizes[int(at)])
            h, w = self._sizes[int(at)].tolist()
            small = augment(resize(image, [h, w], antialias=True)[None], todo, at, numbers, alone=True)
            images[n, :, :h, :w] = small[0]
            for slot, t in todo:
                if t.name == "flip":
                    mirrored[n] ^= flipped(t.get(), Draws(at, numbers, slot))[0]
        return images, mirrored

    def finish(self, raw: Raw | None, indices: Tensor, there: Tensor | None = None) -> Batch:
        """The batch: what the images leave of the canvas is zero."""
        assert raw is not None, "boxes follow their images"
        images, mirrored = map(self._sent, raw)
        at = there if there is not None else self._sent(indices)
        batch = {"indices": at} | {name: t.index_select(0, at) for name, t in self._objects.items()}
        if self.spec.unlabelled:
            batch = {"indices": at, "sizes": batch["sizes"]}
        batch |= self._on_host(indices)
        height, width = (size[:, None] for size in batch["sizes"].unbind(1))
        inside = (torch.arange(images.shape[2], device=self.device) < height)[:, None, :, None]
        inside = inside & (torch.arange(images.shape[3], device=self.device) < width)[:, None, None, :]
        batch["inputs"] = self._normalized(images) * inside
        if "boxes" in batch:
            left, top, right, bottom = batch["boxes"].unbind(2)
            turned = torch.stack([width - right, top, width - left, bottom], dim=2)
            there = (batch["classes"] >= 0)[:, :, None]
            batch["boxes"] = torch.where(mirrored[:, None, None] & there, turned, batch["boxes"])
        return batch


def read_image(path: str | Path, box: tuple[int, int, int, int] | None = None) -> Tensor:
    """An image file, or what lies in a box (left, top, right, bottom) of it, as uint8 [3, H, W]; see `pixels`."""
    return shared(pixels(path, box)).permute(2, 0, 1)


def shared(array: Array) -> Tensor:
    """The array as a tensor of the same memory, which nobody may write into."""
    return torch.from_numpy(array)


def _say_once_that_arrays_are_not_writable() -> None:
    """torch warns at the first array that is not writable. Nothing writes into samples; so that is said here, unheard.

    To leave the warning out each time would change Python's list of filters, which all threads share.
    """
    array = np.zeros(1)
    array.flags.writeable = False
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        shared(array)


_say_once_that_arrays_are_not_writable()


def open_view(
    spec: ViewSpec,
    root: Path | None,
    device: torch.device | str = "cpu",
    *,
    cache: Path | None = None,
    span: Span | None = None,
) -> Dataset:
    """The samples of `spec`, ready to be read.

    Parameters
    ----------
    spec : ViewSpec
    root : Path or None
        The data folder.
    device : torch.device or str
        Where batches lie; arrays are held there whole.

    Examples
    --------
    >>> from kdplan.data.transforms import transform
    >>> view = ViewSpec("digits", augment=(transform("pad_crop", [8], {"pad": 1}),))
    >>> data = open_view(view, None)
    >>> batch = data.batch(torch.tensor([0, 5]), epoch=3, train=True)
    >>> len(data), batch["inputs"].shape, batch["labels"].dtype
    (1437, torch.Size([2, 1, 8, 8]), torch.int64)
    """
    device = torch.device(device)
    known = look(spec, root, cache=cache, span=span)
    opened, part, rows, shape = known.opened, known.part, known.rows, known.shape
    labels = host_labels = None
    classes: tuple[str, ...] = ()
    if known.labels is not None:
        host_labels, classes = _labels(known.labels, spec, opened.classes)
        labels = host_labels.to(device)
    normal = _normal(known.normal, len(shape), device)
    data: Dataset
    if opened.canvas is not None:
        data = BoxDataset(part, opened.canvas, rows, spec, opened.classes, shape, None, normal, device)
    elif part.files is not None:
        data = FileDataset(part, rows, spec, classes, shape, labels, normal, device)
    else:
        assert part.inputs is not None
        everything = part.inputs()
        # Files that are mapped read-only need no copy.
        held = shared(np.ascontiguousarray(everything if len(rows) == part.size else everything[rows]))
        inputs = held.to(device)
        data = ArrayDataset(inputs, spec, classes, shape, labels, normal, device)
    data.protocol = partial(view_protocol, spec, root, span)
    data.host_labels = host_labels
    return data


def _labels(labels: Array, spec: ViewSpec, names: tuple[str, ...]) -> tuple[Tensor, tuple[str, ...]]:
    """Labels int64 [n] in the view's own numbers, and its classes."""
    if spec.classes is None:
        return torch.from_numpy(labels), names
    number = np.full(len(names), -1, np.int64)
    number[list(spec.classes)] = np.arange(len(spec.classes))
    return torch.from_numpy(number[labels]), tuple(names[c] for c in spec.classes)


def _normal(pair: Normal | None, dims: int, device: torch.device) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation, [1, C, 1, 1] for images."""
    if pair is None:
        return None
    view = (1, -1) + (1,) * (dims - 1)
    m, s = (torch.tensor(p, dtype=torch.float32, device=device).reshape(view) for p in pair)
    return m, s
