"""Calls of networks that may draw random numbers: which of them share a draw."""

from __future__ import annotations

from itertools import groupby

from kdplan.ir import expr as ir
from kdplan.ir.outputs import is_scores
from kdplan.ir.plan import Phase


def number_draws(phase: Phase) -> None:
    """Replace the number of the call that reads a tap, in all taps of a phase, by the number of a draw.

    Before, a tap's `call` counts the calls of the plan from 1, and is 0 where the tap stands in no call. Each call
    joins the first draw in which no other call on equal inputs reads a value that it reads. All values of one call are
    of one draw.

    Parameters
    ----------
    phase : Phase
        A phase as it was resolved; its taps are changed.

    Examples
    --------
    >>> from kdplan.ir.plan import Item, Recipe
    >>> def tap(path, call):
    ...     return ir.Tap(ir.InTraining(0), [ir.StreamField(0, "inputs")], path, call=call)
    >>> values = [tap("logits", 1), tap("layer1", 2), tap("logits", 2), tap("layer1", 3)]
    >>> number_draws(Phase("p", [], [], [Recipe(Item("sgd"))], ir.Call("sum", values)))
    >>> [v.call for v in values]
    [0, 1, 1, 0]
    """
    nodes = [e for root in (phase.loss, *phase.logged.values()) for e in ir.walk(root)]
    taps = [*{id(e): e for e in nodes if isinstance(e, ir.Tap) and e.call}.values()]
    depths = {id(e): sum(id(i) != id(e) and isinstance(i, ir.Tap) for i in ir.walk(e)) for e in taps}
    for _, level in groupby(sorted(taps, key=lambda e: depths[id(e)]), key=lambda e: depths[id(e)]):
        _number(list(level))


def _number(taps: list[ir.Tap]) -> None:
    """Number taps of which none stands in the inputs of another."""
    reads: dict[tuple[str, int], set[str]] = {}
    for e in taps:
        reads.setdefault((applied(e), e.call), set()).add(value_read(e))
    draws: dict[str, list[set[str]]] = {}
    numbers: dict[tuple[str, int], int] = {}
    for at, values in reads.items():
        of_these = draws.setdefault(at[0], [])
        number = next((i for i, others in enumerate(of_these) if not others & values), len(of_these))
        of_these.extend([set()] * (number == len(of_these)))
        of_these[number] = of_these[number] | values
        numbers[at] = number
    new = [numbers[applied(e), e.call] for e in taps]
    for e, number in zip(taps, new, strict=True):
        e.call = number


def applied(e: ir.Tap) -> str:
    """What a tap's call applies, and to what: equal for calls that may share a draw."""
    entered = f"{e.since} {e.path}" if e.since else ""
    return f"{e.of} {e.submodule} {entered} {e.inputs}"


def value_read(e: ir.Tap) -> str:
    """A tap's path, with one word for what a network gives: its probabilities are a function of its logits."""
    head, _, last = e.path.rpartition(".")
    return head if is_scores(last) else e.path
