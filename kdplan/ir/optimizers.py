"""Names and settings of torch's optimizers and of the schedules, without torch.

A test holds the optimizers' table equal to the signatures in `torch.optim`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final


class _Required:
    def __repr__(self) -> str:
        return "required"


REQUIRED: Final = _Required()
"""The default of a setting that has none."""


@dataclass(frozen=True, slots=True)
class Setting:
    """One setting of something that a plan can name.

    `type` is one of `int`, `float`, `bool`, `text`, `classes`, `list[int]`, `list[float]`, choices `a | b`, or several
    of these with ` | ` between them. None as a default means that it may be left out.
    """

    name: str
    type: str
    default: Any = REQUIRED
    doc: str = ""

    @property
    def required(self) -> bool:
        return self.default is REQUIRED


@dataclass(frozen=True, slots=True)
class OptimizerSpec:
    """An optimizer: class `torch_name` of `torch.optim`, with the settings that change what it computes.

    Settings that only choose an implementation (`foreach`, `fused`, `capturable`) are the runtime's.
    """

    torch_name: str
    doc: str
    settings: dict[str, Setting]


@dataclass(frozen=True, slots=True)
class ScheduleSpec:
    """A schedule of the learning rate; `total` if it depends on the phase's length, `stateful` if on its losses."""

    name: str
    doc: str
    settings: dict[str, Setting]
    total: bool = False
    stateful: bool = False


def _settings(*rows: Setting) -> dict[str, Setting]:
    return {row.name: row for row in rows}


