"""The functions of loss expressions: the table that checker, graph builder and reference share.

A function's code stands in `kdplan.nn.losses` (or where `implementation` says) under the same name with the same
parameters; a test compares the two.
"""

from __future__ import annotations

from kdplan.ir.spec import Param, Spec

_T = Param("temperature", "number", 1.0, "softens both distributions", above=0)


def _signal(name: str, doc: str = "") -> Param:
    return Param(name, "signal", doc=doc)


def _math(name: str, doc: str) -> Spec:
    return Spec(name, (_signal("x", "any shape"),), doc, result="like x", example=f"{name}(small.logits)")


LOSSES = (
    Spec(
        "cross_entropy",
        (
            _signal("logits", "logits [B, C]"),
            _signal("labels", "labels [B] or probabilities [B, C]"),
            Param("smoothing", "number", 0.0, "weight of the uniform distribution", low=0, high=1),
        ),
        "Cross-entropy of softmax(logits) against labels, mean over the batch.",
        result="scalar",
        formula="-(1/B) sum_i log softmax(x_i)[y_i]",
        example="cross_entropy(small.logits, labels)",
    ),
    Spec(
        "sigmoid_cross_entropy",
        (_signal("logits", "logits [B, C]"), _signal("targets", "labels [B] or probabilities [B, C]")),
        "Binary cross-entropy of every class, summed over classes, mean over the batch.",
        result="scalar",
        formula="-(1/B) sum_i sum_j z_ij log s(x_ij) + (1 - z_ij) log(1 - s(x_ij))",
        source="Gao, Li, Nevatia 2017, Eq. 1",
        example="sigmoid_cross_entropy(small.logits, labels)",
    ),
    Spec(
        "kl",
        (_signal("teacher", "logits or probabilities [B, C]"), _signal("student", "logits [B, C]"), _T),
        "Kullback-Leibler divergence from the teacher's distribution to the student's, summed over classes, mean over "
        "the batch; no factor T^2.",
        result="scalar",
        formula="(1/B) sum_i sum_j p_ij (log p_ij - log q_ij), p = softmax(teacher/T), q = softmax(student/T)",
        example="kl(big.logits, small.logits)",
    ),
    Spec(
        "kd",
        (_signal("teacher", "logits [B, C]"), _signal("student", "logits [B, C]"), _T),
        "T^2 times kl: gradients keep their size when the temperature changes.",
        result="scalar",
        formula="T^2 kl(teacher, student, temperature = T)",
        source="Hinton, Vinyals, Dean 2015",
        example="kd(big.logits, small.logits, temperature = 4)",
    ),
    Spec(
        "squared_l2",
        (_signal("a", "[B, ...]"), _signal("b", "the same shape")),
        "Squared distance, summed over everything but the batch, mean over the batch.",
        result="scalar",
        formula="(1/B) sum_i ||a_i - b_i||^2",
        source="Gao et al., stage by stage, Eq. 6",
        example="squared_l2(fit(small.layer2, like = big.layer2), big.layer2)",
    ),
    Spec(
        "mse",
        (_signal("a", "any shape"), _signal("b", "the same shape")),
        "Mean squared difference over all elements.",
        result="scalar",
        formula="mean((a - b)^2)",
        example="mse(fit(small.layer2, like = big.layer2), big.layer2)",
    ),
    Spec(
        "cosine",
        (_signal("a", "[B, ...]"), _signal("b", "the same shape")),
        "One minus the cosine of the angle between the flattened samples, mean over the batch.",
        result="scalar",
        formula="(1/B) sum_i 1 - <a_i, b_i> / (||a_i|| ||b_i||)",
        example="cosine(small.features, small.features)",
    ),
    Spec(
        "entropy",
        (_signal("probabilities", "probabilities [B, C]"),),
        "Entropy of each sample's distribution, mean over the batch.",
        result="scalar",
        formula="-(1/B) sum_i sum_j p_ij log p_ij",
        example="entropy(softmax(small.logits))",
    ),
)

