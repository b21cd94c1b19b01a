"""What heads and branches can be made of, without torch: layers between features and logits, logit scaling, gates.

`kdplan.nn.heads` and `kdplan.nn.gates` have the code.
"""

from __future__ import annotations

from kdplan.ir.spec import Param, Spec

_BY = Param("by", "verticals", doc="verticals of the network's classes")

LAYERS = {
    spec.name: spec
    for spec in (
        Spec("fc", (Param("size", "integer", doc="units", low=1),), "Fully connected: every class reads every unit."),
        Spec("sc",
             (Param("size", "integer", doc="units that a vertical's classes read", low=1), _BY,
              Param("shared", "integer", 0, "how many of them all verticals share, at most `size`", low=0)),
             "Structurally connected: every vertical has units of its own, and no weights lead to those of others."),
    )
}  # fmt: skip

LOGIT_SCALES = {
    spec.name: spec
    for spec in (
        Spec("self_paced",
             (_BY,
              Param("each", "choice", "part", "one factor for each vertical, or for each class",
                    choices=("part", "class")),
              Param("train", "boolean", True, "false keeps the factors as they start"),
              Param("start", "number", None, "by default the root of the number of the vertical's classes", above=0),
              Param("noise", "number", 1e-3, "standard deviation of what is added to the start of trained factors",
                    low=0)),
             "Logits of each vertical at a length of their own: divided by their Euclidean length and multiplied by a "
             "factor, which says how fast these classes learn.",
             implementation="kdplan.nn.heads:SelfPaced"),
    )
}  # fmt: skip

GATES = {
    spec.name: spec
    for spec in (
        Spec("gate", (), "Learnt from the features that the branches share: "
                         "softmax(relu(bn(fc(mean over positions)))).",
             source="ONE (Lan, Zhu, Gong, NeurIPS 2018)"),
        Spec("mean", (), "The same weight for every branch."),
    )
}  # fmt: skip
