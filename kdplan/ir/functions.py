"""The functions of loss expressions: the table that checker, graph builder and reference share.

A function's code stands in `kdplan.nn.functions` (or where `implementation` says) under the same name with the same
parameters; a test compares the two. `kdplan.ir.losses` has the losses.
"""

from __future__ import annotations

from kdplan.ir.losses import LOSSES, TEMPERATURE, signal
from kdplan.ir.spec import Param, Spec
from kdplan.syntax import aliases


def _math(name: str, doc: str) -> Spec:
    return Spec(name, (signal("x", "any shape"),), doc, result="like x", example=f"{name}(small.logits)")


SHAPING = (
    Spec(
        "fit",
        (signal("x"), Param("like", "signal", doc="what it is fitted to")),
        "x with the channels and the size of `like`: a trainable 1x1 convolution (a linear layer for vectors) where "
        "channels differ, bilinear resizing where sizes differ, x itself where nothing differs. The adapter exists "
        "only during the phase.",
        result="shaped as like",
        example="mse(fit(small.layer2, like = big.layer2), big.layer2)",
        implementation="kdplan.graph.adapter:Adapters.fit",
        built="adapter",
    ),
    Spec(
        "conv1x1",
        (signal("x", "[B, C, H, W]"), Param("channels", "integer", doc="output channels", low=1)),
        "A trainable 1x1 convolution that exists only during the phase.",
        result="[B, channels, H, W]",
        example="mean(conv1x1(small.layer2, channels = 8))",
        implementation="kdplan.graph.adapter:Adapters.conv1x1",
        built="adapter",
    ),
    Spec(
        "linear",
        (signal("x", "[B, D]"), Param("features", "integer", doc="output features", low=1)),
        "A trainable linear layer that exists only during the phase.",
        result="[B, features]",
        example="mean(linear(small.features, features = 8))",
        implementation="kdplan.graph.adapter:Adapters.linear",
        built="adapter",
    ),
    Spec(
        "resize",
        (signal("x", "[B, C, H, W]"), Param("size", "integer", doc="height and width", low=1)),
        "Bilinear resizing of a map.",
        result="[B, C, size, size]",
        example="mean(resize(small.layer2, size = 4))",
        built="adapter",
    ),
    Spec(
        "concat",
        (signal("first"),),
        "Joins signals along channels or classes (dimension 1). Scores over different classes of one data set are then "
        "scores over all of these, in this order.",
        more=True,
        result="[B, sum of C, ...]",
        gives="joined",
        example="mean(concat(small.layer1, small.layer1))",
    ),
    Spec(
        "columns",
        (signal("x", "[B, C, ...]"), Param("at", "positions", doc="whole numbers from 0, in the order wanted")),
        "Some of a signal's channels or classes (dimension 1).",
        result="[B, len(at), ...]",
        gives="selected",
        example="mean(columns(small.logits, at = [0, 2]))",
    ),
    Spec(
        "pool",
        (signal("x", "[B, C, H, W]"),),
        "Mean over height and width.",
        result="[B, C]",
        example="mean(pool(small.layer2))",
    ),
    Spec(
        "flatten",
        (signal("x", "[B, ...]"),),
        "One vector a sample.",
        result="[B, D]",
        example="mean(flatten(small.layer2))",
    ),
    Spec(
        "normalize",
        (signal("x", "[B, ...]"),),
        "Each sample divided by its L2 norm (over dimension 1).",
        result="like x",
        example="mean(normalize(small.features))",
    ),
    Spec(
        "softmax",
        (signal("logits", "[B, C]"), TEMPERATURE),
        "Probabilities of logits.",
        result="probabilities [B, C]",
        gives="probabilities",
        sparse=True,
        example="entropy(softmax(small.logits))",
    ),
    Spec(
        "log_softmax",
        (signal("logits", "[B, C]"), TEMPERATURE),
        "Logarithm of softmax.",
        result="[B, C]",
        example="mean(log_softmax(small.logits))",
    ),
    Spec(
        "sigmoid",
        (signal("x"),),
        "1 / (1 + exp(-x)).",
        result="like x",
        gives="probabilities",
        sparse=True,
        example="mean(sigmoid(small.logits))",
    ),
    Spec(
        "onehot",
        (signal("labels", "[B]"), Param("classes", "classes", doc="how many, or a class set")),
        "Indicator vectors of labels.",
        result="probabilities [B, C]",
        gives="probabilities",
        example="cross_entropy(small.logits, onehot(labels, classes = 10))",
    ),
    Spec(
        "top",
        (
            signal("scores", "probabilities [B, C], or what `route` gives"),
            Param("k", "integer", doc="how many are kept", low=1, at_most_classes=True),
        ),
        "Each sample's k largest scores with their classes, as targets that are zero for every other class. The losses "
        "that read them (`cross_entropy`, `sigmoid_cross_entropy`) make no dense target, and the network that learns "
        "may be over more classes than the one whose scores these are.",
        result="sparse probabilities [B, k]",
        source="Gao, Li, Nevatia 2017",
        example="sigmoid_cross_entropy(small.logits, top(sigmoid(big.logits), k = 3))",
        implementation="kdplan.nn.sparse:top",
        built="sparse",
        sparse=True,
    ),
    Spec(
        "smear",
        (
            signal("labels", "labels [B]"),
            Param("hierarchy", "ancestors", doc="a file: rows `name,parent`, or a JSON object name -> parents"),
        ),
        "Labels that are positive for all classes above them too: sparse targets of 1 for each of them that the data "
        "set read has.",
        result="sparse targets [B, 1 + most classes above one]",
        source="Gao, Li, Nevatia 2017",
        example='sigmoid_cross_entropy(small.logits, smear(labels, "numbers.csv"))',
        implementation="kdplan.graph.sparse_signals:smear",
        built="sparse",
    ),
    Spec(
        "route",
        (
            Param("parts", "verticals", doc="verticals, or lists of class numbers"),
            signal("labels", "labels [B]"),
            signal("first", "a tap of a frozen network, one for each part"),
        ),
        "For each sample the signal of its label's part. A sample runs through one of the networks, never through all. "
        "Logits over each part's own classes come sparse, with their classes, as `top` gives them. "
        "`route(V, labels, t[*].logits)` is what `t[V(labels)].logits` stands for.",
        more=True,
        result="like first, or sparse scores [B, largest part]",
        example="mse(fit(small.layer2, like = big.layer2), route([0..4, 5..9], labels, big.layer2, big.layer2))",
        implementation="kdplan.nn.routed:Routed",
        built="route",
    ),
    Spec(
        "uniform",
        (Param("classes", "classes", doc="how many, or a class set"),),
        "The uniform distribution, as one row that broadcasts over the batch.",
        result="probabilities [1, C]",
        gives="probabilities",
        example="kl(small.logits, uniform(10))",
    ),
)

