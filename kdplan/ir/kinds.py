"""The kinds of declaration of the core: what may stand in each. `kdplan.constructs.table` adds the constructs."""

from __future__ import annotations

from kdplan.ir.settings import LOSS, RECIPE, SEED, S
from kdplan.ir.spec import Kind

_NETWORK_SETTINGS = (
    SEED,
    S(
        "reset",
        "paths",
        "parts whose weights are drawn anew, from the network's own seed, whatever it starts from",
        "[]",
        "reset = [fc]",
    ),
    S(
        "weights",
        "string",
        "a file of safetensors or of torch.save with the initial weights; the network counts as trained",
        "fresh",
        'weights = "start.safetensors"',
    ),
    S(
        "entry",
        "string",
        "which table of tensors in the file of `weights`, where it has several; dots between keys",
        "the first of `state_dict`, `model_state_dict`, `model` and `net`",
        'entry = "ema"',
    ),
    S(
        "rename",
        "pairs",
        "how names of tensors begin in the file of `weights`, and in the network",
        "[]",
        'rename = [["backbone.", ""]]',
    ),
    S(
        "only",
        "paths",
        "parts that `weights` are loaded into; the others are drawn from the seed",
        "all",
        "only = [layer1]",
    ),
    S(
        "except",
        "paths",
        "parts that `weights` are not loaded into; they are drawn from the seed",
        "[]",
        "except = [fc]",
    ),
    S(
        "head",
        "head",
        "layers between the features and the logits, in place of the network's last linear layer",
        "the network's own",
        "head = fc(64) -> sc(32, by = [0..4, 5..9])",
    ),
    S(
        "logit_scale",
        "logit_scale",
        "scales the logits of each vertical, or of each class, by a number of its own",
        "no scaling",
        "logit_scale = none",
    ),
    S(
        "mode",
        "choice",
        "batch norm and dropout while the network is frozen",
        "eval",
        "mode = train",
        choices=("train", "eval"),
    ),
)


def _network(name: str, doc: str, example: str) -> Kind:
    return Kind(
        name,
        doc,
        f"{name} NAME[SLOTS] = MODEL {{ settings, phases }}",
        example,
        clauses=("=",),
        required=("=",),
        settings=_NETWORK_SETTINGS,
        inner=("phase", "def"),
        slots=True,
    )


