"""Names and settings of torch's optimizers and of the schedules, without torch.

A test holds the optimizers' table equal to the signatures in `torch.optim`.
"""

from __future__ import annotations

from dataclasses import dataclass

from kdplan.ir.spec import REQUIRED, Param


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """An optimizer: class `torch_name` of `torch.optim`, with the settings that change what it computes.

    Settings that only choose an implementation (`foreach`, `fused`, `capturable`) are the runtime's.
    """

    torch_name: str
    doc: str
    settings: dict[str, Param]


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule of the learning rate; `total` if it depends on the phase's length, `stateful` if on its losses."""

    name: str
    doc: str
    settings: dict[str, Param]
    total: bool = False
    stateful: bool = False


def _settings(*rows: Param) -> dict[str, Param]:
    return {row.name: row for row in rows}


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "asgd": OptimizerSpec(
        "ASGD",
        "Averaged SGD.",
        _settings(
            Param("lr", "number", 0.01, low=0),
            Param("lambd", "number", 0.0001),
            Param("alpha", "number", 0.75),
            Param("t0", "number", 1000000.0),
            Param("weight_decay", "number", 0, low=0),
            Param("maximize", "flag", False),
        ),
    ),
    "adadelta": OptimizerSpec(
        "Adadelta",
        "Adadelta.",
        _settings(
            Param("lr", "number", 1.0, low=0),
            Param("rho", "number", 0.9, low=0),
            Param("eps", "number", 1e-06, low=0),
            Param("weight_decay", "number", 0, low=0),
            Param("maximize", "flag", False),
        ),
    ),
    "adafactor": OptimizerSpec(
        "Adafactor",
        "Adafactor.",
        _settings(
            Param("lr", "number", 0.01, low=0),
            Param("beta2_decay", "number", -0.8),
            Param("eps", "numbers", (None, 0.001), low=0),
            Param("d", "number", 1.0),
            Param("weight_decay", "number", 0.0, low=0),
            Param("maximize", "flag", False),
        ),
    ),
    "adagrad": OptimizerSpec(
        "Adagrad",
        "Adagrad.",
        _settings(
            Param("lr", "number", 0.01, low=0),
            Param("lr_decay", "number", 0, low=0),
            Param("weight_decay", "number", 0, low=0),
            Param("initial_accumulator_value", "number", 0, low=0),
            Param("eps", "number", 1e-10, low=0),
            Param("maximize", "flag", False),
        ),
    ),
    "adam": OptimizerSpec(
        "Adam",
        "Adam.",
        _settings(
            Param("lr", "number", 0.001, low=0),
            Param("betas", "numbers", (0.9, 0.999)),
            Param("eps", "number", 1e-08, low=0),
            Param("weight_decay", "number", 0, low=0),
            Param("amsgrad", "flag", False),
            Param("maximize", "flag", False),
            Param("decoupled_weight_decay", "flag", False),
        ),
    ),
    "adamw": OptimizerSpec(
        "AdamW",
        "Adam with decoupled weight decay.",
        _settings(
            Param("lr", "number", 0.001, low=0),
            Param("betas", "numbers", (0.9, 0.999)),
            Param("eps", "number", 1e-08, low=0),
            Param("weight_decay", "number", 0.01, low=0),
            Param("amsgrad", "flag", False),
            Param("maximize", "flag", False),
        ),
    ),
    "adamax": OptimizerSpec(
        "Adamax",
        "Adam with the infinity norm.",
        _settings(
            Param("lr", "number", 0.002, low=0),
            Param("betas", "numbers", (0.9, 0.999)),
            Param("eps", "number", 1e-08, low=0),
            Param("weight_decay", "number", 0, low=0),
            Param("maximize", "flag", False),
        ),
    ),
    "muon": OptimizerSpec(
        "Muon",
        "Muon, for matrices only.",
        _settings(
            Param("lr", "number", 0.001, low=0),
            Param("weight_decay", "number", 0.1, low=0),
            Param("momentum", "number", 0.95, low=0),
            Param("nesterov", "flag", True),
            Param("ns_coefficients", "numbers", (3.4445, -4.775, 2.0315)),
            Param("eps", "number", 1e-07, low=0),
            Param("ns_steps", "integer", 5),
            Param("adjust_lr_fn", "text", None),
        ),
    ),
    "nadam": OptimizerSpec(
        "NAdam",
        "Adam with Nesterov momentum.",
        _settings(
            Param("lr", "number", 0.002, low=0),
            Param("betas", "numbers", (0.9, 0.999)),
            Param("eps", "number", 1e-08, low=0),
            Param("weight_decay", "number", 0, low=0),
            Param("momentum_decay", "number", 0.004, low=0),
            Param("decoupled_weight_decay", "flag", False),
            Param("maximize", "flag", False),
        ),
    ),
    "radam": OptimizerSpec(
        "RAdam",
        "Rectified Adam.",
        _settings(
            Param("lr", "number", 0.001, low=0),
            Param("betas", "numbers", (0.9, 0.999)),
            Param("eps", "number", 1e-08, low=0),
            Param("weight_decay", "number", 0, low=0),
            Param("decoupled_weight_decay", "flag", False),
            Param("maximize", "flag", False),
        ),
    ),
    "rmsprop": OptimizerSpec(
        "RMSprop",
        "RMSprop.",
        _settings(
            Param("lr", "number", 0.01, low=0),
            Param("alpha", "number", 0.99),
            Param("eps", "number", 1e-08, low=0),
            Param("weight_decay", "number", 0, low=0),
            Param("momentum", "number", 0, low=0),
            Param("centered", "flag", False),
            Param("maximize", "flag", False),
        ),
    ),
    "rprop": OptimizerSpec(
        "Rprop",
        "Resilient propagation, for full batches.",
        _settings(
            Param("lr", "number", 0.01, low=0),
            Param("etas", "numbers", (0.5, 1.2)),
            Param("step_sizes", "numbers", (1e-06, 50)),
            Param("maximize", "flag", False),
        ),
    ),
    "sgd": OptimizerSpec(
        "SGD",
        "Stochastic gradient descent, with momentum on request.",
        _settings(
            Param("lr", "number", 0.001, low=0),
            Param("momentum", "number", 0, low=0),
            Param("dampening", "number", 0),
            Param("weight_decay", "number", 0, low=0),
            Param("nesterov", "flag", False),
            Param("maximize", "flag", False),
        ),
    ),
    "sparseadam": OptimizerSpec(
        "SparseAdam",
        "Adam for sparse gradients.",
        _settings(
            Param("lr", "number", 0.001, low=0),
            Param("betas", "numbers", (0.9, 0.999)),
            Param("eps", "number", 1e-08, low=0),
            Param("maximize", "flag", False),
        ),
    ),
}
"""Lower-case name -> optimizer. L-BFGS is missing: it calls the loss several times a step."""


