"""Settings that ask for what a device does not have."""

from __future__ import annotations

import torch

from kdplan.diagnostics.report import Diagnostic, diagnostic
from kdplan.ir.plan import Recipe

AMPERE = 8
"""The first compute capability with TF32."""


def without_effect(phase: str, recipe: Recipe, device: torch.device) -> list[Diagnostic]:
    """KD1020 for each setting of a recipe that has no effect on a device.

    >>> from kdplan.ir.plan import Item
    >>> [d.message for d in without_effect("p", Recipe(Item("sgd"), precision="tf32"), torch.device("cpu"))]
    ['Phase `p` runs on cpu, where `precision = tf32` has no effect: it computes in fp32.']
    """
    gpu = device.type == "cuda"
    rounds = gpu and torch.cuda.get_device_capability(device)[0] >= AMPERE
    asked = {
        "compile = graphs": (recipe.compile == "graphs" and not gpu, "it runs step by step"),
        "precision = tf32": (recipe.precision == "tf32" and not rounds, "it computes in fp32"),
        "frozen_precision = tf32": (recipe.frozen_precision == "tf32" and not rounds, "it computes in fp32"),
    }
    return [
        diagnostic("KD1020", recipe.span, phase=phase, device=device.type, setting=setting, instead=instead)
        for setting, (lost, instead) in asked.items()
        if lost
    ]
