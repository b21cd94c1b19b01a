"""How a phase's images and maps lie in memory, where its recipe leaves that open.

The layout changes how sums are rounded, so it is part of the key. Whatever decides it must therefore give the same on
every machine: a measurement would not, and two machines with one store would train one phase twice. So the decision is
a rule on the plan, and `tests/bench/bench_training.py layout` shows that it holds.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Literal

from kdplan.ir.adapted import ADAPTED
from kdplan.ir.heads import HEADED, base_of
from kdplan.ir.plan import Item, Phase, Plan, Recipe
from kdplan.ir.versions import versions_of

FASTER = frozenset({"cifar_resnet", "cifar_wide_resnet", "cifar_resnext", "cifar_vgg", "cifar_densenet"})
"""Networks that train faster with channels last; see docs/results.md."""
LINEAR = frozenset({"mlp", "linear", "conv1x1", "autoencoder"})
"""Networks to which the layout does not matter."""


def layout(plan: Plan, phase: Phase, recipe: Recipe) -> Literal["contiguous", "channels_last"]:
    """The layout of a phase with this recipe.

    `auto` is channels last where every network of the phase is in `FASTER` or `LINEAR`, one of them in `FASTER`, and
    neither a network nor the loss is the user's code: that may ask for views that only one layout has.

    Examples
    --------
    >>> from kdplan.ir.expr import Const, Version
    >>> from kdplan.ir.plan import Network, Trainee
    >>> plan = Plan(networks={"a": Network("a", Item("cifar_resnet")), "b": Network("b", Item("digits_net"))})
    >>> one, both = (Phase("p", [Trainee(Version(n)) for n in ns], [], [], Const(0)) for ns in ("a", "ab"))
    >>> layout(plan, one, Recipe(Item("sgd"))), layout(plan, both, Recipe(Item("sgd")))
    ('channels_last', 'contiguous')
    >>> layout(plan, both, Recipe(Item("sgd"), layout="channels_last"))
    'channels_last'
    """
    if recipe.layout != "auto":
        return recipe.layout
    names = {t.base.network for t in phase.trainees} | {v.network for v in versions_of(phase)}
    networks = [plan.networks[name] for name in names]
    if phase.code or any(n.code or n.codes for n in networks):
        return "contiguous"
    kinds = {_kind(n.architecture) for n in networks}
    return "channels_last" if kinds <= FASTER | LINEAR and kinds & FASTER else "contiguous"


def _kind(architecture: Item) -> str:
    """The name of an architecture, without what stands behind its layers."""
    while architecture.name in (HEADED, ADAPTED):
        if architecture.name == HEADED:
            architecture = base_of(architecture)
        else:
            name, arguments = architecture.arguments["base"]
            architecture = Item(name, dict(arguments))
    return architecture.name


def with_layouts(plan: Plan, phase: Phase) -> list[Recipe]:
    """The recipes of a phase, as its training takes them: none leaves the layout open."""
    return [replace(r, layout=layout(plan, phase, r)) for r in phase.recipes]