GRADIENT = (
    Spec("detach", (signal("x"),), "x, without gradient.", result="like x", gives="same", sparse=True,
         example="kl(small.logits, detach(small.logits))"),
    Spec("reverse", (signal("x"), Param("weight", "number", 1.0, "factor of the reversed gradient")),
         "x, whose gradient changes sign.", result="like x", gives="same", source="Ganin, Lempitsky 2015",
         example="mean(reverse(small.features))"),
)  # fmt: skip

MATH = (
    _math("exp", "Elementwise exponential."),
    _math("log", "Elementwise natural logarithm."),
    _math("sqrt", "Elementwise square root."),
    _math("abs", "Elementwise absolute value."),
    Spec("mean", (signal("x"),), "Mean over all elements.", result="scalar", example="mean(small.logits)"),
    Spec("sum", (signal("first"),), "Of one signal: sum over all elements. Of several, or of a comprehension or list: "
         "their sum.", more=True, result="scalar, or like the terms",
         example="sum(w * cross_entropy(small.logits, labels) for w in [1, 2])"),
    Spec("min", (signal("first"),), "Of one signal: its smallest element. Of several: elementwise minimum.", more=True,
         gives="term",
         result="scalar, or like the arguments", example="min(epoch / 80, 1) * mean(small.logits)"),
    Spec("max", (signal("first"),), "Of one signal: its largest element. Of several: elementwise maximum.", more=True,
         gives="term",
         result="scalar, or like the arguments", example="max(progress, 0.5) * mean(small.logits)"),
    Spec("clamp", (signal("x"), Param("low", "number"), Param("high", "number")), "x, kept between low and high.",
         result="like x", example="clamp(progress, low = 0, high = 1) * mean(small.logits)"),
    Spec("mix", (signal("first", "any shape"), signal("second", "the same shape, or a scalar"),
         Param("weight", "number", doc="share of the first", low=0, high=1)),
         "A weighted mean of two terms.", result="like first", formula="weight * first + (1 - weight) * second",
         example="mix(cross_entropy(small.logits, labels), kl(small.logits, big.logits), weight = 0.6)"),
)  # fmt: skip

FUNCTIONS: dict[str, Spec] = {spec.name: spec for spec in (*LOSSES, *SHAPING, *GRADIENT, *MATH)}

