"""Batches in order: any step of any epoch can be the first, without a look at those before it."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.utils._pytree import tree_map
from torch.utils.data import DataLoader
from torch.utils.data import Dataset as TorchDataset

from kdplan.data.ahead import ahead
from kdplan.data.dataset import Batch, Dataset, Raw
from kdplan.data.philox import order
from kdplan.data.workers import CONTEXT, Crew, begin
from kdplan.diagnostics.report import Diagnostic, PlanError, error


class Loader:
    """Batches of one view.

    Training goes through each epoch in an order of its own; measuring goes from first to last and changes nothing at
    random.

    Parameters
    ----------
    dataset : Dataset
    batch : int
    seed : int
        Decides orders and augmentation.
    train : bool
    workers : int
        Processes that decode image files; without any, a thread does so. Data held in memory needs none and uses none.
        Batches do not depend on it.
    drop_last : bool
        Whether training leaves an incomplete last batch out. Measuring never does.
    device : torch.device, optional
        Must be the data set's, which is the default.
    stream : int
        Tells apart the streams of one phase, so that two passes over one set are independent.
    rows : Tensor, optional
        int64 [n]: measuring goes through these samples only.
    inputs : bool
        Whether batches have `inputs`; without them no image is read.
    part : callable, optional
        Step, counted from the first of all epochs -> which samples of its batch are read, int64 [n]; by default all.
    fill : bool
        Whether batches are whole all the same, with zeros for the samples that `part` leaves out. Data held in memory
        are read whole then.

    Examples
    --------
    >>> from kdplan.data.dataset import open_view
    >>> from kdplan.data.view import ViewSpec
    >>> loader = Loader(open_view(ViewSpec("digits"), None), batch=500, seed=0, train=True)
    >>> [len(b["labels"]) for b in loader.epoch(0)]
    [500, 500, 437]
    >>> last = list(loader.epoch(7))[2]
    >>> torch.equal(next(loader.epoch(7, start=2))["inputs"], last["inputs"])
    True
    """

    def __init__(
        self,
        dataset: Dataset,
        batch: int,
        seed: int,
        train: bool,
        workers: int = 0,
        drop_last: bool = False,
        device: torch.device | str | None = None,
        stream: int = 0,
        rows: Tensor | None = None,
        inputs: bool = True,
        part: Callable[[int], Tensor] | None = None,
        fill: bool = False,
    ) -> None:
        assert batch > 0 and workers >= 0 and not (train and rows is not None)
        assert device is None or torch.device(device).type == dataset.device.type
        self.dataset = dataset
        self.batch = batch
        self.seed = seed
        self.train = train
        inputs = inputs or dataset.inputs_wanted
        self.workers = workers if inputs and not dataset.in_memory else 0
        self.drop_last = drop_last and train
        self.stream = stream
        if self.drop_last and len(dataset) < batch:
            raise error("KD0732", None, name=dataset.spec.source, batch=batch, found=len(dataset))
        self._maker = _Maker(dataset, batch, seed, train, stream, rows, inputs)
        if part is not None and not (fill and dataset.in_memory):
            self._maker.part, self._maker.fill, self._maker.steps = part, fill, self.steps_per_epoch
        self._crew: Crew[tuple[Raw | None, Tensor] | _Failed] | None = None
        self._plan = _Steps()

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch; an incomplete last one counts unless it is dropped."""
        full, rest = divmod(self._maker.size, self.batch)
        return full if self.drop_last or not rest else full + 1

    def indices(self, epoch: int, step: int) -> Tensor:
        """The samples of one step, int64 [B]."""
        return self._maker.indices(epoch, step)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[Batch]:
        """The batches of an epoch from step `start` on."""
        if not self.workers:
            steps = range(start, self.steps_per_epoch)
            if self.dataset.in_memory or not self._maker.inputs:
                for step in steps:
                    yield self._maker.batch(epoch, step)
                return
            for batch in ahead(partial(self._maker.raw, epoch, step) for step in steps):
                yield self.dataset.finish(*batch)
            return
        if self._crew is None or self._crew.ended:
            self._crew = Crew(self._loading(), self.dataset.spec.source)
        self._plan.steps = [(epoch, step) for step in range(start, self.steps_per_epoch)]
        for loaded in self._crew.batches():
            if isinstance(loaded, _Failed):
                raise PlanError(loaded.diagnostics)
            yield self.dataset.finish(*loaded)

    def cycle(self, step: int = 0) -> Iterator[Batch]:
        """Batches without end, from the `step`-th of all epochs on."""
        epoch, start = divmod(step, self.steps_per_epoch)
        while True:
            yield from self.epoch(epoch, start)
            epoch, start = epoch + 1, 0

    def reseed(self, seed: int) -> None:
        """Take other orders and augmentation from now on."""
        self.close()
        self.seed = seed
        self._maker.reseed(seed)

    def close(self) -> None:
        """End the worker processes; a later epoch starts new ones."""
        if self._crew is not None:
            self._crew.end()
            self._crew = None

    def _loading(self) -> DataLoader[tuple[Raw | None, Tensor] | _Failed]:
        return DataLoader(
            _Work(self._maker),
            batch_size=None,
            sampler=self._plan,
            num_workers=self.workers,
            persistent_workers=True,
            pin_memory=self.dataset.device.type == "cuda",
            # The engine draws a number per pass; from the global generator it would change what dropout draws.
            generator=torch.Generator(),
            multiprocessing_context=CONTEXT,
            worker_init_fn=partial(begin, os.getpid()),
        )


