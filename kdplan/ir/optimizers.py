"""Names and settings of torch's optimizers and of the schedules, without torch.

A test compares the optimizers' table with the signatures in `torch.optim`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdplan.ir.spec import REQUIRED, Param, Spec


@dataclass(frozen=True, slots=True, kw_only=True)
class ScheduleSpec(Spec):
    """A schedule of the learning rate."""

    reads_length: bool = False
    """It depends on the length of the phase: its implementation takes `total`, in epochs."""
    reads_loss: bool = False
    """It depends on the training loss so far: its implementation takes `lr`, and keeps a state."""


OPTIMIZERS: dict[str, Spec] = {
    spec.name: spec
    for spec in (
        Spec(
            "asgd",
            (
                Param("lr", "number", 0.01, low=0),
                Param("lambd", "number", 0.0001),
                Param("alpha", "number", 0.75),
                Param("t0", "number", 1000000.0),
                Param("weight_decay", "number", 0, low=0),
                Param("maximize", "boolean", False),
            ),
            "Averaged SGD.",
            implementation="torch.optim:ASGD",
        ),
        Spec(
            "adadelta",
            (
                Param("lr", "number", 1.0, low=0),
                Param("rho", "number", 0.9, low=0),
                Param("eps", "number", 1e-06, low=0),
                Param("weight_decay", "number", 0, low=0),
                Param("maximize", "boolean", False),
            ),
            "Adadelta.",
            implementation="torch.optim:Adadelta",
        ),
        Spec(
            "adafactor",
            (
                Param("lr", "number", 0.01, low=0),
                Param("beta2_decay", "number", -0.8),
                Param("eps", "numbers", (None, 0.001), low=0),
                Param("d", "number", 1.0),
                Param("weight_decay", "number", 0.0, low=0),
                Param("maximize", "boolean", False),
            ),
            "Adafactor.",
            implementation="torch.optim:Adafactor",
        ),
        Spec(
            "adagrad",
            (
                Param("lr", "number", 0.01, low=0),
                Param("lr_decay", "number", 0, low=0),
                Param("weight_decay", "number", 0, low=0),
                Param("initial_accumulator_value", "number", 0, low=0),
                Param("eps", "number", 1e-10, low=0),
                Param("maximize", "boolean", False),
            ),
            "Adagrad.",
            implementation="torch.optim:Adagrad",
        ),
        Spec(
            "adam",
            (
                Param("lr", "number", 0.001, low=0),
                Param("betas", "numbers", (0.9, 0.999)),
                Param("eps", "number", 1e-08, low=0),
                Param("weight_decay", "number", 0, low=0),
                Param("amsgrad", "boolean", False),
                Param("maximize", "boolean", False),
                Param("decoupled_weight_decay", "boolean", False),
            ),
            "Adam.",
            implementation="torch.optim:Adam",
            version=2,
        ),
        Spec(
            "adamw",
            (
                Param("lr", "number", 0.001, low=0),
                Param("betas", "numbers", (0.9, 0.999)),
                Param("eps", "number", 1e-08, low=0),
                Param("weight_decay", "number", 0.01, low=0),
                Param("amsgrad", "boolean", False),
                Param("maximize", "boolean", False),
            ),
            "Adam with decoupled weight decay.",
            implementation="torch.optim:AdamW",
            version=2,
        ),
        Spec(
            "adamax",
            (
                Param("lr", "number", 0.002, low=0),
                Param("betas", "numbers", (0.9, 0.999)),
                Param("eps", "number", 1e-08, low=0),
                Param("weight_decay", "number", 0, low=0),
                Param("maximize", "boolean", False),
            ),
            "Adam with the infinity norm.",
            implementation="torch.optim:Adamax",
        ),
        Spec(
            "muon",
            (
                Param("lr", "number", 0.001, low=0),
                Param("weight_decay", "number", 0.1, low=0),
                Param("momentum", "number", 0.95, low=0),
                Param("nesterov", "boolean", True),
                Param("ns_coefficients", "numbers", (3.4445, -4.775, 2.0315)),
                Param("eps", "number", 1e-07, low=0),
                Param("ns_steps", "integer", 5),
                Param("adjust_lr_fn", "string", None),
            ),
            "Muon, for matrices only.",
            implementation="torch.optim:Muon",
        ),
        Spec(
            "nadam",
            (
                Param("lr", "number", 0.002, low=0),
                Param("betas", "numbers", (0.9, 0.999)),
                Param("eps", "number", 1e-08, low=0),
                Param("weight_decay", "number", 0, low=0),
                Param("momentum_decay", "number", 0.004, low=0),
                Param("decoupled_weight_decay", "boolean", False),
                Param("maximize", "boolean", False),
            ),
            "Adam with Nesterov momentum.",
            implementation="torch.optim:NAdam",
        ),
        Spec(
            "radam",
            (
                Param("lr", "number", 0.001, low=0),
                Param("betas", "numbers", (0.9, 0.999)),
                Param("eps", "number", 1e-08, low=0),
                Param("weight_decay", "number", 0, low=0),
                Param("decoupled_weight_decay", "boolean", False),
                Param("maximize", "boolean", False),
            ),
            "Rectified Adam.",
            implementation="torch.optim:RAdam",
        ),
        Spec(
            "rmsprop",
            (
                Param("lr", "number", 0.01, low=0),
                Param("alpha", "number", 0.99),
                Param("eps", "number", 1e-08, low=0),
                Param("weight_decay", "number", 0, low=0),
                Param("momentum", "number", 0, low=0),
                Param("centered", "boolean", False),
                Param("maximize", "boolean", False),
            ),
            "RMSprop.",
            implementation="torch.optim:RMSprop",
        ),
        Spec(
            "rprop",
            (
                Param("lr", "number", 0.01, low=0),
                Param("etas", "numbers", (0.5, 1.2)),
                Param("step_sizes", "numbers", (1e-06, 50)),
                Param("maximize", "boolean", False),
            ),
            "Resilient propagation, for full batches.",
            implementation="torch.optim:Rprop",
        ),
        Spec(
            "sgd",
            (
                Param("lr", "number", 0.001, low=0),
                Param("momentum", "number", 0, low=0),
                Param("dampening", "number", 0),
                Param("weight_decay", "number", 0, low=0),
                Param("nesterov", "boolean", False),
                Param("maximize", "boolean", False),
            ),
            "Stochastic gradient descent, with momentum on request.",
            implementation="torch.optim:SGD",
            version=2,
        ),
        Spec(
            "sparseadam",
            (
                Param("lr", "number", 0.001, low=0),
                Param("betas", "numbers", (0.9, 0.999)),
                Param("eps", "number", 1e-08, low=0),
                Param("maximize", "boolean", False),
            ),
            "Adam for sparse gradients.",
            implementation="torch.optim:SparseAdam",
        ),
    )
}
"""Lower-case name -> optimizer of `torch.optim`, with the settings that change what it computes.

