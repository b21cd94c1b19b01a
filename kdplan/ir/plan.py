"""The core plan: what remains when a plan file's names, axes, families and constructs are resolved.

Every front end (text, Python) ends here and every later step (DAG, keys, graphs, running) starts here. Everything is a
plain value with a JSON form; `kdplan schema` prints its schema.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

from kdplan.ir.expr import Expr, Location, Version, location, locations
from kdplan.ir.origins import Fresh, Origin

Precision = Literal["fp32", "tf32", "bf16", "fp16"]
Compile = bool | Literal["graphs"]
FrozenValues = Literal["live", "stored", "auto"]
NormOver = Literal["shard", "sync"]
Layout = Literal["auto", "contiguous", "channels_last"]
StackWord = Literal["off", "auto"]
Mode = Literal["train", "eval"]
Band = Literal["std", "se", "ci"]
Relation = Literal[">", "<", "==", "rising", "falling"]
Role = Literal["teacher", "student", "network"]

Plain = Any
"""A number, string, boolean, None, or lists and dicts of them: what JSON holds."""


@dataclass(slots=True)
class Item:
    """A named choice with its settings: `sgd(lr = 0.1)`, `pad_crop(32, pad = 4)`, `fc(4096)`, `top1`."""

    name: str
    arguments: dict[str, Plain] = field(default_factory=dict)
    span: Location = location()
    written: Location = location()
    """How the plan writes arguments that are lists: `half`."""


# ---- data


@dataclass(slots=True)
class ClassSet:
    """An ordered set of classes of a data set: its indices into that data set's classes."""

    data: str
    ids: list[int]
    label: str | None = None
    """How a vertical calls it; no part of its meaning."""


@dataclass(slots=True)
class Data:
    """A data set with what is done to its images."""

    name: str
    source: Item
    augment: list[Item] = field(default_factory=list)
    normalize: tuple[list[float], list[float]] | None = None
    """Mean and standard deviation a channel, on a scale of 0 to 1; None means the source's own, if it has them."""
    split: Item | None = None
    """How to cut the source into train and test when it has no such parts: `per_class(…)`, `fraction(…)`."""
    protocol: Item | None = None
    """How templates are made of the samples, for open-set recognition: `templates(…)`."""
    fraction: float = 1.0
    """Class-balanced part of the training split."""
    limit: int | None = None
    """At most this many training images."""
    verify: bool = False
    """Whether all of its files are read once before anything else; no part of a key."""
    seed: int = 0
    classes: list[str] = field(default_factory=list)
    superclasses: dict[str, list[int]] = field(default_factory=dict)
    """The source's own grouping of its classes, if it has one: name -> class numbers."""
    shape: list[int] | None = None
    """Channels, height and width of the images after augmentation, where they are all alike."""
    fingerprint: str = ""
    """Hash of the content."""
    task: str = "classification"
    """What the source is for; see `kdplan.data.catalog.DataInfo`."""
    objects: int = 0
    """The most boxes that one image has."""
    whole: bool = False
    """Whether inputs are whole numbers that are no images, such as the numbers of words."""
    sizes: dict[str, int] = field(default_factory=dict)
    """Images in each split, before `fraction`, `limit` and class subsets."""
    span: Location = location()


@dataclass(slots=True)
class View:
    """A part of a data set: what a phase reads or a measure looks at."""

    data: str
    split: str = "train"
    classes: ClassSet | None = None
    unlabelled: bool = False
    span: Location = location()


# ---- networks


@dataclass(slots=True)
class Network:
    """An architecture with the weights that it starts from.

    `architecture` names a built-in factory (`cifar_resnet`, `torchvision`, `timm` …) or a user's `file.py:factory`.
    """

    name: str
    architecture: Item
    role: Role = "network"
    classes: ClassSet | None = None
    """What its logits are over, where it is known."""
    seed: int = 0
    origin: Origin = field(default_factory=Fresh)
    input_shape: list[int] | None = None
    """Channels, height, width to trace with where no data says it."""
    mode: Mode = "eval"
    """How batch norm and dropout behave while the network is frozen."""
    code: str | None = None
    """Hash of the user's source file that makes it."""
    codes: dict[str, str] = field(default_factory=dict)
    """Of an architecture made of several: which of its arguments a user's source file makes, and that file's hash."""
    reset: list[str] = field(default_factory=list)
    """Paths of parts whose weights are drawn from `seed`, whatever `origin` says."""
    span: Location = location()
    spans: Location = locations()
    """Where some of the architecture's arguments stand."""


