"""The kinds of declaration: what may stand in each. Checker and reference read this table."""

from __future__ import annotations

from kdplan.ir.spec import Kind, SettingSpec

S = SettingSpec

SEED = S(
    "seed",
    "integer",
    "initial weights of a network; order, augmentation and dropout of a phase",
    "the enclosing declaration's, else the file's `param seed`, else 0",
    "seed = fold(seed, 1)",
    low=0,
)

LOSS = S("loss", "signal", "the scalar that is made small", "needed", "loss = cross_entropy(small.logits, labels)")

RECIPE = (
    S(
        "optimizer",
        "optimizer",
        "any optimizer of torch.optim, by its name in lower case",
        "needed",
        "optimizer = adamw(lr = 1e-3, weight_decay = 0.05)",
    ),
    S("schedule", "schedule", "the learning rate over the phase", "constant()", "schedule = steps(at = [60, 80])"),
    S("epochs", "integer", "length: passes over the first stream", "needed, or `steps`", "epochs = 10", low=0, above=0),
    S("steps", "integer", "length: optimizer steps, in place of epochs", "", "steps = 1000", low=0, above=0),
    S("batch", "integer", "samples a step", "128", "batch = 64", above=0),
    S("warmup", "number", "epochs over which the learning rate rises linearly from 0", "0", "warmup = 5", low=0),
    S(
        "accumulate",
        "integer",
        "batches whose gradients are averaged into one optimizer step",
        "1",
        "accumulate = 4",
        above=0,
    ),
    S("clip", "number", "largest norm of the gradient over all moving parameters", "no limit", "clip = 5", above=0),
    S(
        "label_smoothing",
        "number",
        "`smoothing` of every cross_entropy that does not give its own",
        "0",
        "label_smoothing = 0.1",
        low=0,
        high=1,
    ),
    S(
        "ema",
        "number",
        "decay of an average of the weights, kept as snapshot `ema`",
        "none",
        "ema = 0.999",
        low=0,
        high=1,
    ),
    S(
        "precision",
        "choice",
        "arithmetic of forward and backward; weights stay in fp32",
        "fp32",
        "precision = bf16",
        choices=("fp32", "bf16", "fp16"),
    ),
    S("channels_last", "flag", "memory layout of images and maps", "false", "channels_last = true"),
    S("compile", "flag", "torch.compile of the phase's graph", "false", "compile = true"),
    S("workers", "integer", "processes that load and augment", "0", "workers = 2", low=0),
    S(
        "keep_epochs",
        "integers",
        "epochs (from 1) after which snapshot `epoch = N` is kept",
        "[]",
        "keep_epochs = [5, 10]",
    ),
)

_NETWORK_SETTINGS = (
    SEED,
    S(
        "reset",
        "paths",
        "parts whose weights are drawn anew, from the network's own seed, whatever it starts from",
        "[]",
        "reset = [fc]",
    ),
    S("weights", "text", "a safetensors file with the initial weights", "fresh", 'weights = "start.safetensors"'),
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


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind(
            "use",
            "Brings in another plan file, whose names become known here (under a name of their own with `as`), or a "
            "Python file. A used file's phases run only when something reads what they make.",
            'use "FILE.kd" [as NAME] { param = value }',
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
                    "how to cut a source without parts",
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
                S("limit", "integer", "at most this many training images", "all", "limit = 1000", above=0),
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
            settings=(S("disjoint", "flag", "false lets a class stand in several parts", "true", "disjoint = false"),),
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
            "One training run: what moves, on what data, by what recipe, to make what small.",
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
                "update": "what moves stands after `of`",
                "train": "what moves stands after `of`",
                "freeze": "what moves stands after `of`",
                "after": "order follows from the versions that are read",
            },
        ),
        Kind(
            "stages",
            "Trains a network's backbone stage by stage on a teacher's features, without labels, and then its head: "
            "one phase a stage, in which what comes before is frozen and what comes after does not run. `N@NAME` is "
            "the network after the last of these phases, `N@NAME@STAGE` after one of them.",
            "stages NAME[SLOTS] of NETWORK from TEACHER on DATA with RECIPE { stage s1 { a ~ b } … head { … } }",
            "stages mimic of small from big on digits with quick { stages = auto }",
            clauses=("of", "from", "on", "with"),
            required=("of", "on", "with"),
            settings=(
                S(
                    "stages",
                    "choice",
                    "finds the stages from the shapes of both networks: a stage ends where the features become smaller",
                    "as written",
                    "stages = auto",
                    choices=("auto",),
                ),
                S(
                    "count",
                    "integer",
                    "how many stages to find: where there are more, the first ones are joined; where there are fewer, "
                    "the first ones are divided evenly",
                    "as many as there are",
                    "stages = auto  count = 2",
                    above=0,
                ),
                S("match", "function", "the distance of a pair of taps", "squared_l2", "stages = auto  match = mse"),
                S(
                    "adapt",
                    "function",
                    "what makes the student's tap as the teacher's where shapes differ: `conv1x1` (with resizing where "
                    "sizes differ), `none`, or a function of the two",
                    "conv1x1",
                    "stages = auto  adapt = none  match = attention",
                ),
                SEED,
                *RECIPE,
            ),
            inner=("stage", "head", "def"),
            slots=True,
        ),
        Kind(
            "stage",
            "In `stages`: one phase, in which the part of the network up to these taps, and from those of the stage "
            "before on, learns to give what the teacher gives there.",
            "stage NAME [with RECIPE] { student.tap ~ teacher.tap }",
            "stages mimic of small on digits with quick { stage s1 { small.layer1 ~ big.layer1 } }",
            clauses=("with",),
            settings=(SEED, *RECIPE),
            inner=("def",),
            nested=True,
            pairs=True,
        ),
        Kind(
            "head",
            "In `stages`: the last phase, in which all that comes after the last stage's taps is trained and the "
            "backbone is frozen.",
            "head [of PARTS] [on DATA] [with RECIPE] { loss = … }",
            "stages mimic of small from big on digits with quick { stages = auto  "
            "head { loss = cross_entropy(small.logits, labels) } }",
            clauses=("of", "on", "with"),
            settings=(
                LOSS,
                SEED,
                *RECIPE,
            ),
            inner=("def", "measure"),
            nested=True,
            named=False,
            default_name="head",
        ),
        Kind(
            "measure",
            "Numbers about networks on data. Inside a phase: after every epoch, and its first metric chooses `best`.",
            "measure NAME of VERSIONS by AXES on DATA.SPLIT over AXES { metrics }",
            "measure table of big, small@alone on digits.test { top1 }",
            clauses=("of", "on", "by", "over"),
            required=("on",),
            listing=True,
        ),
        Kind(
            "export",
            "A network to hand out: its weights, and what is needed to use them.",
            "export NAME = VERSION",
            "export tiny = small@alone",
            clauses=("=",),
            required=("=",),
        ),
    )
}

NETWORKS = frozenset({"teacher", "student", "network"})
CONSTRUCTS = frozenset({"stages"})
"""Kinds that lower to phases (`kdplan.lower`)."""
AFTER_AT = frozenset({"phase", "measure", "export"}) | CONSTRUCTS
"""Kinds whose names are looked up only after `@` and on the command line."""
