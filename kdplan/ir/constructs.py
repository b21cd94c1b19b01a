"""The kinds of constructs, which lower to declarations of the core, and of what stands in their bodies."""

from __future__ import annotations

from dataclasses import replace

from kdplan.ir.settings import LOSS, RECIPE, SEED, S
from kdplan.ir.spec import Kind


def _generation(name: str, doc: str, example: str) -> Kind:
    return Kind(
        name,
        doc,
        f"{name} [on DATA] [with RECIPE] {{ loss = … }}",
        example,
        clauses=("on", "with"),
        settings=(replace(LOSS, example="loss = cross_entropy(self.logits, labels)"), *RECIPE),
        inner=("def", "measure"),
        nested=True,
        named=False,
        default_name=name,
        help={word: f"Write `{word}` in `generations`, for the whole line." for word in ("init", "count", "seed")},
    )


_KA = "amalgamate ka of both from t[*] on digits with quick {"

PHASED = frozenset({"stages", "amalgamate"})
"""Kinds that lower to phases (`kdplan.constructs.phased`), and are named after `@`."""

CONSTRUCT_KINDS = (
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
        "generations",
        "A line of networks, each trained with the one before it as its teacher: one network with one phase a "
        "generation. `NAME[0]` is the patriarch, `NAME[m]` its m-th generation, `NAME[*]` all of them; what one of "
        "them is does not depend on how many there are.",
        "generations NAME[SLOTS] of MODELS [from NETWORK] on DATA with RECIPES { count = … patriarch { … } "
        "generation { … } }",
        "generations line of digits_net(width = 4) on digits with quick { count = 2  "
        "patriarch { loss = cross_entropy(self.logits, labels) }  "
        "generation { loss = kl(previous.logits, self.logits) } }",
        clauses=("of", "from", "on", "with"),
        required=("of", "on", "with"),
        settings=(
            S(
                "count",
                "integer",
                "generations after the patriarch",
                "one less than there are models after `of`",
                "count = 3",
                low=0,
            ),
            S(
                "init",
                "choice",
                "what a generation begins with: weights of its own, from the seed and its number; the same weights "
                "as every other one; or those that the generation before has learnt",
                "fresh; `same` for a network after `of`",
                "init = same",
                choices=("fresh", "same", "previous"),
            ),
            SEED,
            *RECIPE,
        ),
        inner=("patriarch", "generation", "def"),
        slots=True,
    ),
    _generation(
        "patriarch",
        "In `generations`: how the first network of a line is trained. Not there where the line begins `from` a "
        "network that exists.",
        "generations line of digits_net(width = 4) on digits with quick { count = 0  "
        "patriarch { loss = cross_entropy(self.logits, labels) } }",
    ),
    _generation(
        "generation",
        "In `generations`: how every further network is trained; `previous` is the network before it, `self` the "
        "network itself, `generation` its number.",
        "generations line of digits_net(width = 4) from big on digits with quick { count = 2  "
        "generation { loss = kl(previous.logits, self.logits) } }",
    ),
    Kind(
        "branches",
        "A network whose part from one place on is there several times, with one phase, `train`, in which its branches "
        "teach one another. `NAME.branch[0]` is one of them (the plain network, with its weights), "
        "`NAME.gated` their mean as the gate weighs them; within the body they are `branch` and `gated`.",
        "branches NAME[SLOTS] of NETWORK from PLACE on DATA with RECIPE { count = … loss = … }",
        "branches one of digits_net(width = 4) from layer2 on digits with quick { count = 2  "
        "loss = sum(cross_entropy(b.logits, labels) for b in branch) + cross_entropy(gated.logits, labels) }",
        clauses=("of", "from", "on", "with"),
        required=("of", "from", "on", "with"),
        settings=(
            S(
                "count",
                "integer",
                "how many branches there are, the network's own among them",
                "3",
                "count = 2",
                above=0,
            ),
            S(
                "gate",
                "gate",
                "what each branch counts in `gated`, of the features that the branches share: a row of the table of "
                "gates, or a module of a Python file that gives [B, count]",
                "gate",
                "gate = gate()",
            ),
            replace(
                LOSS,
                example="loss = sum(cross_entropy(b.logits, labels) for b in branch) + "
                "cross_entropy(gated.logits, labels)",
            ),
            SEED,
            *RECIPE,
        ),
        inner=("def", "measure"),
        slots=True,
    ),
    Kind(
        "amalgamate",
        "One student from teachers of different classes, without labels. For each layer an auto-encoder squeezes the "
        "teachers' features; then each layer of the student learns to go from one code to the next, and the last one "
        "to the teachers' scores; then all of them learn these scores together. One phase each, of which the former do "
        "not wait for one another. `N@NAME` is the student after the last, `N@NAME@layerwise` before it.",
        "amalgamate NAME[SLOTS] of STUDENT from TEACHERS on DATA with RECIPE { settings, codes, layerwise, joint }",
        f"{_KA} }}",
        clauses=("of", "from", "on", "with"),
        required=("of", "from", "on"),
        settings=(
            S(
                "layers",
                "paths",
                "the layers that learn one by one, which all networks have: or `auto`, all that have weights; what is "
                "between two of them learns with the second. The layer that gives the scores is always one",
                "auto",
                "layers = [stem.conv, layer1[0].conv]",
            ),
            S(
                "features",
                "choice",
                "`direct`: one auto-encoder for the features of all teachers; `incremental`: one for those of two, "
                "then one for its code and those of a third, and so on",
                "direct",
                "features = incremental",
                choices=("direct", "incremental"),
            ),
            S(
                "order",
                "integers",
                "of the teachers, counted from 0, where features are joined one after another",
                "as they stand after `from`",
                "features = incremental  order = [1, 0]",
            ),
            S(
                "adapt",
                "choice",
                "`fam`: a linear map of channels behind each of the layers, which learns with the next one; `none`: "
                "the student as it is",
                "fam",
                "adapt = none",
                choices=("fam", "none"),
            ),
            S(
                "scores",
                "choice",
                "of a class that several teachers know: `separate`, a score for each of them, of which the largest "
                "counts when the student is used; `one`, the first teacher's alone",
                "separate",
                "scores = one",
                choices=("separate", "one"),
            ),
            S(
                "match",
                "function",
                "the distance that is made small, of which half counts",
                "squared_l2",
                "match = mse",
            ),
            SEED,
            *RECIPE,
        ),
        inner=("codes", "layerwise", "joint", "def"),
        slots=True,
    ),
    *(
        Kind(
            name,
            f"In `amalgamate`: the recipe of {what}.",
            f"{name} with RECIPE {{ settings }}",
            f"{_KA}  {name} with quick {{ epochs = 2 }} }}",
            clauses=("with",),
            settings=(SEED, *RECIPE),
            inner=("def", "measure") if name == "joint" else ("def",),
            nested=True,
            named=False,
            default_name=name,
        )
        for name, what in (
            ("codes", "the auto-encoders' phases; by default that of `layerwise`"),
            ("layerwise", "the phases of single layers"),
            ("joint", "the last phase, in which all layers learn together"),
        )
    ),
    Kind(
        "ensemble",
        "One network out of several: what it gives is the mean of what they give. It has their weights and none of "
        "its own.",
        "ensemble NAME[SLOTS] of NETWORKS { settings }",
        "ensemble pair of big, small@alone",
        clauses=("of",),
        required=("of",),
        settings=(
            S(
                "mean",
                "choice",
                "of what the mean is taken: with `probabilities`, softmax of the ensemble's logits is the mean of "
                "its members' softmax",
                "probabilities",
                "mean = logits",
                choices=("probabilities", "logits"),
            ),
            S(
                "join",
                "choice",
                "`concat`: no mean, but the scores of networks over different classes side by side, in the data's "
                "order; of a class that several know, the largest",
                "mean",
                "join = mean",
                choices=("mean", "concat"),
            ),
        ),
        slots=True,
    ),
)
