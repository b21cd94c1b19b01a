"""Which weights a phase keeps besides the last: one rule for those who read them and for the loop that writes them."""

from __future__ import annotations

from kdplan.ir.plan import Phase, Recipe


def kept_epochs(recipe: Recipe) -> dict[int, list[str]]:
    """Epoch (from 1) -> names of the snapshots that are kept at its end: those asked for, and the ends of cycles.

    >>> from kdplan.ir.plan import Item
    >>> kept_epochs(Recipe(Item("sgd"), Item("cosine", {"cycles": 2}), epochs=6, keep_epochs=[1]))
    {1: ['epoch=1'], 3: ['cycle=1'], 6: ['cycle=2']}
    """
    names: dict[int, list[str]] = {}
    for epoch in recipe.keep_epochs:
        names.setdefault(epoch, []).append(f"epoch={epoch}")
    cycles = int(recipe.schedule.arguments.get("cycles", 1))
    if cycles > 1 and recipe.epochs:
        for cycle in range(1, cycles + 1):
            end = round(recipe.epochs * cycle / cycles)
            if end > 0:  # more cycles than epochs: the first ones end before an epoch does
                names.setdefault(end, []).append(f"cycle={cycle}")
    return {epoch: list(dict.fromkeys(several)) for epoch, several in names.items()}


def kept(phase: Phase, slot: int) -> set[str]:
    """The snapshots that a phase keeps of the network that it knows by this number.

    EMA copies come after the trainees; the recipe's own average, `ema`, is of trainees only.

    >>> from kdplan.ir.expr import Const, Version
    >>> from kdplan.ir.plan import Item, Trainee
    >>> recipe = Recipe(Item("sgd"), epochs=6, keep_epochs=[1], ema=0.9)
    >>> phase = Phase("p", [Trainee(Version("small"))], [], [recipe], Const(0))
    >>> sorted(kept(phase, 0)), sorted(kept(phase, 1))
    (['ema', 'epoch=1', 'last'], ['epoch=1', 'last'])
    """
    recipe = phase.recipes[0]  # epochs are those of the phase, and so is what it keeps
    names = {"last"} | {name for several in kept_epochs(recipe).values() for name in several}
    if phase.validations:
        names.add("best")
    if recipe.ema is not None and slot < len(phase.trainees):
        names.add("ema")
    return names