Settings that only choose how it computes (`foreach`, `fused`, `capturable`) are the runtime's. L-BFGS is missing: it
calls the loss several times a step.
"""

FUSED = frozenset({"adam", "adamw", "sgd"})
"""Optimizers that a GPU computes in few kernels, which take the learning rate as a tensor."""
CAPTURABLE = frozenset({"adadelta", "adam", "adamax", "adamw", "asgd", "nadam", "radam", "rmsprop", "rprop"})
"""Those with a form of which all that depends on the step is on the device."""
GRAPHED = FUSED | CAPTURABLE
"""Those of which a CUDA graph can repeat a step."""


SCHEDULES: dict[str, ScheduleSpec] = {
    spec.name: spec
    for spec in (
        ScheduleSpec("constant", (), "The learning rate as it is.", implementation="kdplan.nn.schedules:Schedule"),
        ScheduleSpec(
            "steps",
            (
                Param("at", "numbers", REQUIRED, "epochs, counted from the start of the phase"),
                Param("factor", "number", 0.1, "what it is multiplied by", low=0),
            ),
            "Multiplies the learning rate by `factor` after each of the epochs `at`.",
            implementation="kdplan.nn.schedules:Steps",
        ),
        ScheduleSpec(
            "cosine",
            (
                Param("cycles", "integer", 1, "equal parts, each from the full rate down", low=1),
                Param("final", "number", 0.0, "share of the learning rate at the end of a cycle", low=0),
            ),
            "Falls along half a cosine; with several cycles it starts anew in each.",
            implementation="kdplan.nn.schedules:Cosine",
            reads_length=True,
        ),
        ScheduleSpec(
            "polynomial",
            (
                Param("power", "number", 1.0, "1 is a straight line"),
                Param("final", "number", 0.0, "share of the learning rate at the end", low=0),
            ),
            "Falls as (1 - progress) ** power.",
            implementation="kdplan.nn.schedules:Polynomial",
            reads_length=True,
        ),
        ScheduleSpec(
            "linear",
            (Param("final", "number", 0.0, "share of the learning rate at the end", low=0),),
            "Falls along a straight line.",
            implementation="kdplan.nn.schedules:Polynomial",
            reads_length=True,
        ),
        ScheduleSpec(
            "plateau",
            (
                Param("factor", "number", 0.1, "what it is multiplied by", low=0),
                Param("patience", "integer", 5, "epochs without progress before that", low=0),
                Param("until", "number", None, "learning rate at which the phase ends; left out: never"),
                Param("min_delta", "number", 1e-4, "relative fall of the loss that counts as progress", low=0),
                Param(
                    "smoothing",
                    "number",
                    0.0,
                    "share of the past in a moving average of the loss; 0 is the loss itself",
                ),
            ),
            "Multiplies the learning rate by `factor` when the training loss has stopped falling; "
            "ends the phase when it would be `until` or less.",
            implementation="kdplan.nn.schedules:Plateau",
            reads_loss=True,
        ),
    )
}
"""Name -> schedule. Linear warm-up is the recipe's setting `warmup`, and goes with each of them."""