OPTIMIZERS: dict[str, OptimizerSpec] = {
    "asgd": OptimizerSpec(
        "ASGD",
        "Averaged SGD.",
        _settings(
            Setting("lr", "float", 0.01),
            Setting("lambd", "float", 0.0001),
            Setting("alpha", "float", 0.75),
            Setting("t0", "float", 1000000.0),
            Setting("weight_decay", "float", 0),
            Setting("maximize", "bool", False),
        ),
    ),
    "adadelta": OptimizerSpec(
        "Adadelta",
        "Adadelta.",
        _settings(
            Setting("lr", "float", 1.0),
            Setting("rho", "float", 0.9),
            Setting("eps", "float", 1e-06),
            Setting("weight_decay", "float", 0),
            Setting("maximize", "bool", False),
        ),
    ),
    "adafactor": OptimizerSpec(
        "Adafactor",
        "Adafactor.",
        _settings(
            Setting("lr", "float", 0.01),
            Setting("beta2_decay", "float", -0.8),
            Setting("eps", "list[float]", (None, 0.001)),
            Setting("d", "float", 1.0),
            Setting("weight_decay", "float", 0.0),
            Setting("maximize", "bool", False),
        ),
    ),
    "adagrad": OptimizerSpec(
        "Adagrad",
        "Adagrad.",
        _settings(
            Setting("lr", "float", 0.01),
            Setting("lr_decay", "float", 0),
            Setting("weight_decay", "float", 0),
            Setting("initial_accumulator_value", "float", 0),
            Setting("eps", "float", 1e-10),
            Setting("maximize", "bool", False),
        ),
    ),
    "adam": OptimizerSpec(
        "Adam",
        "Adam.",
        _settings(
            Setting("lr", "float", 0.001),
            Setting("betas", "list[float]", (0.9, 0.999)),
            Setting("eps", "float", 1e-08),
            Setting("weight_decay", "float", 0),
            Setting("amsgrad", "bool", False),
            Setting("maximize", "bool", False),
            Setting("decoupled_weight_decay", "bool", False),
        ),
    ),
    "adamw": OptimizerSpec(
        "AdamW",
        "Adam with decoupled weight decay.",
        _settings(
            Setting("lr", "float", 0.001),
            Setting("betas", "list[float]", (0.9, 0.999)),
            Setting("eps", "float", 1e-08),
            Setting("weight_decay", "float", 0.01),
            Setting("amsgrad", "bool", False),
            Setting("maximize", "bool", False),
        ),
    ),
    "adamax": OptimizerSpec(
        "Adamax",
        "Adam with the infinity norm.",
        _settings(
            Setting("lr", "float", 0.002),
            Setting("betas", "list[float]", (0.9, 0.999)),
            Setting("eps", "float", 1e-08),
            Setting("weight_decay", "float", 0),
            Setting("maximize", "bool", False),
        ),
    ),
    "muon": OptimizerSpec(
        "Muon",
        "Muon, for matrices only.",
        _settings(
            Setting("lr", "float", 0.001),
            Setting("weight_decay", "float", 0.1),
            Setting("momentum", "float", 0.95),
            Setting("nesterov", "bool", True),
            Setting("ns_coefficients", "list[float]", (3.4445, -4.775, 2.0315)),
            Setting("eps", "float", 1e-07),
            Setting("ns_steps", "int", 5),
            Setting("adjust_lr_fn", "text", None),
        ),
    ),
    "nadam": OptimizerSpec(
        "NAdam",
        "Adam with Nesterov momentum.",
        _settings(
            Setting("lr", "float", 0.002),
            Setting("betas", "list[float]", (0.9, 0.999)),
            Setting("eps", "float", 1e-08),
            Setting("weight_decay", "float", 0),
            Setting("momentum_decay", "float", 0.004),
            Setting("decoupled_weight_decay", "bool", False),
            Setting("maximize", "bool", False),
        ),
    ),
    "radam": OptimizerSpec(
        "RAdam",
        "Rectified Adam.",
        _settings(
            Setting("lr", "float", 0.001),
            Setting("betas", "list[float]", (0.9, 0.999)),
            Setting("eps", "float", 1e-08),
            Setting("weight_decay", "float", 0),
            Setting("decoupled_weight_decay", "bool", False),
            Setting("maximize", "bool", False),
        ),
    ),
    "rmsprop": OptimizerSpec(
        "RMSprop",
        "RMSprop.",
        _settings(
            Setting("lr", "float", 0.01),
            Setting("alpha", "float", 0.99),
            Setting("eps", "float", 1e-08),
            Setting("weight_decay", "float", 0),
            Setting("momentum", "float", 0),
            Setting("centered", "bool", False),
            Setting("maximize", "bool", False),
        ),
    ),
    "rprop": OptimizerSpec(
        "Rprop",
        "Resilient propagation, for full batches.",
        _settings(
            Setting("lr", "float", 0.01),
            Setting("etas", "list[float]", (0.5, 1.2)),
            Setting("step_sizes", "list[float]", (1e-06, 50)),
            Setting("maximize", "bool", False),
        ),
    ),
    "sgd": OptimizerSpec(
        "SGD",
        "Stochastic gradient descent, with momentum on request.",
        _settings(
            Setting("lr", "float", 0.001),
            Setting("momentum", "float", 0),
            Setting("dampening", "float", 0),
            Setting("weight_decay", "float", 0),
            Setting("nesterov", "bool", False),
            Setting("maximize", "bool", False),
        ),
    ),
    "sparseadam": OptimizerSpec(
        "SparseAdam",
        "Adam for sparse gradients.",
        _settings(
            Setting("lr", "float", 0.001),
            Setting("betas", "list[float]", (0.9, 0.999)),
            Setting("eps", "float", 1e-08),
            Setting("maximize", "bool", False),
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
                Setting("at", "list[float]", REQUIRED, "epochs, counted from the start of the phase"),
                Setting("factor", "float", 0.1, "what it is multiplied by"),
            ),
        ),
        ScheduleSpec(
            "cosine",
            "Falls along half a cosine; with several cycles it starts anew in each.",
            _settings(
                Setting("cycles", "int", 1, "equal parts, each from the full rate down"),
                Setting("final", "float", 0.0, "share of the learning rate at the end of a cycle"),
            ),
            total=True,
        ),
        ScheduleSpec(
            "polynomial",
            "Falls as (1 - progress) ** power.",
            _settings(
                Setting("power", "float", 1.0, "1 is a straight line"),
                Setting("final", "float", 0.0, "share of the learning rate at the end"),
            ),
            total=True,
        ),
        ScheduleSpec(
            "linear",
            "Falls along a straight line.",
            _settings(Setting("final", "float", 0.0, "share of the learning rate at the end")),
            total=True,
        ),
        ScheduleSpec(
            "plateau",
            "Multiplies the learning rate by `factor` when the training loss has stopped falling; "
            "ends the phase when it would be `until` or less.",
            _settings(
                Setting("factor", "float", 0.1, "what it is multiplied by"),
                Setting("patience", "int", 5, "epochs without progress before that"),
                Setting("until", "float", None, "learning rate at which the phase ends; left out: never"),
                Setting("min_delta", "float", 1e-4, "relative fall of the loss that counts as progress"),
                Setting(
                    "smoothing", "float", 0.0, "share of the past in a moving mean of the loss; 0 is the loss itself"
                ),
            ),
            stateful=True,
        ),
    )
}
"""Name -> schedule. Linear warm-up is the recipe's setting `warmup`, and goes with each of them."""