# ---- phases


@dataclass(slots=True)
class Trainee:
    """A network that a phase trains, from version `base` on.

    `paths` are the submodules that are trained ([] means all); `upto` and `since` restrict them to what the taps
    `upto` depend on and the taps `since` do not.
    """

    base: Version
    paths: list[str] = field(default_factory=list)
    upto: list[str] = field(default_factory=list)
    since: list[str] = field(default_factory=list)
    span: Location = location()


@dataclass(slots=True)
class Recipe:
    """How a phase trains. Lengths are in epochs unless `steps` is given."""

    optimizer: Item
    schedule: Item = field(default_factory=lambda: Item("constant"))
    epochs: int | None = None
    steps: int | None = None
    batch: int | list[int] = 128
    """Samples of every stream in a batch, or of each in turn."""
    warmup: float = 0.0
    """Epochs of linear warm-up before the schedule has its full learning rate."""
    accumulate: int = 1
    drop_last: bool = False
    """Whether an incomplete last batch of an epoch is left out."""
    clip: float | None = None
    """Largest norm of the gradient."""
    label_smoothing: float = 0.0
    ema: float | None = None
    """Decay of the weight average that is kept with the weights (snapshot `ema`)."""
    precision: Precision = "fp32"
    frozen_precision: Precision | None = None
    """Arithmetic of frozen networks; None for that of the others."""
    layout: Layout = "auto"
    """How images and maps lie in memory; `auto` is what `kdplan.passes.layout` says of the phase."""
    compile: Compile = False
    """Whether torch.compile compiles the phase's graphs, or a GPU repeats whole steps as a graph of kernels."""
    frozen: FrozenValues = "live"
    """Whether what frozen networks give for a sample is computed in every step, or once and kept in the store."""
    fold: bool = False
    """Whether batch norms of frozen networks are folded into the convolutions before them."""
    workers: int = 0
    threads: int | None = None
    """Threads of a step on a CPU; None for as many as its size is worth."""
    on_nan: Item = field(default_factory=lambda: Item("stop"))
    """What is done about a loss, gradient or weight that is not finite."""
    keep_epochs: list[int] = field(default_factory=list)
    """Epochs (from 1) after which a snapshot `epoch=N` is kept."""
    shards: int = 1
    """Parts of a batch that are computed each on its own: by one process, or by as many as divide the number."""
    norm: NormOver = "shard"
    """What batch norm in training takes its statistics over: each shard, or all of them. Without shards nothing."""
    stack: StackWord | int = "off"
    """How many phases of equal graphs train as one, at most; `auto` where that was measured to be faster."""
    span: Location = location()
    spans: Location = locations()
    """Where each setting stands."""

    def batch_of(self, stream: int = 0) -> int:
        """Samples of a stream in a batch.

        >>> Recipe(Item("sgd"), batch=[64, 448]).batch_of(1)
        448
        """
        return self.batch[stream] if isinstance(self.batch, list) else self.batch

    @property
    def channels_last(self) -> bool:
        """Whether the layout is channels last; an `auto` that nobody has resolved is not."""
        return self.layout == "channels_last"


DEFAULT_RECIPE = Recipe(Item(""))
"""Settings at these values enter no key and are not written out."""


@dataclass(slots=True)
class Validation:
    """A measure inside a phase, after every epoch: `measure on cifar.test { top1 }`. Its first metric makes `best`."""

    view: View
    metrics: list[Item]
    network: int = 0
    """Which of the phase's trainees is measured."""
    path: str = ""
    """The value inside of it that is; by default what it gives."""
    span: Location = location()


@dataclass(slots=True)
class Phase:
    """One optimisation problem: some networks, data streams, a loss, and the parameters that it trains."""

    name: str
    trainees: list[Trainee]
    streams: list[View]
    recipes: list[Recipe]
    """One for all trainees, or one each."""
    loss: Expr
    logged: dict[str, Expr] = field(default_factory=dict)
    """Terms written to the metrics together with the loss."""
    validations: list[Validation] = field(default_factory=list)
    seed: int = 0
    stream_names: list[str] = field(default_factory=list)
    code: dict[str, str] = field(default_factory=dict)
    """User functions in the loss -> hash of their source."""
    construct: str | None = None
    """The construct that it was lowered from, with its coordinates; no part of its meaning."""
    span: Location = location()


# ---- results