class _Maker:
    """Makes the samples of a step. Workers hold this, not the loader: a cycle would keep them from ending in order."""

    def __init__(
        self,
        dataset: Dataset,
        batch: int,
        seed: int,
        train: bool,
        stream: int,
        rows: Tensor | None = None,
        inputs: bool = True,
    ) -> None:
        self.dataset = dataset
        self.batch_size = batch
        self.seed = seed
        self.train = train
        self.stream = stream
        self.rows = rows
        self.inputs = inputs
        self.size = len(dataset) if rows is None else len(rows)
        self.part: Callable[[int], Tensor] | None = None
        self.fill = False
        """Whether the samples that `part` leaves out are zeros of the batch."""
        self.steps = 0
        """Of an epoch."""
        self._order: tuple[int, Tensor] | None = None
        self._there: tuple[int, Tensor] | None = None
        """The same on the data set's device, for one that is held there."""

    def reseed(self, seed: int) -> None:
        """Forget the order of the last epoch."""
        self.seed, self._order, self._there = seed, None, None

    def indices(self, epoch: int, step: int) -> Tensor:
        """The samples of one step, int64 [B]."""
        n = len(self.dataset)
        if not self.train:
            at = torch.arange(step * self.batch_size, min((step + 1) * self.batch_size, self.size))
            return at if self.rows is None else self.rows[at]
        known = self._order  # of another epoch perhaps, and by another thread
        if known is None or known[0] != epoch:
            known = (epoch, torch.from_numpy(order(n, seed=self.seed, epoch=epoch, stream=self.stream)))
            self._order = known
        return known[1][step * self.batch_size : (step + 1) * self.batch_size]

    def raw(self, epoch: int, step: int) -> tuple[Raw | None, Tensor]:
        """Inputs before normalisation [B, ...], if they are wanted, and indices int64 [B] of one step."""
        at, rows = self._wanted(epoch, step)
        return self._raw(at, rows, epoch), at

    def _wanted(self, epoch: int, step: int) -> tuple[Tensor, Tensor | None]:
        """The samples of a step's batch, and the rows of it that are read; None for all."""
        at = self.indices(epoch, step)
        if self.part is None:
            return at, None
        rows = self.part(epoch * self.steps + step)
        return (at, rows) if self.fill else (at[rows], None)

    def _raw(self, at: Tensor, rows: Tensor | None, epoch: int) -> Raw | None:
        if not self.inputs:
            return None
        raw = self.dataset.raw(at if rows is None else at[rows], epoch, self.train, self.seed, self.stream)
        if rows is None:
            return raw
        filled: Raw = tree_map(lambda t: t.new_zeros((len(at), *t.shape[1:])).index_copy_(0, rows, t), raw)
        return filled

    def batch(self, epoch: int, step: int) -> Batch:
        """The batch of one step."""
        at, rows = self._wanted(epoch, step)
        if not self.dataset.in_memory or self.dataset.device.type == "cpu":
            return self.dataset.finish(self._raw(at, rows, epoch), at)
        whole = self.train and self.part is None
        there = self._indices_there(epoch, step) if whole else at.to(self.dataset.device, non_blocking=True)
        return self.dataset.finish(self._raw(there, rows, epoch), at, there)

    def _indices_there(self, epoch: int, step: int) -> Tensor:
        """The samples of one step of training, on the device, which gets an epoch's order once."""
        if self._there is None or self._there[0] != epoch:
            assert self._order is not None and self._order[0] == epoch
            self._there = (epoch, self._order[1].to(self.dataset.device, non_blocking=True))
        return self._there[1][step * self.batch_size : (step + 1) * self.batch_size]