SCHEDULES: dict[str, ScheduleSpec] = {
    spec.name: spec
    for spec in (
        ScheduleSpec("constant", "The learning rate as it is.", {}),
        ScheduleSpec(
            "steps",
            "Multiplies the learning rate by `factor` after each of the epochs `at`.",
            _settings(
                Param("at", "numbers", REQUIRED, "epochs, counted from the start of the phase"),
                Param("factor", "number", 0.1, "what it is multiplied by", low=0),
            ),
        ),
        ScheduleSpec(
            "cosine",
            "Falls along half a cosine; with several cycles it starts anew in each.",
            _settings(
                Param("cycles", "integer", 1, "equal parts, each from the full rate down", low=1),
                Param("final", "number", 0.0, "share of the learning rate at the end of a cycle", low=0),
            ),
            total=True,
        ),
        ScheduleSpec(
            "polynomial",
            "Falls as (1 - progress) ** power.",
            _settings(
                Param("power", "number", 1.0, "1 is a straight line"),
                Param("final", "number", 0.0, "share of the learning rate at the end", low=0),
            ),
            total=True,
        ),
        ScheduleSpec(
            "linear",
            "Falls along a straight line.",
            _settings(Param("final", "number", 0.0, "share of the learning rate at the end", low=0)),
            total=True,
        ),
        ScheduleSpec(
            "plateau",
            "Multiplies the learning rate by `factor` when the training loss has stopped falling; "
            "ends the phase when it would be `until` or less.",
            _settings(
                Param("factor", "number", 0.1, "what it is multiplied by", low=0),
                Param("patience", "integer", 5, "epochs without progress before that", low=0),
                Param("until", "number", None, "learning rate at which the phase ends; left out: never"),
                Param("min_delta", "number", 1e-4, "relative fall of the loss that counts as progress", low=0),
                Param(
                    "smoothing", "number", 0.0, "share of the past in a moving mean of the loss; 0 is the loss itself"
                ),
            ),
            stateful=True,
        ),
    )
}
"""Name -> schedule. Linear warm-up is the recipe's setting `warmup`, and goes with each of them."""
