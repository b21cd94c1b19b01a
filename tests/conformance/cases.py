"""The table of cases: every network and loss below `modules`, and what kdplan makes of it."""

from __future__ import annotations

import re
from typing import Any

from torch import Tensor, nn
from torch.nn import functional as F

from tests.conformance.phases import MODULES, Case

PARTS = {"Base", "Part", "Running", "Symmetric", "Standardised", "Inner", "Halves", "OwnNorm", "Normed", "Sign",
         "Reverse", "Own", "Mapping", "Output", "Center", "Centering", "Holder",
         "Config"}  # fmt: skip
"""Classes of the files that are parts of others."""
HELPERS = {"update", "gated", "scripted_mean", "positions"}
"""Functions of the files that are no losses."""

LEAVES = {
    "state": "CenterWider CenterData CenterInBuffers CenterLazy CenterOfNone CenterAsAttribute FrozenParameter "
             "BankWithPointer Warmup EmaTeacher History Ticking Growing WholeState",
    "extra": "Ticking InPart",
    "draws": "DepthByTorchNumber DepthByRandom DepthByNumpy DepthBySampledLayer Variational Categorical MixUp "
             "OwnGenerator Shuffled Forked",
    "control": "IfMean IfAny Item ItemAsIndex ToList ToNumpy FromNumpy Formatted Printed Masked MaskedRows NonZero "
               "InferenceMode WhereOne Unique Expert WhileLoop RangeOfValue RandomCrop Asserted InnerGradient",
    "asking": "HookUnasked HookOnOutput HookPostAccumulate Retains Energy EnergyOnce Jacobian Functional Adversarial "
              "KeptInDict KeptInList KeptInQueue KeptInNamespace KeptInObject",
    "kept": "LazySnapshot LazyByName CachedProperty CachedMethod ArrayBesideDataclass MomentumByData MomentumInPlace "
            "MomentumByState Clipped",
    "layers": "Autocast AutocastOff AutocastMethod",
    "structure": "HookThatStores TensorHook StraightThrough GradientReversal Checkpointed CheckpointedReentrant "
                 "ScriptedFunction FunctionalCall PerSample FrozenInForward",
}  # fmt: skip
"""Networks that are called whole, or of which a part is."""

REFUSED = {
    "control": {"ShapeOfValue": "KD0508"},
    "structure": {"NeverUsed": "KD0601", "ScriptedPart": "KD0507", "Lazy": "KD0507"},
    "losses": {name: "KD0506" for name in ("read_number", "if_value", "masked", "numpy_values")}
    | {"python_number": "KD0602"},
}
"""What `check` refuses, with the code."""

NOT_RESUMED = {
    "kept": {"LazySnapshot", "LazyByName", "CachedProperty", "CachedMethod"},
    "asking": {"HookPostAccumulate", "KeptInDict", "KeptInList", "KeptInQueue", "KeptInNamespace", "KeptInObject"},
    "state": {"History", "Ticking", "CenterAsAttribute"},
    "draws": {"OwnGenerator"},
}
"""State that is in no buffer: `check` warns that a resumed run starts without it."""


def _distance(nets: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    z = nets[0](x)
    loss: Tensor = F.cross_entropy(z, y) + nets[1](z).mean()
    return loss


def _centred(nets: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(nets[1](nets[0](x)), y)


def _twice(nets: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    return F.cross_entropy(nets[0](x), y) + F.mse_loss(nets[0](x), nets[0](x))


def _once(nets: list[nn.Module], x: Tensor, y: Tensor) -> Tensor:
    """Equal calls of a network that draws nothing are one call."""
    z = nets[0](x)
    return F.cross_entropy(z, y) + F.mse_loss(z, z)


TWICE = "cross_entropy(NET(inputs).logits, labels) + mse(NET(inputs).logits, NET(inputs).logits)"
SETTINGS: dict[tuple[str, str], dict[str, Any]] = {
    ("state", "EmaTeacher"): {"of": "NET.body, NET.head"},
    ("state", "FrozenParameter"): {"of": "NET.body, NET.head"},
}
"""What a phase needs besides its network."""

MORE = [
    Case("losses", "distance", other="Center", plain=_distance,
         loss="cross_entropy(NET.logits, labels) + mean(OTHER(NET.logits))"),
    Case("losses", "centred", other="Centering", plain=_centred, loss="cross_entropy(OTHER(NET.logits), labels)"),
    Case("draws", "DropoutFunctional", label="twice", loss=TWICE, plain=_twice),
    Case("layers", "Normed", label="twice", loss=TWICE, plain=_once),
    Case("state", "CenterRebound", label="twice", loss=TWICE, plain=_once),
    Case("state", "Codebook", label="bf16", precision="bf16"),
    Case("layers", "AutocastOff", "leaf", label="bf16", precision="bf16"),
    Case("layers", "Normed", label="bf16", precision="bf16"),
    Case("structure", "Checkpointed", "leaf", label="bf16", precision="bf16"),
    Case("structure", "Part", label="part", of="NET.part"),
]  # fmt: skip
"""Networks with other losses, applied twice, in half precision, or trained in part."""


def cases() -> list[Case]:
    """All of them."""
    listed: list[Case] = []
    for path in sorted(MODULES.glob("*.py")):
        text = path.read_text(encoding="utf-8")
        names = re.findall(r"^class (\w+)", text, re.M)
        names += re.findall(r"^def (\w+)", text, re.M) if path.stem == "losses" else []
        for name in names:
            if name in PARTS | HELPERS:
                continue
            leaf = name in LEAVES.get(path.stem, "").split()
            outcome = REFUSED.get(path.stem, {}).get(name, "leaf" if leaf else "traced")
            resumed = name not in NOT_RESUMED.get(path.stem, ())
            listed.append(Case(path.stem, name, outcome, resumed, **SETTINGS.get((path.stem, name), {})))
    return [*listed, *MORE]
