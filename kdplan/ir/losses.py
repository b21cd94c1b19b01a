"""The losses that a plan can name; each row says where its code stands. A new loss is its function and a row here.

What compares two networks takes the student first, as `cross_entropy(logits, labels)` has what learns before what it
learns from. Where the order makes a difference, the parameters are called `student` and `teacher`.
"""

from __future__ import annotations

from kdplan.ir.spec import Param, Spec

TEMPERATURE = Param("temperature", "number", 1.0, "softens both distributions", above=0)


def signal(name: str, doc: str = "", *roles: str) -> Param:
    """A signal; of a function over classes with the roles that it may have."""
    return Param(name, "signal", doc=doc, roles=roles)


def _convention(doc: str, *choices: str) -> Param:
    """The first is the canonical one; the others are what public implementations of the same name compute."""
    return Param("convention", "choice", choices[0], doc, choices=choices)


_OVER_CLASSES = _convention("sum over classes, or mean over them", "sum", "mean")


LOSSES = (
    Spec(
        "cross_entropy",
        (
            signal("logits", "logits [B, C]", "logits"),
            signal("labels", "labels [B] or probabilities [B, C]", "labels", "probabilities"),
            Param("smoothing", "number", 0.0, "weight of the uniform distribution", low=0, high=1),
        ),
        "Cross-entropy of softmax(logits) against labels, mean over the batch.",
        result="scalar",
        formula="-(1/B) sum_i log softmax(x_i)[y_i]",
        example="cross_entropy(small.logits, labels)",
        over_classes=True,
        activation="softmax",
        sparse=True,
        implementation="kdplan.nn.losses:cross_entropy",
    ),
    Spec(
        "sigmoid_cross_entropy",
        (
            signal("logits", "logits [B, C]", "logits"),
            signal("targets", "labels [B] or probabilities [B, C]", "labels", "probabilities"),
        ),
        "Binary cross-entropy of every class, summed over classes, mean over the batch.",
        result="scalar",
        formula="-(1/B) sum_i sum_j z_ij log s(x_ij) + (1 - z_ij) log(1 - s(x_ij))",
        source="Gao, Li, Nevatia 2017, Eq. 1",
        example="sigmoid_cross_entropy(small.logits, labels)",
        over_classes=True,
        activation="sigmoid",
        sparse=True,
        implementation="kdplan.nn.losses:sigmoid_cross_entropy",
    ),
    Spec(
        "kl",
        (
            signal("student", "logits [B, C]", "logits", "probabilities"),
            signal("teacher", "logits or probabilities [B, C]", "logits", "probabilities"),
            TEMPERATURE,
            _OVER_CLASSES,
        ),
        "Kullback-Leibler divergence from the teacher's distribution to the student's, summed over classes, mean over "
        "the batch; no factor T^2. `mean` is C times smaller.",
        result="scalar",
        formula="(1/B) sum_i sum_j p_ij (log p_ij - log q_ij), p = softmax(teacher/T), q = softmax(student/T)",
        example="kl(small.logits, big.logits)",
        over_classes=True,
        distributions=True,
        keyed=("teacher", "student"),
        implementation="kdplan.nn.losses:kl",
    ),
    Spec(
        "kd",
        (
            signal("student", "logits [B, C]", "logits"),
            signal("teacher", "logits [B, C]", "logits"),
            TEMPERATURE,
            _OVER_CLASSES,
        ),
        "T^2 times kl: gradients keep their size when the temperature changes. Without T^2 it is `kl`.",
        result="scalar",
        formula="T^2 kl(student, teacher, temperature = T)",
        source="Hinton, Vinyals, Dean 2015",
        example="kd(small.logits, big.logits, temperature = 4)",
        over_classes=True,
        distributions=True,
        keyed=("teacher", "student"),
        implementation="kdplan.nn.losses:kd",
    ),
    Spec(
        "squared_l2",
        (
            signal("a", "[B, ...]"),
            signal("b", "the same shape"),
            Param("per", "choice", "sample", "what the distance is a mean over", choices=("sample", "place")),
        ),
        "Squared distance. Of a sample: summed over everything but the batch. Of a position: summed over channels, "
        "mean over height and width too, so that it does not grow with the map. `mse` is the mean over all elements.",
        result="scalar",
        formula="sample: (1/B) sum_i ||a_i - b_i||^2; place: (1/(B H W)) sum_ixy ||a_ixy - b_ixy||^2",
        source="Gao et al., stage by stage, Eq. 6",
        example="squared_l2(fit(small.layer2, like = big.layer2), big.layer2)",
        alike={"": "shape"},
        implementation="kdplan.nn.losses:squared_l2",
    ),
    Spec(
        "mse",
        (signal("a", "any shape"), signal("b", "the same shape")),
        "Mean squared difference over all elements.",
        result="scalar",
        formula="mean((a - b)^2)",
        example="mse(fit(small.layer2, like = big.layer2), big.layer2)",
        alike={"": "shape"},
        implementation="kdplan.nn.losses:mse",
    ),
    Spec(
        "cosine",
        (signal("a", "[B, ...]"), signal("b", "the same shape")),
        "One minus the cosine of the angle between the flattened samples, mean over the batch.",
        result="scalar",
        formula="(1/B) sum_i 1 - <a_i, b_i> / (||a_i|| ||b_i||)",
        example="cosine(small.features, small.features)",
        alike={"": "shape"},
        implementation="kdplan.nn.losses:cosine",
    ),
    Spec(
        "entropy",
        (signal("probabilities", "probabilities [B, C]"),),
        "Entropy of each sample's distribution, mean over the batch.",
        result="scalar",
        formula="-(1/B) sum_i sum_j p_ij log p_ij",
        example="entropy(softmax(small.logits))",
        implementation="kdplan.nn.losses:entropy",
    ),
    Spec(
        "attention",
        (
            signal("student", "[B, C, H, W]"),
            signal("teacher", "[B, C', H, W]"),
            _convention("mean of squares over positions, or length of the difference", "code", "paper"),
        ),
        "Distance of attention maps: the mean over channels of the squared features, as a vector of length 1. Channels "
        "may differ. The authors' program (`code`) takes the mean over positions, their paper the length, about 100 "
        "times larger.",
        result="scalar",
        formula="code: mean_ixy (q_s - q_t)^2; paper: (1/B) sum_i ||q_s - q_t||; q = v / ||v||, v = mean_c f_c^2",
        source="Zagoruyko, Komodakis 2017",
        example="attention(resize(small.layer1, size = 2), big.layer2, convention = paper)",
        alike={"code": "size", "paper": "size"},
        implementation="kdplan.nn.distillation:attention",
    ),
    Spec(
        "nst",
        (
            signal("student", "[B, C, H, W]"),
            signal("teacher", "[B, C', H, W]"),
            _convention("discrepancy of the channels, or squared error of their inner products", "mmd", "gram"),
        ),
        "Neuron selectivity transfer: squared maximum mean discrepancy between the channels of both sides, each a "
        "vector of length 1 over positions, with the kernel <a, b>^2. Channels may differ. `gram` is the mean squared "
        "difference of both Gram matrices of channels, which must then agree.",
        result="scalar",
        formula="mmd: mean_cd <s_c, s_d>^2 + mean_cd <t_c, t_d>^2 - 2 mean_cd <s_c, t_d>^2; "
        "gram: mean_cd (<s_c, s_d> - <t_c, t_d>)^2; both (1/B) sum_i",
        source="Huang, Wang 2017",
        example="nst(small.layer2, big.layer2)",
        alike={"mmd": "size", "gram": "shape"},
        implementation="kdplan.nn.distillation:nst",
    ),
    Spec(
        "fsp",
        (
            signal("student_from", "[B, C, H, W]"),
            signal("student_to", "[B, D, H', W']"),
            signal("teacher_from", "[B, C, ...]"),
            signal("teacher_to", "[B, D, ...]"),
            _convention("mean squared error, or sum of the lengths of columns", "mse", "norms"),
        ),
        "Flow of solution procedure: compares the mean over positions of the products of every channel of one layer "
        "with every channel of another. Of two sizes, the larger is averaged down (`norms`: max-pooled). Both sides' "
        "channels must agree. `norms` is thousands of times larger.",
        result="scalar",
        formula="mse: (1/B) sum_i mean_cd (G_s - G_t)_cd^2; norms: (1/B) sum_i sum_d ||(G_s - G_t)_d||; "
        "G_cd = mean_xy f_c(x, y) g_d(x, y)",
        source="Yim, Joo, Bae, Kim 2017",
        example="fsp(fit(small.stem, like = big.stem), fit(small.layer2, like = big.layer2), big.stem, big.layer2)",
        alike={"mse": "channels", "norms": "channels"},
        implementation="kdplan.nn.distillation:fsp",
    ),
    Spec(
        "top_score_difference",
        (
            signal("logits", "logits [B, C]", "logits"),
            signal("labels", "labels [B]", "labels"),
            Param("k", "integer", 5, "how many scores are compared", low=2, at_most_classes=True),
            Param("u", "number", None, "the first score at which the loss is least; 1 is plain cross-entropy", 0, 1),
            Param("eta", "number", None, "instead of u: weight of the cross-entropy", 0, 1),
        ),
        "Cross-entropy that tolerates high second scores: the first score is kept from rising far above the mean of "
        "the next ones. f are a sample's softmax scores in falling order.",
        result="scalar",
        formula="(1/B) sum_i eta CE_i + (1 - eta) (f_1 - mean(f_2 .. f_k)), eta = u k / (k - 1 + u k)",
        source="Yang, Xie, Qiao, Yuille 2019, Eq. 3",
        example="top_score_difference(small.logits, labels, u = 0.6)",
        over_classes=True,
        one_of=("u", "eta"),
        implementation="kdplan.nn.distillation:top_score_difference",
    ),
    Spec(
        "confidence_penalty",
        (signal("logits", "logits [B, C]"),),
        "Minus the entropy of softmax(logits), mean over the batch: added to a loss it keeps scores from certainty.",
        result="scalar",
        formula="(1/B) sum_i sum_j p_ij log p_ij",
        source="Pereyra et al. 2017",
        example="0.1 * confidence_penalty(small.logits)",
        implementation="kdplan.nn.distillation:confidence_penalty",
    ),
)