@dataclass(frozen=True)
class _Failed:
    """What a worker sends instead of a batch; an exception would lose its diagnostics on the way."""

    diagnostics: list[Diagnostic]


class _Steps:
    """What the workers do next: (epoch, step) pairs."""

    def __init__(self) -> None:
        self.steps: list[tuple[int, int]] = []

    def __iter__(self) -> Iterator[tuple[int, int]]:
        return iter(self.steps)

    def __len__(self) -> int:
        return len(self.steps)


class _Work(TorchDataset[tuple[Raw | None, Tensor] | _Failed]):
    """One item is one step's raw batch, made in a worker."""

    def __init__(self, maker: _Maker) -> None:
        self.maker = maker

    def __getitem__(self, at: tuple[int, int]) -> tuple[Raw | None, Tensor] | _Failed:
        try:
            return self.maker.raw(*at)
        except PlanError as e:
            return _Failed(e.diagnostics)


class Streams:
    """Several views at once: an epoch is one pass over the first, the others go round in orders of their own.

    Where the others are follows from the step's number alone, so any step can be the first here too. Give the loaders
    different `stream` numbers if two of them read one view.

    Examples
    --------
    >>> from kdplan.data.dataset import open_view
    >>> from kdplan.data.view import ViewSpec
    >>> data = open_view(ViewSpec("digits"), None)
    >>> both = Streams({"a": Loader(data, 500, 0, True), "b": Loader(data, 900, 0, True, stream=1)})
    >>> [(len(s["a"]["labels"]), len(s["b"]["labels"])) for s in both.epoch(0)]
    [(500, 900), (500, 537), (437, 900)]
    """

    def __init__(self, loaders: Mapping[str, Loader]) -> None:
        assert loaders
        self.loaders = dict(loaders)
        self._first = next(iter(self.loaders.values()))

    @property
    def steps_per_epoch(self) -> int:
        """Batches of an epoch of the first stream."""
        return self._first.steps_per_epoch

    def reseed(self, seed: int) -> None:
        """Take other orders and augmentation from now on."""
        for loader in self.loaders.values():
            loader.reseed(seed)

    def epoch(self, epoch: int, start: int = 0) -> Iterator[dict[str, Batch]]:
        """The batches of every stream, from step `start` of the first one's epoch on."""
        first, *others = self.loaders
        begin = epoch * self.steps_per_epoch + start
        around = {name: self.loaders[name].cycle(begin) for name in others}
        for batch in self._first.epoch(epoch, start):
            yield {first: batch, **{name: next(around[name]) for name in others}}