PLAN_FUNCTIONS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("fold", (Param("seed", "integer"), Param("value", "any", doc="numbers or strings")),
             "A new seed from a seed and values: a hash, since sums collide across swept seeds.", more=True,
             result="integer", example="fold(seed, 1)"),
        Spec("upto", (Param("tap", "network"), Param("from", "name", None, "taps where the trained part begins")),
             "In `of`: the parameters that taps depend on.", more=True, result="network part",
             example="upto(small.layer2)"),
        Spec("through", (Param("x", "signal", doc="replaces the value at `from`"),
                         Param("tap", "network", doc="what comes out"),
                         Param("from", "name", doc="where x goes in")),
             "Runs a signal through the part of a network between two taps: what comes after `from` reads x "
             "instead, and nothing before it runs. All that the tap depends on must pass through `from`.",
             result="as the tap", example="through(big.layer1, big.logits, from = big.layer1)"),
        Spec("merge", (Param("first", "network"),), "One network whose parts were trained apart: each parameter "
             "from the version whose phase trained it.",
             more=True, result="network", example="merge(small@low, small@high)"),
        Spec("average", (Param("first", "network"),), "The mean of several versions' weights.", more=True,
             result="network", example="average(small@alone, small@again)"),
        Spec("perturbed",
             (Param("network", "network"),
              Param("distance", "number", doc="Euclidean length of the step, over all parameters together", low=0),
              Param("seed", "integer", 0, "which direction", low=0)),
             "A version with parameters at a distance from its own, in a random direction: the same one for all "
             "networks of an architecture. How fast the loss grows with the distance shows how flat the optimum is.",
             result="network", formula="θ + distance · v / ‖v‖, v normal",
             example="perturbed(small@alone, distance = 2)"),
        Spec("ensemble",
             (Param("first", "network"), Param("mean", "choice", "probabilities", "of what the mean is taken",
                                               choices=("probabilities", "logits")),
              Param("join", "choice", "mean", choices=("mean", "concat"),
                    doc="`concat`: no mean, but the scores of all side by side, in the data's order; of a class that "
                        "several know the largest")),
             "One network that gives the mean of what several give: softmax of its logits is the mean of their "
             "softmax, or its logits are the mean of theirs. They may differ in architecture; in their classes only "
             "with `join = concat`.",
             more=True, result="network", example="ensemble(big, small@alone)"),
        Spec("branched",
             (Param("network", "network"),
              Param("from", "name", doc="where branches begin: a module, a tap, or `inputs`"),
              Param("count", "integer", 3, "branches, the network's own among them", above=0, high=100),
              Param("gate", "gate", "gate", "the weight of each branch, from the features that they share"),
              Param("shape", "integers", doc="channels, height and width of the images")),
             "A network whose part from one point on is there several times. It gives its branches' logits, each times "
             "what the gate gives for it, summed. The first branch has the plain network's own weights, the others "
             "fresh ones.",
             result="network", example="branched(digits_net(width = 4), from = layer2, count = 2, shape = [1, 8, 8])"),
        Spec("adapted",
             (Param("network", "network"),
              Param("behind", "paths", doc="layers"),
              Param("shape", "integers", doc="channels, height and width of the images"),
              Param("entries", "any", None,
                    "a layer that gives scores, and for each of its outputs a class's number: the network then gives "
                    "each class's largest one")),
             "A network with a linear map of channels, without bias, behind each of some layers (a feature adaptation "
             "module): a 1x1 convolution, for vectors a linear layer. It begins as the identity, and is multiplied "
             "into the layer when the network is exported. `N.conv1.layer` is what the layer itself gives.",
             result="network", example="adapted(digits_net(width = 4), behind = [stem.conv], shape = [1, 8, 8])"),
        Spec("ema", (Param("network", "network"), Param("decay", "number", 0.999, low=0, high=1)),
             "A moving average of the weights of another network of the same phase: an EMA copy.",
             result="network", example="ema(small, decay = 0.99)"),
        Spec("case", (), "A record of coupled values, read with a dot.", more=True, result="record",
             example="case(first = 1, second = 2)"),
        Spec("union", (Param("first", "any", doc="class sets of one data set"),),
             "The classes of several sets, each once, in the data's order.",
             more=True, result="class set", example="union(half[0], half[1])"),
        Spec("count", (Param("things", "any", doc="a class set, a list or a family"),), "How many there are.",
             result="integer", example="count(digits.classes)"),
    )
}  # fmt: skip

SIGNALS: dict[str, str] = {
    "inputs": "images of the batch, after augmentation: float [B, C, H, W]",
    "labels": "class numbers: integer [B]",
    "indices": "positions of the samples in the data set: integer [B]",
    "targets": "boxes of the batch with their classes, for networks of the kind `detector`",
    "epoch": "epochs completed, from 0: scalar",
    "step": "optimizer steps completed, from 0: scalar",
    "progress": "fraction of the phase that is done, 0 to 1: scalar",
}

RESERVED = frozenset({*FUNCTIONS, *PLAN_FUNCTIONS, *SIGNALS, *aliases.FUNCTIONS, "self", "true", "false", "none"})
"""Names that a plan cannot give to its own declarations."""