SHAPING = (
    Spec(
        "fit",
        (_signal("x"), Param("like", "signal", doc="what it is fitted to")),
        "x with the channels and the size of `like`: a trainable 1x1 convolution (a linear layer for vectors) where "
        "channels differ, bilinear resizing where sizes differ, x itself where nothing differs. The adapter lives and "
        "dies with the phase.",
        result="shaped as like",
        example="mse(fit(small.layer2, like = big.layer2), big.layer2)",
        implementation="splice",
    ),
    Spec(
        "conv1x1",
        (_signal("x", "[B, C, H, W]"), Param("channels", "integer", doc="output channels", low=1)),
        "A trainable 1x1 convolution that lives and dies with the phase.",
        result="[B, channels, H, W]",
        example="mean(conv1x1(small.layer2, channels = 8))",
        implementation="splice",
    ),
    Spec(
        "linear",
        (_signal("x", "[B, D]"), Param("features", "integer", doc="output features", low=1)),
        "A trainable linear layer that lives and dies with the phase.",
        result="[B, features]",
        example="mean(linear(small.features, features = 8))",
        implementation="splice",
    ),
    Spec(
        "resize",
        (_signal("x", "[B, C, H, W]"), Param("size", "integer", doc="height and width", low=1)),
        "Bilinear resizing of a map.",
        result="[B, C, size, size]",
        example="mean(resize(small.layer2, size = 4))",
    ),
    Spec(
        "concat",
        (_signal("first"),),
        "Joins signals along channels or classes (dimension 1).",
        more=True,
        result="[B, sum of C, ...]",
        example="mean(concat(small.layer1, small.layer1))",
    ),
    Spec(
        "pool",
        (_signal("x", "[B, C, H, W]"),),
        "Mean over height and width.",
        result="[B, C]",
        example="mean(pool(small.layer2))",
    ),
    Spec(
        "flatten",
        (_signal("x", "[B, ...]"),),
        "One vector a sample.",
        result="[B, D]",
        example="mean(flatten(small.layer2))",
    ),
    Spec(
        "normalize",
        (_signal("x", "[B, ...]"),),
        "Each sample divided by its L2 norm (over dimension 1).",
        result="like x",
        example="mean(normalize(small.features))",
    ),
    Spec(
        "softmax",
        (_signal("logits", "[B, C]"), _T),
        "Probabilities of logits.",
        result="probabilities [B, C]",
        example="entropy(softmax(small.logits))",
    ),
    Spec(
        "log_softmax",
        (_signal("logits", "[B, C]"), _T),
        "Logarithm of softmax.",
        result="[B, C]",
        example="mean(log_softmax(small.logits))",
    ),
    Spec("sigmoid", (_signal("x"),), "1 / (1 + exp(-x)).", result="like x", example="mean(sigmoid(small.logits))"),
    Spec(
        "onehot",
        (_signal("labels", "[B]"), Param("classes", "classes", doc="how many, or a class set")),
        "Indicator vectors of labels.",
        result="probabilities [B, C]",
        example="cross_entropy(small.logits, onehot(labels, classes = 10))",
    ),
    Spec(
        "uniform",
        (Param("classes", "classes", doc="how many, or a class set"),),
        "The uniform distribution, as one row that broadcasts over the batch.",
        result="probabilities [1, C]",
        example="kl(uniform(10), small.logits)",
    ),
)

GRADIENT = (
    Spec("detach", (_signal("x"),), "x, without gradient.", result="like x",
         example="kl(detach(small.logits), small.logits)"),
    Spec("reverse", (_signal("x"), Param("weight", "number", 1.0, "factor of the reversed gradient")),
         "x, whose gradient changes sign.", result="like x", source="Ganin, Lempitsky 2015",
         example="mean(reverse(small.features))"),
)  # fmt: skip

MATH = (
    _math("exp", "Elementwise exponential."),
    _math("log", "Elementwise natural logarithm."),
    _math("sqrt", "Elementwise square root."),
    _math("abs", "Elementwise absolute value."),
    Spec("mean", (_signal("x"),), "Mean over all elements.", result="scalar", example="mean(small.logits)"),
    Spec("sum", (_signal("first"),), "Of one signal: sum over all elements. Of several, or of a comprehension or list: "
         "their sum.", more=True, result="scalar, or like the terms",
         example="sum(w * cross_entropy(small.logits, labels) for w in [1, 2])"),
    Spec("min", (_signal("first"),), "Of one signal: its smallest element. Of several: elementwise minimum.", more=True,
         result="scalar, or like the arguments", example="min(epoch / 80, 1) * mean(small.logits)"),
    Spec("max", (_signal("first"),), "Of one signal: its largest element. Of several: elementwise maximum.", more=True,
         result="scalar, or like the arguments", example="max(progress, 0.5) * mean(small.logits)"),
    Spec("clamp", (_signal("x"), Param("low", "number"), Param("high", "number")), "x, kept between low and high.",
         result="like x", example="clamp(progress, low = 0, high = 1) * mean(small.logits)"),
)  # fmt: skip

FUNCTIONS: dict[str, Spec] = {spec.name: spec for spec in (*LOSSES, *SHAPING, *GRADIENT, *MATH)}

PLAN_FUNCTIONS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec("fold", (Param("seed", "integer"), Param("value", "any", doc="numbers or texts")),
             "A new seed from a seed and values: a hash, since sums collide across swept seeds.", more=True,
             result="integer", example="fold(seed, 1)"),
        Spec("upto", (Param("tap", "network"), Param("from", "name", None, "taps where the moving part begins")),
             "In `of`: the parameters that taps depend on.", more=True, result="network part",
             example="upto(small.layer2)"),
        Spec("merge", (Param("first", "network"),), "One network whose parts were trained apart: each parameter from "
             "the version whose phase moved it.", more=True, result="network", example="merge(small@low, small@high)"),
        Spec("average", (Param("first", "network"),), "The mean of several versions' weights.", more=True,
             result="network", example="average(small@alone, small@again)"),
        Spec("ema", (Param("network", "network"), Param("decay", "number", 0.999, low=0, high=1)),
             "A network that follows another one of the same phase as a moving average of its weights.",
             result="network", example="ema(small, decay = 0.99)"),
        Spec("case", (), "A record of coupled values, read with a dot.", more=True, result="record",
             example="case(first = 1, second = 2)"),
        Spec("count", (Param("things", "any", doc="a class set, a list or a family"),), "How many there are.",
             result="integer", example="count(digits.classes)"),
    )
}  # fmt: skip

SIGNALS: dict[str, str] = {
    "inputs": "images of the batch, after augmentation: float [B, C, H, W]",
    "labels": "class numbers: integer [B]",
    "indices": "positions of the samples in the data set: integer [B]",
    "targets": "what detection networks are trained on",
    "epoch": "epochs completed, from 0: scalar",
    "step": "optimizer steps completed, from 0: scalar",
    "progress": "fraction of the phase that is done, 0 to 1: scalar",
}

RESERVED = frozenset({*FUNCTIONS, *PLAN_FUNCTIONS, *SIGNALS, "self", "true", "false", "none"})
"""Names that a plan cannot give to its own declarations."""