@dataclass(slots=True)
class Target:
    """What is measured or exported: a version, or the mean of several; `path` is a submodule or tap, "" the output."""

    versions: list[Version]
    path: str = ""
    join: Literal["single", "probabilities", "logits", "concat"] = "single"
    """How several versions become one output."""
    span: Location = location()


@dataclass(slots=True)
class Row:
    """One line of a measure before aggregation; `coordinates` are the axis values it stands for."""

    label: str
    target: Target
    coordinates: dict[str, Plain] = field(default_factory=dict)
    classes: ClassSet | None = None
    """The part of the data that it is measured on, with scores cut to its classes; None for all of a view."""
    views: list[View] = field(default_factory=list)
    """What it is measured on, one for each of the measure's views, where data read an axis; else the measure's."""


@dataclass(slots=True)
class Plot:
    """Curves of metric `y` over axis `x`, one for each version of the measure; `baseline` are level lines."""

    x: str
    y: Item
    baseline: list[Row] = field(default_factory=list)
    band: Band = "std"
    """What is drawn around a mean over runs: their deviation, its standard error, or a 95 % interval of the mean."""
    span: Location = location()


@dataclass(slots=True)
class Measure:
    """Numbers about networks on data. Axes named in `over` are averaged: mean, standard deviation, count.

    Values of the axes in `by` are the table's lines, and versions its columns. With `verticals` in `by` each of them is
    a line, and their mean another one; in `over` there is the mean alone.
    """

    name: str
    rows: list[Row]
    views: list[View]
    metrics: list[Item]
    by: list[Plain] = field(default_factory=list)
    over: list[str] = field(default_factory=lambda: ["seed"])
    plots: list[Plot] = field(default_factory=list)
    verticals: str = ""
    """The name in `by` or `over` that is one of verticals."""
    parts: list[ClassSet] = field(default_factory=list)
    """These verticals."""
    baseline: list[Row] = field(default_factory=list)
    """What every number is compared with, run by run."""
    span: Location = location()

    def views_of(self, row: Row) -> list[View]:
        """What a row is measured on."""
        return row.views or self.views

    def every_row(self) -> list[Row]:
        """The rows, and those of the baseline."""
        return [*self.rows, *self.baseline]

    def pairs(self) -> list[tuple[Row, View]]:
        """Each row with each view that it is measured on."""
        return [(row, view) for row in self.every_row() for view in self.views_of(row)]

    def every_view(self) -> list[View]:
        """What any of the rows is measured on, each view once."""
        return [*{repr(v): v for _, v in self.pairs()}.values()] or self.views


@dataclass(slots=True)
class Comparison:
    """What a claim says of two lists of rows, or of one list along an axis.

    `relation` is `>`, `<` or `==` between the numbers of `left` and those of `right` (or a number, `bound`), or
    `rising` or `falling` for `left` along the claim's axis.
    """

    left: list[Row]
    relation: Relation
    right: list[Row] = field(default_factory=list)
    bound: float | None = None
    text: str = ""
    """As it is written."""
    span: Location = location()


@dataclass(slots=True)
class Claim:
    """What a plan expects of its numbers; each metric on each view is a claim of its own.

    Runs are paired by `pairs`, averaged over `over`; every other axis, and every version, is compared by itself.
    """

    name: str
    comparisons: list[Comparison]
    views: list[View]
    metrics: list[Item]
    over: list[str] = field(default_factory=list)
    pairs: list[str] = field(default_factory=lambda: ["seed"])
    along: str = ""
    """The axis along which numbers rise or fall."""
    margin: float = 0.0
    """Differences have to be larger than this, or with `==` at most as large."""
    span: Location = location()

    def measure(self) -> Measure:
        """All that it reads, as a measure of the same name."""
        rows = [row for c in self.comparisons for row in (*c.left, *c.right)]
        return Measure(self.name, rows, self.views, self.metrics, span=self.span)


@dataclass(slots=True)
class Export:
    """A network to export: its weights and a description to load them with."""

    name: str
    target: Target
    span: Location = location()


@dataclass(slots=True)
class Plan:
    """Everything, by name, in the order of the text."""

    data: dict[str, Data] = field(default_factory=dict)
    networks: dict[str, Network] = field(default_factory=dict)
    phases: dict[str, Phase] = field(default_factory=dict)
    measures: dict[str, Measure] = field(default_factory=dict)
    exports: dict[str, Export] = field(default_factory=dict)
    claims: dict[str, Claim] = field(default_factory=dict)

    def measured(self) -> list[Measure]:
        """The measures, and what claims read."""
        return [*self.measures.values(), *(claim.measure() for claim in self.claims.values())]