CORE: tuple[Kind, ...] = (
    Kind(
        "use",
        "Brings in another plan file, whose names become known here (under a name of their own with `as`), or a "
        "Python file. A used file's phases run only when something reads what they make. `use package` names an "
        "installed package, whose code runs where you trust it.",
        'use "FILE.kd" [as NAME] { param = value }    use "FILE.py" as NAME    use package "NAME" [as NAME]',
        'use "common/digits.kd"',
        clauses=("as",),
        named=False,
        free=True,
    ),
    Kind(
        "param",
        "A named value that `--set` and `use` can change. With `in` it is an axis: whatever reads it, directly or "
        "through what it reads, is made once for each value.",
        "param NAME = VALUE    param NAME in VALUES",
        "param weight in [0.1, 0.5, 0.9]",
        clauses=("=", "in"),
    ),
    Kind(
        "def",
        "A name for a value, or a function of signals. In a phase's body it is also written to the metrics.",
        "def NAME = EXPRESSION    def NAME(a, b = 1) = EXPRESSION",
        "def hard(logits) = cross_entropy(logits, labels)",
        clauses=("=",),
        required=("=",),
    ),
    Kind(
        "data",
        "A data set with what is done to its images.",
        "data NAME = SOURCE { settings }",
        "data tiny = digits { augment = [pad_crop(8, pad = 1)] }",
        clauses=("=",),
        required=("=",),
        settings=(
            S(
                "augment",
                "transforms",
                "what happens to training images, in order",
                "[]",
                "augment = [pad_crop(8, pad = 1), flip()]",
            ),
            S(
                "normalize",
                "normalize",
                "mean and standard deviation of each channel, on a scale of 0 to 1",
                "the source's own",
                "normalize = [[0.5], [0.25]]",
            ),
            S(
                "split",
                "split",
                "how to cut a source of one part, or the training part of others, the rest of which is `val`",
                "the source's own parts",
                "split = per_class(train = 60, seed = 0)",
            ),
            S(
                "protocol",
                "protocol",
                "how templates are made of the samples and compared, for `tar` and `rank`",
                "the source's own, if it has one",
                "protocol = templates(size = 3, splits = 10, seed = 0)",
            ),
            S(
                "fraction",
                "number",
                "class-balanced part of the training split",
                "1",
                "fraction = 0.1",
                above=0,
                high=1,
            ),
            S(
                "limit",
                "integer",
                "at most this many training images, of all classes together",
                "all",
                "limit = 1000",
                above=0,
            ),
            S(
                "verify",
                "boolean",
                "reads every file once and lists those that are broken, in `check` and before training; what was whole "
                "is not read again until it changes",
                "false",
                "verify = true",
            ),
            S(
                "seed",
                "integer",
                "order, augmentation, subsets; does not follow `param seed`",
                "0",
                "seed = 3",
                low=0,
            ),
        ),
    ),
    Kind(
        "verticals",
        "A named partition of a data set's classes.",
        "verticals NAME of DATA = EXPRESSION    verticals NAME of DATA { part = classes }",
        "verticals half of digits = random(parts = 2, seed = 0)",
        clauses=("of", "=", "from"),
        required=("of",),
        settings=(S("disjoint", "boolean", "false lets a class stand in several parts", "true", "disjoint = false"),),
        free=True,
    ),
    Kind(
        "recipe",
        "How a phase trains. `recipe x = y { … }` takes everything from y that it does not say itself.",
        "recipe NAME [= RECIPE] { settings }",
        "recipe quick { optimizer = sgd(lr = 0.1, momentum = 0.9)  epochs = 4  batch = 64 }",
        clauses=("=",),
        settings=RECIPE,
    ),
    Kind(
        "model",
        "A name for an architecture with some of its arguments.",
        "model NAME = FACTORY(arguments)",
        "model tiny_net = digits_net(width = 8, classes = digits.classes)",
        clauses=("=",),
        required=("=",),
    ),
    _network(
        "teacher",
        "A network that others learn from.",
        "teacher big = digits_net(width = 16) { phase train on digits with quick { loss = "
        "cross_entropy(self.logits, labels) } }",
    ),
    _network("student", "A network that learns from others.", "student small = digits_net(width = 4)"),
    _network(
        "network",
        "A network that is neither teacher nor student.",
        "network bank = linear(inputs = 8, outputs = 4)",
    ),
    Kind(
        "phase",
        "One training run: the networks it trains, the data, the recipe, the loss.",
        "phase NAME[SLOTS] of NETWORKS on DATA with RECIPES { loss = … }",
        "phase alone of small on digits with quick { loss = cross_entropy(small.logits, labels) }",
        clauses=("of", "on", "with"),
        required=("on", "with"),
        settings=(
            LOSS,
            SEED,
            *RECIPE,
        ),
        inner=("def", "measure"),
        slots=True,
        help={
            "update": "Name what the phase trains after `of`.",
            "train": "Name what the phase trains after `of`.",
            "freeze": "Name what the phase trains after `of`.",
            "after": "Delete it: the versions that are read give the order.",
        },
    ),
    Kind(
        "measure",
        "Numbers about networks on data. Inside a phase: after every epoch, and its first metric chooses `best`.",
        "measure NAME of VERSIONS by AXES on DATA.SPLIT over AXES { metrics, baseline = VERSION }",
        "measure table of big, small@alone on digits.test { top1 }",
        clauses=("of", "on", "by", "over"),
        required=("on",),
        listing=True,
        settings=(
            S(
                "baseline",
                "version",
                "beside each metric, the difference to this version, run by run, with Student's 95 % interval",
                "none",
                "baseline = small@alone",
            ),
        ),
    ),
    Kind(
        "claim",
        "What the plan expects of its numbers, in pairs of runs; `kdplan claims` says whether it holds. `>` and `<` "
        "compare two versions, or a version with a number; `==` asks for a difference of at most `margin`; `trend` "
        "is along the axis after `over`.",
        "claim NAME of A > B on DATA.SPLIT over AXES by AXES { metrics, margin = NUMBER }",
        "claim better of big > small@alone on digits.test { top1, margin = 1 }",
        clauses=("of", "on", "by", "over"),
        required=("of", "on"),
        listing=True,
        settings=(
            S(
                "margin",
                "number",
                "how large a difference has to be, in the metric's unit; with `==`, how large it may be; with `trend`, "
                "how large the slope has to be, from one value of the axis to the next",
                "0; needed with `==`",
                "margin = 0.5",
                low=0,
            ),
            S(
                "trend",
                "choice",
                "in place of a comparison: the numbers rise or fall along the axis after `over`",
                "none",
                "trend = rising",
                choices=("rising", "falling"),
            ),
        ),
    ),
    Kind(
        "export",
        "A network as files: its weights, and what is needed to use them.",
        "export NAME = VERSION",
        "export tiny = small@alone",
        clauses=("=",),
        required=("=",),
    ),
)

NETWORKS = frozenset({"teacher", "student", "network"})
"""Kinds of the core whose names mean networks."""
RESULTS = frozenset({"measure", "claim", "export"})
"""Kinds that read trained networks; nothing reads them."""
